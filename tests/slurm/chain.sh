#!/usr/bin/env bash
# `tangram submit` on 3 nodes, without faults: the results are those of one process, byte for byte.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

begin_test chain
submit
start=$SECONDS
wait_for_chain
echo "the chain took $((SECONDS - start)) s"
"$tangram" status "$run"
expect_same_results
expect_nothing_repeated
