#!/usr/bin/env bash
# The chain without faults, and one fault: which, changes from commit to commit.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cases=("kill distill" "usr1 distill" "corrupt distill" "cancel distill" "node distill" "disk distill"
  "kill uptrain" "usr1 uptrain" "corrupt uptrain" "cancel score" "kill score" "rank distill")
commits=$(git rev-list --count HEAD 2>/dev/null || date +%j)
./chain.sh && ./faults.sh ${cases[$((10#$commits % ${#cases[@]}))]}
