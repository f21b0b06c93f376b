#!/usr/bin/env bash
# tests/layering.sh [ROOT]
# Includes point only down: kernels < blocks < {distill, puzzle, serve} < nas, and the three in the middle never include
# each other. No file is called utils, and no left-over mark stands in a source. Prints every offending line.
set -euo pipefail
cd "${1:-"$(dirname "${BASH_SOURCE[0]}")/.."}"

failed=0
report() { # report TITLE LINES
  [ -n "$2" ] || return 0
  printf '%s:\n%s\n' "$1" "$2"
  failed=1
}

forbid() { # forbid FOLDER FOLDERS: no file of FOLDER includes one of FOLDERS
  [ -d "$1" ] || return 0
  report "$1/ must not include $2" "$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($2)/" "$1" || true)"
}
forbid kernels 'blocks|distill|puzzle|serve|nas|tests'
forbid blocks 'distill|puzzle|serve|nas|tests'
forbid distill 'puzzle|serve|nas|tests'
forbid puzzle 'distill|serve|nas|tests'
forbid serve 'distill|puzzle|nas|tests'
forbid nas 'tests'

folders=()
for folder in kernels blocks distill puzzle serve nas configs jobs tests .ci; do
  [ ! -d "$folder" ] || folders+=("$folder")
done
report 'an include that leaves its folder by ".."' \
  "$(grep -rnE '#[[:space:]]*include[[:space:]]*"[^"]*\.\./' "${folders[@]}" --include='*.h' --include='*.c*' || true)"
report 'name a file after what is in it' "$(find "${folders[@]}" -iname 'util*')"
report 'left-over marks' "$(grep -rnwE 'TOD[O]|FIXM[E]|XX[X]|HAC[K]' "${folders[@]}" --include='*.h' --include='*.c*' \
  --include='*.sh' --include='*.yaml' --include='*.txt' --include='run' || true)"

exit "$failed"
