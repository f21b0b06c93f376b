#!/usr/bin/env bash
# tests/fuzz/run.sh [TARGET...]
# Builds the fuzzers with clang, AddressSanitizer and UndefinedBehaviorSanitizer, and runs each for 30 seconds
# (TANGRAM_FUZZ_SECONDS) from its seeds, two at a time, with the random numbers of TANGRAM_FUZZ_SEED (1). Exit code 1
# where one finds something: its output ends with the input, which is kept in build-fuzz/found/. Exit code 77 with the
# reason where clang is missing and may not be installed. New paths are kept in build-fuzz/corpus/<target> and start the
# next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${TANGRAM_FUZZ_SECONDS:-30}
if ! jobs/install.sh clang libclang-rt-14-dev libomp-dev; then
  echo 'skipped: clang is missing and cannot be installed'
  exit 77
fi

# What counts is how soon they are built; no warnings, which are GCC's to give.
cmake -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Fuzz \
  '-DCMAKE_CXX_FLAGS_FUZZ=-O1 -g1' -DTANGRAM_FUZZ=ON -DTANGRAM_SANITIZE=address,undefined -DTANGRAM_CUDA=OFF >/dev/null
cmake --build build-fuzz --target fuzzers

fuzz() { # fuzz TARGET
  local target=$1 found=build-fuzz/found corpus=build-fuzz/corpus/$1 log=build-fuzz/$1.log
  mkdir -p "$found" "$corpus"
  if OMP_NUM_THREADS=1 build-fuzz/fuzz_"$target" -seed="${TANGRAM_FUZZ_SEED:-1}" -max_total_time="$seconds" \
    -timeout=10 -rss_limit_mb=3000 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="$found/$target-" "$corpus" tests/fuzz/seeds/"$target" >"$log" 2>&1; then
    echo "fuzz_$target: $(sed -n 's/stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
  else
    tail -n 60 "$log"
    echo "fuzz_$target: FAILED; its inputs are in $found"
    return 1
  fi
}
export -f fuzz
export seconds

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cpp; do
    target=${source##*/fuzz_}
    targets+=("${target%.cpp}")
  done
fi
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz {}' || exit 1
