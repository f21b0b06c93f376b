#!/usr/bin/env bash
# Every C++ and CUDA source is as clang-format 14 writes it. Exit code 77, a skip, where that is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v clang-format-14 >/dev/null || { echo "clang-format-14 is not installed"; exit 77; }
folders=()
for folder in kernels blocks distill puzzle serve nas tests; do
  [ ! -d "$folder" ] || folders+=("$folder")
done
find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r clang-format-14 --dry-run --Werror
