#!/usr/bin/env bash
# Exports models as GGUF and compares the logits of three programs: Tangram, a reader in f64 (gguf_logits.py), and
# llama.cpp, where LLAMA_CPP names its sources and LLAMA_CPP_BUILD a folder with libllama.so. Prints one line a model.
#
#   tests/reference/gguf.sh TOKENS.safetensors MODEL_FOLDER...
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tangram=${TANGRAM:-$here/../../build/tangram}
python=${PYTHON:-/usr/bin/python3}
tokens=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -n "${LLAMA_CPP:-}" ]; then
  lib=$LLAMA_CPP_BUILD
  g++ -std=c++17 -O1 "$here/llama_cpp_logits.cpp" -I"$LLAMA_CPP/include" -I"$LLAMA_CPP/ggml/include" -L"$lib" \
    -lllama -lggml -lggml-base -Wl,-rpath,"$lib" -Wl,-rpath-link,"$lib" -o "$work/llama_cpp_logits"
  ids=$("$python" -c "
import sys
sys.path.insert(0, '$here')
import gguf_logits, numpy
rows = numpy.atleast_2d(gguf_logits.read_safetensors('$tokens')['input_ids'])
print(' , '.join(' '.join(map(str, row)) for row in rows))")
fi

failed=0
for model in "$@"; do
  for format in gguf gguf_q8_0; do
    file=$work/$(basename "$model").$format.gguf
    "$tangram" export "$model" --format $format --out "$file" --quiet
    "$tangram" logits "$file" --tokens "$tokens" --output "$work/logits.safetensors" --dtype f32 --quiet >/dev/null
    echo -n "Tangram    " && "$python" "$here/gguf_logits.py" "$file" "$tokens" "$work/logits.safetensors" || failed=1
    [ -z "${LLAMA_CPP:-}" ] && continue
    # With 8-bit weights llama.cpp rounds activations to 8 bits, too.
    limit=$([ $format = gguf ] && echo 1e-5 || echo 0.05)
    # shellcheck disable=SC2086
    "$work/llama_cpp_logits" "$file" "$work/logits.f32" $ids
    echo -n "llama.cpp  " && "$python" "$here/gguf_logits.py" "$file" "$tokens" "$work/logits.f32" $limit || failed=1
  done
done
exit $failed
