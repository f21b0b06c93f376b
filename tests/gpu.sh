#!/usr/bin/env bash
# tests/gpu.sh [--tests | --benchmarks] [--only NAME]... [--no-peers] [--no-sanitizer] [--minutes M] [--out DIR]
# Every CUDA test, then some of them under compute-sanitizer where that is installed, then every CUDA benchmark, the most
# important first; prints what passed and one table of what was measured. Works in an unpacked bundle and in a source tree
# with build/.
#
#   --only NAME    benchmarks called so: bld, kernels, memory, score, model, depth_first; repeat for more. Of another name
#                  rows that contain it: "decode attention"
#   --minutes M    for everything (default 25); what does not fit is stopped, and what it had measured counts
#   --out DIR      where the whole output of each program goes, as it is written, and summary.txt and table.md, which grow
#                  with each step (default: a new folder below /tmp): a script that is cut off has lost nothing
#
# Peers are the python3 that comes first on the PATH, if it has PyTorch, or what TANGRAM_PEERS names (colons between).
# depth_first writes to TMPDIR, up to 66 GB, less where less is free.
# Exit code: 0 all tests passed, or there is no GPU, which it says; 1 a test failed or was stopped, or a benchmark broke;
# 2 bad usage.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs='bld kernels memory score model depth_first'
declare -A limit=([bld]=240 [kernels]=150 [memory]=120 [score]=120 [model]=150 [depth_first]=300)  # seconds

tests=yes benchmarks=yes peers=yes sanitizer=yes rows= chosen= minutes=25 out=
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }
while [ $# -gt 0 ]; do
  case $1 in
    --tests) benchmarks=no ;;
    --benchmarks) tests=no sanitizer=no ;;
    --no-peers) peers=no ;;
    --no-sanitizer) sanitizer=no ;;
    --only | --minutes | --out)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      case $1 in
        --minutes) minutes=$2 ;;
        --out) out=$2 ;;
        --only) if [[ " $programs " = *" $2 "* ]]; then chosen+=" $2"; else rows=$2; fi ;;
      esac
      shift ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

bin=$PWD/build
[ -x bin/tangram ] && bin=$PWD/bin
[ -x "$bin/tangram" ] || { echo "no programs in $PWD/bin or $PWD/build: build first" >&2; exit 2; }
if ! "$bin/tangram" --version | grep -q ', sm_'; then
  echo "skipped: no GPU in this machine, or no driver that is new enough"
  exit 0
fi
out=${out:-$(mktemp -d /tmp/tangram-gpu-XXXXXX)}
mkdir -p "$out"
"$bin/tangram" --version | tee "$out/version.txt"
command -v nvidia-smi >/dev/null && nvidia-smi >"$out/nvidia-smi.txt" 2>&1
if [ "$peers" = no ]; then
  unset TANGRAM_PEERS
elif [ -z "${TANGRAM_PEERS:-}" ] &&
  python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then
  export TANGRAM_PEERS=python3
fi

deadline=$((SECONDS + minutes * 60))
failed=0
: >"$out/summary.txt"
# part NAME SECONDS COMMAND...: runs it within that time and what is left; its output goes to $out/NAME.{out,err}.
part() {
  local name=$1 seconds=$2 left=$((deadline - SECONDS)) start=$SECONDS code=0 verdict=ok
  shift 2
  [ "$seconds" -lt "$left" ] || seconds=$left
  : >"$out/$name.out" >"$out/$name.err"
  if [ "$seconds" -gt 0 ]; then
    timeout -k 10 "$seconds" "$@" >"$out/$name.out" 2>"$out/$name.err" </dev/null || code=$?
  else
    code=124
  fi
  case $code in
    0) ;;
    124 | 137)
      verdict="stopped: $seconds s were left for it"
      [[ $name = bench_* ]] || failed=1 ;;
    *) verdict="FAILED with code $code" failed=1 ;;
  esac
  printf '%-18s %4d s  %s\n' "$name" $((SECONDS - start)) "$verdict" | tee -a "$out/summary.txt"
}

# suite NAME: its tests in a process of their own, since nothing works in one any more behind a kernel that crashed.
suite() {
  local log=$out/test_cuda.${1//\//.}.log code=0
  timeout -k 10 120 "$bin/test_cuda" --gtest_filter="$1.*" >"$log" 2>&1 </dev/null || code=$?
  awk '/: Skipped$/ {getline reason}
       /^\[  SKIPPED \] .* ms\)$/ {print "SKIPPED " $4 ": " reason}
       /^\[  FAILED  \] .* ms\)$/ {print "FAILED " $4}' "$log"
  echo "$1: $(grep -c '^\[       OK \]' "$log") passed, code $code"
  return "$code"
}
export -f suite
export bin out

if [ "$tests" = yes ]; then
  "$bin/test_cuda" --gtest_list_tests | sed -nE 's/^([^ ]+)\.( .*)?$/\1/p' >"$out/suites.txt"
  part test_cuda 300 xargs -a "$out/suites.txt" -P 4 -I{} bash -c 'suite {}'
  grep -E '^FAILED|^SKIPPED|code [^0]' "$out/test_cuda.out" | sort | head -60
  awk '/ passed, code /{n += $(NF - 3)} END {print n + 0 " tests passed"}' "$out/test_cuda.out" | tee -a "$out/summary.txt"
fi

compute_sanitizer=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin command -v compute-sanitizer)
[ "$sanitizer" = no ] || [ -n "$compute_sanitizer" ] || echo "no compute-sanitizer here: its checks are left out"
if [ "$sanitizer" = yes ] && [ -n "$compute_sanitizer" ]; then
  check() { # check TOOL SECONDS FILTER
    part "$1" "$2" "$compute_sanitizer" --tool "$1" --error-exitcode 9 "$bin/test_cuda" --gtest_filter="$3"
    grep -hE 'ERROR SUMMARY|RACECHECK SUMMARY|Error:|hazard' "$out/$1.out" | tail -5
  }
  # What the emulator, whose threads run in step, may miss: shared memory that is written again before all have read it.
  check racecheck 90 '*CudaRmsnorm.*:*CudaCosine.*:*CudaMse.*:*CudaClip.*:*CudaGreedy*/1:*CudaHeadLoss*/1:*CudaAttention*/5:*CudaMatvec*/5'
  check memcheck 60 '*Cuda*/5'  # one set of parameters of every test that has some
fi

if [ "$benchmarks" = yes ]; then
  {
    printf '| %-32s | %-48s | %-4s | %10s | %13s | %5s | %s |\n' what shape '' time rate part 'times the peer'
    echo '| --- | --- | --- | --- | --- | --- | --- |'
  } >"$out/table.md"
  for name in ${chosen:-$programs}; do
    seconds=${limit[$name]} left=$((deadline - SECONDS))
    [ "$seconds" -lt "$left" ] || seconds=$((left > 0 ? left : 0))
    part "bench_$name" "$seconds" "$bin/benchmarks" "$name" --device cuda --only "$rows" --peer-seconds $((seconds / 2))
    # A program that was stopped has said on stderr what it had measured.
    { grep -E '^\| ' "$out/bench_$name.out" || grep -E '^\| ' "$out/bench_$name.err"; } |
      grep -vE '^\| (what|---)' >>"$out/table.md"
    grep -vE '^\| ' "$out/bench_$name.err" | tail -5
  done
fi

echo
cat "$out/summary.txt"
[ "$benchmarks" = no ] || { echo; cat "$out/table.md"; }
echo "the output of every program is in $out; $SECONDS s in all"
exit "$failed"
