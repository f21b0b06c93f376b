#!/usr/bin/env bash
# faults.sh CASE [STAGE]
# A chain of jobs on 3 nodes to which something happens in STAGE (distill), and that ends with the results of one
# process to which nothing happened. Prints how many steps were done twice. Cases:
#   kill      kill -9 of one process: the job begins again by itself
#   cancel    scancel of all jobs, then tangram submit again
#   usr1      SIGUSR1 to the job's shell, as before a time limit: the work is kept, the job goes back into the queue
#   rank      SIGUSR1 to one process, not the leader: the same
#   node      a node goes down: Slurm gives the job others when it is back
#   disk      the run directory's disk is full: the chain ends; with space again, tangram submit goes on
#   corrupt   the newest checkpoint is damaged while no job runs: the one before it takes its place
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

case=${1:?CASE: kill, cancel, usr1, rank, node, disk or corrupt}
stage=${2:-distill}
trains=  # whether the stage has steps and checkpoints of its own
[[ $stage != distill && $stage != uptrain ]] || trains=1
[ -z "$trains" ] || settings=(--set "$stage.tokens=81920")  # time for something to happen

has_begun() { grep -qs "^$stage: not run yet" "$run"/logs/*.log; }
wait_for_stage() { # CHECKPOINTS, of which the oldest is to be found again
  if [ -n "$trains" ]; then
    wait_for_checkpoint "$stage" "$1"
    kept=$(checkpoints "$stage" | tail -n "$1" | head -n 1)
  else
    wait_until "begin of $stage" has_begun
  fi
}

log_of_stage() { # of all its jobs, in their order
  local file
  for file in $(ls -v "$run/logs"); do
    [[ $file != tangram-$stage-* ]] || cat "$run/logs/$file"
  done
}

# The processes of this run's stage; launchers have the same words in their command line.
processes() {
  local pid
  for pid in $(pgrep -f -- "tangram $stage .*$run"); do
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != tangram ] || echo "$pid"
  done
}

# Steps that were done twice: what the log said before it says "goes on after step".
print_lost_steps() {
  log_of_stage | awk -v tokens=2048 '
    function number(text) {
      unit = substr(text, length(text))
      return unit == "k" ? 1000 * text : unit == "M" ? 1e6 * text : text + 0
    }
    / of [0-9.kM]+ tokens/ { split($0, part, /, | of /); step = int(number(part[2]) / tokens + 0.5) }
    /goes on after step/ {
      sub(/.*goes on after step /, ""); from = $1 + 0
      lost = step > from ? step - from : 0
      printf("lost: %d steps (was at step %d or a little later, went on after step %d)\n", lost, step, from)
      resumed = 1
    }
    END { if (!resumed) print "lost: all steps, or none: it was not begun again" }'
}

# The last start went on after a step that was kept before the fault, or a later one.
expect_resumed() {
  local from
  from=$(log_of_stage | sed -n 's/.*goes on after step \([0-9]*\) of.*/\1/p' | tail -n 1)
  [ "${from:-0}" -ge "$kept" ] || fail "$stage went on after step ${from:-0}, and step $kept was kept"
}

expect_log() { log_of_stage | grep -q -- "$1" || fail "no '$1' in the log of $stage"; }

begin_test "fault $case in $stage"
mkdir -p "$run"
case $case in disk) mount -t tmpfs -o size=64m none "$run" || { echo "skipped: no tmpfs may be mounted here"; exit 0; } ;; esac
submit >/dev/null
started=$SECONDS

case $case in
kill)
  wait_for_stage 1
  victim=$(processes | tail -n 1)
  kill -KILL "$victim" || fail "no process of $stage to kill"
  wait_for_chain
  expect_log "back into the queue"
  ;;
cancel)
  wait_for_stage 1
  scancel $(all_jobs)
  wait_for_chain
  expect_log "cancelled (SIGTERM)"
  "$tangram" status "$run"
  submit >/dev/null
  wait_for_chain
  ;;
usr1 | rank)
  wait_for_stage 1
  if [ "$case" = usr1 ]; then
    scancel --batch --signal=USR1 "$(job_of "$stage")"
  else
    kill -USR1 "$(processes | tail -n 1)" || fail "no process of $stage to signal"
  fi
  wait_for_chain
  if [ -n "$trains" ]; then # others may be over before they come to a place where they can stop
    expect_log "interrupted"
    expect_log "has kept its work; back into the queue"
  fi
  ;;
node)
  wait_for_stage 1
  node=$(scontrol show hostnames "$(squeue -h -j "$(job_of "$stage")" -o %N)" | tail -n 1)
  scontrol update NodeName="$node" State=DOWN Reason=test
  sleep 2
  scontrol update NodeName="$node" State=RESUME 2>/dev/null  # unless it has come back by itself
  wait_for_chain
  ;;
disk)
  wait_for_stage 1
  head -c 64M /dev/zero >"$run/ballast" 2>/dev/null
  wait_for_chain
  rm "$run/ballast"
  expect_log "No space left on device"
  expect_log "the chain ends here"
  submit >/dev/null
  wait_for_chain
  ;;
corrupt)
  wait_for_stage 2
  scancel $(all_jobs)
  wait_for_chain
  steps=$(checkpoints "$stage" | tail -n 1)
  part=$(find "$run/work/$stage" -path "*/step-$steps/part-0.safetensors")
  printf 'x' | dd of="$part" bs=1 seek=$(($(stat -c %s "$part") / 2)) conv=notrunc status=none
  submit >/dev/null
  wait_for_chain
  expect_log "takes its place"
  ;;
*) echo "no case '$case'"; exit 2 ;;
esac

echo "fault $case in $stage: the chain took $((SECONDS - started)) s"
if [ -n "$trains" ]; then
  print_lost_steps
  expect_resumed
fi
expect_same_results
expect_nothing_repeated
