#!/usr/bin/env bash
# The chain without faults, and every fault; prints a line for each, and what failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
failed=()
check() { # NAME COMMAND...
  local start=$SECONDS name=$1
  shift
  echo "== $name"
  if "$@"; then echo "== $name: $((SECONDS - start)) s"; else failed+=("$name"); fi
}
check chain ./chain.sh
check "jobs by hand" ./hand.sh
check doctor ./doctor.sh
for stage in distill score uptrain; do
  cases=(kill cancel usr1 node disk)
  [ "$stage" = score ] || cases+=(corrupt)  # a stage that has such checkpoints
  [ "$stage" != distill ] || cases+=(rank)   # and one that runs on several processes
  for case in "${cases[@]}"; do check "$case in $stage" ./faults.sh "$case" "$stage"; done
done
[ ${#failed[@]} -eq 0 ] || { printf 'FAILED: %s\n' "${failed[@]}"; exit 1; }
echo "all passed"
