#!/usr/bin/env bash
# Exports irregular models as Hugging Face folders, as they are and padded, and runs them in transformers with the
# Python that the folders carry: logits, generation with and without a cache, positions beyond 8192. One line a model.
#
#   tests/reference/huggingface.sh [VERSION]...     # of transformers; 4.48.3 and 5.23.0 without one
#
# Each version gets a Python of its own from PyPI, kept in VENVS (build/venvs); PYTHON is what makes it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
tangram=${TANGRAM:-$root/build/tangram}
venvs=${VENVS:-$root/build/venvs}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 HF_MODULES_CACHE=$work/modules TOKENIZERS_PARALLELISM=false

python_with() {
  local venv=$venvs/transformers-$1
  if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install -q torch numpy "transformers==$1" --extra-index-url https://download.pytorch.org/whl/cpu >&2
  fi
  echo "$venv/bin/python"
}

# export_model MODEL TOKENS NAME [OPTION]... appends the exported folder, and its logits by Tangram, to $pairs.
export_model() {
  local model=$1 tokens=$2 name=$3
  shift 3
  "$tangram" export "$work/models/$model" --out "$work/export/$name" "$@" --quiet
  "$tangram" logits "$work/models/$model" --tokens "$tokens" --output "$work/$name.safetensors" --dtype f32 --quiet \
    >/dev/null
  pairs+=("$work/export/$name" "$work/$name.safetensors")
}

versions=("${@:-4.48.3}")
[ $# -gt 0 ] || versions+=(5.23.0)
mkdir "$work/export"
"$(python_with "${versions[0]}")" "$here/irregular_models.py" "$work/models"
pairs=()
for model in "$work"/models/model-*; do
  name=$(basename "$model")
  export_model "$name" "$work/models/tokens.safetensors" "$name"
  case $name in *[05]) export_model "$name" "$work/models/tokens.safetensors" "$name-padded" --pad ;; esac
done
short=("${pairs[@]}")
pairs=()
export_model long "$work/models/long.safetensors" long

failed=0
for version in "${versions[@]}"; do
  python=$(python_with "$version")
  "$python" "$here/huggingface.py" "$work/models/tokens.safetensors" "${short[@]}" || failed=1
  "$python" "$here/huggingface.py" "$work/models/long.safetensors" "${pairs[@]}" || failed=1
done
exit $failed
