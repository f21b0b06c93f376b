# For the tests in this folder, which source it: runs of configs/tiny.yaml as a chain of jobs on 3 virtual nodes, beside
# the same run in one process.
#   begin_test NAME          starts the cluster, or ends the test with a printed reason
#   submit                   the chain, in $run
#   wait_for_chain           until none of its jobs is in the queue
#   wait_for_checkpoint STAGE [COUNT]
#   expect_same_results      $run has the bytes of the run in one process
source "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tangram=$PWD/build/tangram
config=$PWD/configs/tiny.yaml
settings=()  # such as --set distill.tokens=81920
nodes=3
patience=300  # seconds for a chain

fail() {
  echo "FAILED: $*"
  [ ! -d "$run/logs" ] || tail -n 30 "$run"/logs/*.log
  exit 1
}

begin_test() { # NAME
  local reason
  reason=$(reason_to_skip)
  [ -z "$reason" ] || { echo "$1: skipped: $reason"; exit 0; }
  folder=$(mktemp -d "${TMPDIR:-/tmp}/tangram-slurm-XXXXXX")
  run=$folder/run
  trap end_test EXIT
  start_cluster "$nodes" "$folder/cluster" || exit 1
  cat >"$folder/site.yaml" <<SITE
partition: main
account: none
gpus: none
ranks_per_node: 1
cpus_per_rank: 1
time_limit: 30 min
launcher: srun --mpi=pmix
network_interface: lo
setup:
  - export OMPI_MCA_btl=self,tcp  # processes of two nodes on one machine share no memory
  - export OMP_WAIT_POLICY=passive TANGRAM_COMM_TIMEOUT=60
SITE
  export TANGRAM_SITE=$folder/site.yaml
}

end_test() {
  local code=$?
  scancel --user=root --signal=KILL --full 2>/dev/null
  scancel --user=root 2>/dev/null
  sleep 1
  stop_cluster
  ! mountpoint -q "$run" || umount "$run"
  [ -n "${KEEP:-}" ] && echo "kept: $folder" || rm -rf "$folder"
  exit "$code"
}

# The run in one process: kept for the tests that follow, as long as program, config and settings are the same.
reference() {
  local key
  key=$(cat "$tangram" "$config" <(echo "${settings[@]}") | sha256sum | cut -c 1-16)
  reference=${TANGRAM_TEST_REFERENCE:-${TMPDIR:-/tmp}}/tangram-slurm-reference-$key/run  # as deep as $run: paths are relative to it
  [ -e "$reference/report.txt" ] ||
    OMP_WAIT_POLICY=passive "$tangram" run "$config" "${settings[@]}" --run-dir "$reference" --quiet >/dev/null
}

submit() {
  "$tangram" submit "$config" "${settings[@]}" --nodes "$nodes" --run-dir "$run" || fail "tangram submit"
}

submitted() { awk -F'"' '$2 == "name" { name = $4 } $2 == "id" { print name, $4 }' "$run/jobs.json"; }
job_of() { submitted | sed -n "s/^$1 //p"; } # NAME of a job of the chain
all_jobs() { submitted | cut -d ' ' -f 2; }

wait_until() { # WHAT COMMAND...
  local what=$1 start=$SECONDS
  shift
  until "$@"; do
    [ $((SECONDS - start)) -lt "$patience" ] || fail "$what: has not happened within $patience s"
    sleep 0.2
  done
}

is_over() { [ -z "$(squeue -h -o %i)" ]; }
wait_for_chain() { wait_until "end of the chain" is_over; }

checkpoints() { # STAGE: steps of the whole ones, ascending
  find "$run/work/$1" -name manifest.json -path '*/step-*' 2>/dev/null | sed 's|.*/step-\([0-9]*\)/.*|\1|' | sort -n
}
has_checkpoints() { [ "$(checkpoints "$1" | wc -l)" -ge "$2" ] || [ -e "$run/stages/$1.json" ]; }
wait_for_checkpoint() { # STAGE [COUNT]
  wait_until "checkpoint of $1" has_checkpoints "$1" "${2:-1}"
  [ ! -e "$run/stages/$1.json" ] || fail "$1 was over before the fault; give it more tokens"
}

expect_same_results() {
  local differ
  reference
  differ=$(diff -rq --exclude=lock --exclude=jobs.json --exclude=logs "$reference" "$run") || fail "$differ"
  echo "all $(find "$reference" -type f | wc -l) files have the bytes of the run in one process"
}

# Every stage has ended once, however often it was begun.
expect_nothing_repeated() {
  local stage times
  for stage in prepare distill score measure search uptrain evaluate export report; do
    times=$(cat "$run"/logs/*.log | grep -c "^$stage: done in")
    [ "$times" -eq 1 ] || fail "$stage was done $times times"
  done
}
