#!/usr/bin/env bash
# Job scripts submitted by hand, started with mpirun: they work without `tangram submit`, and end with the exit code and
# the message of what they ran. Limits that cannot be met end a chain.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

begin_test "jobs by hand"
sed -i 's/^launcher: .*/launcher: mpirun/' "$folder/site.yaml"
cat >>"$folder/site.yaml" <<'SITE'
  - export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
SITE
unset TANGRAM_HOME

by_hand() { # NAME OF THE JOB, THEN OPTIONS OF sbatch -- OPTIONS OF tangram
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  sbatch --wait --output="$folder/$name.log" "${options[@]}" "jobs/$name.sbatch" "$config" --run-dir "$run" "$@" \
    >/dev/null
}

by_hand prepare -- || fail "prepare: $(cat "$folder/prepare.log")"
by_hand distill --nodes=3 --ntasks-per-node=1 -- || fail "distill: $(cat "$folder/distill.log")"
grep -q "3 ranks: 3 stages" "$folder/distill.log" || fail "distill did not run on 3 processes: $(cat "$folder/distill.log")"
by_hand score -- || fail "score: $(cat "$folder/score.log")"

by_hand search -- --set constraints.memory=1%
[ $? -eq 3 ] || fail "limits that cannot be met: no exit code 3: $(cat "$folder/search.log")"
grep -q "the least of any student is" "$folder/search.log" || fail "the log does not say which limit"
grep -q "search has failed with exit code 3; the chain ends here" "$folder/search.log" || fail "$(cat "$folder/search.log")"
by_hand search -- --set seed=-1
[ $? -eq 2 ] || fail "bad input: no exit code 2: $(cat "$folder/search.log")"

# The same limits in a chain: what comes behind the search does not run.
settings=(--set constraints.memory=1%)
submit >/dev/null
wait_for_chain
[ "$(scontrol -o show job "$(job_of uptrain)" | sed 's/.*JobState=\([A-Z]*\).*/\1/')" = CANCELLED ] ||
  fail "uptrain is not cancelled: $("$tangram" status "$run")"
[ ! -e "$run/stages/uptrain.json" ] || fail "uptrain has run behind a search without an answer"
settings=()
submit >/dev/null
wait_for_chain
expect_same_results
