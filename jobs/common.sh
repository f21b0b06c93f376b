# For the job scripts, which source it. Runs the stages of one job on all its processes:
#   run_stages STAGE... -- CONFIG [OPTIONS of tangram STAGE]
#
# What ends a stage                              exit code  what follows
# it is done, or was before                      0          the next stage, the next job
# the input is wrong, the limits cannot be met   2, 3       the chain ends; the log says why
# it was asked to stop, and has kept its work    75         the job goes back into the queue and goes on there
# a process was killed                           128 + n    the same, up to three times
# something failed                               others     the chain ends; the log says why
#
# Slurm signals this shell before the time limit (--signal=B:USR1). A signal kills no work: `tangram` gets it, writes a
# checkpoint and ends with 75. After scancel the job does not go back into the queue.

most_restarts=3

say() { echo "job ${SLURM_JOB_ID}: $*"; }

step=  # process id of the launcher that is at work
signals() {
  cancelled=
  trap 'say "asked to stop (SIGUSR1)"; [ -z "$step" ] || kill -USR1 "$step"' USR1
  # scancel signals the processes of srun's steps itself, and mpirun would kill its own without waiting.
  trap 'cancelled=1; say "cancelled (SIGTERM)"; [ -z "$step" ] || [ "${launcher[0]}" != mpirun ] || kill -USR1 "$step"' TERM
}

# Waits for the step to its end: a signal that is trapped interrupts `wait` earlier.
wait_for_step() {
  while true; do
    wait "$step" && code=0 || code=$?
    kill -0 "$step" 2>/dev/null || break
  done
  step=
}

# Back into the queue. Does not return: Slurm ends this shell, with a SIGTERM that is not to be waited for.
requeue() {
  say "$*; back into the queue"
  trap '' USR1
  trap - TERM
  scontrol requeue "$SLURM_JOB_ID" || exit "$code"
  sleep 60
  exit "$code"
}

# How often this job has been started again after a process was killed; kept where it outlives the job's shell.
killed_so_far() { scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Comment=killed \([0-9]*\)$/\1/p'; }

after_failure() {
  [ -z "$cancelled" ] || exit "$code"
  if [ "$code" -eq 75 ]; then
    requeue "$stage has kept its work"
  elif [ "$code" -ge 128 ]; then
    local count
    count=$(killed_so_far)
    count=$((${count:-0} + 1))
    [ "$count" -le "$most_restarts" ] || { say "$stage was killed $count times; the chain ends here"; exit "$code"; }
    scontrol update "JobId=$SLURM_JOB_ID" "Comment=killed $count"
    requeue "a process of $stage was killed (exit code $code; time $count of $most_restarts)"
  fi
  say "$stage has failed with exit code $code; the chain ends here"
  exit "$code"
}

run_stages() {
  local stages=()
  while [ "$1" != -- ]; do stages+=("$1"); shift; done
  shift
  [ $# -gt 0 ] || { echo "usage: sbatch [OPTIONS of sbatch] jobs/NAME.sbatch CONFIG [OPTIONS of tangram]"; exit 2; }

  local tangram=$TANGRAM_HOME/bin/tangram shell
  [ -x "$tangram" ] || tangram=$TANGRAM_HOME/build/tangram
  shell=$("$tangram" submit --shell "$1") || exit $?
  launcher=() inside=()
  eval "$shell"
  signals
  say "${stages[*]} on ${SLURM_NTASKS:-1} processes of $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1))"
  for stage in "${stages[@]}"; do
    [ -z "$cancelled" ] || exit 143
    "${launcher[@]}" "${inside[@]}" "$tangram" "$stage" "$@" &
    step=$!
    wait_for_step
    [ "$code" -eq 0 ] || after_failure
  done
}
