#!/usr/bin/env bash
# `tangram doctor` in a job on 3 nodes: finds nothing wrong, and finds a folder that the nodes do not share.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

begin_test doctor
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo
on_nodes() { srun --nodes=3 --ntasks=3 --wait=10 --mpi=pmix "$@"; }

on_nodes "$tangram" doctor --folder "$folder" || fail "something is wrong where nothing is"
on_nodes "$tangram" doctor --folder "$folder" --json | /usr/bin/python3 -c '
import json, sys
found = json.load(sys.stdin)
assert len(found["ranks"]) == 3 and [r["node"] for r in found["ranks"]] == ["n1", "n2", "n3"], found["ranks"]
assert len(found["links"]) == 2 and all(l["bytes_per_second"] > 1e6 for l in found["links"]), found["links"]
assert all(abs(skew) < 1 for skew in found["clock_skew_seconds"]), found
assert found["problems"] == [] and "libmpi" in found["mpi"], found' || fail "not what was asked for as JSON"

# Each process but the first gets a file system of its own there.
mkdir "$folder/private"
cat >"$folder/private.sh" <<PRIVATE
[ "\$SLURM_PROCID" = 0 ] || mount -t tmpfs none "$folder/private" || exit 9
exec "$tangram" doctor --folder "$folder/private"
PRIVATE
unshare --mount true || { echo "doctor: no private file systems here; that part is skipped"; exit 0; }
found=$(on_nodes unshare --mount bash "$folder/private.sh" 2>&1)
[ $? -eq 1 ] || fail "no exit code 1: $found"
[[ $found == *"ranks 1 2 do not see within"* ]] || fail "$found"

# Without MPI, processes do not find each other.
found=$(srun --nodes=3 --ntasks=3 --mpi=none "$tangram" doctor 2>&1) && fail "3 processes for themselves: $found"
echo "doctor: what is wrong is found"
