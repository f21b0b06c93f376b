#!/usr/bin/env bash
# tests/gpu.sh [--tests | --benchmarks] [--only NAME] [--no-peers] [--no-sanitizer] [--minutes M] [--out DIR]
# Runs every CUDA test, every CUDA benchmark, and some of the tests under compute-sanitizer where that is on the PATH;
# prints one table of what passed and one of what was measured. Works in an unpacked bundle and in a source tree with build/.
#
#   --only NAME    benchmarks whose program or row is called so: kernels, memory, score, bld, model, "decode attention"
#   --minutes M    for everything (default 8); what does not fit is stopped, and what it had measured counts
#   --out DIR      where the whole output of each program goes (default: a new folder below /tmp)
#
# Peers are the python3 that comes first on the PATH, if it has PyTorch, or what TANGRAM_PEERS names (colons between).
# Exit code: 0 all tests passed, or there is no GPU, which it says; 1 a test failed or was stopped, or a benchmark broke;
# 2 bad usage.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=yes benchmarks=yes peers=yes sanitizer=yes only= minutes=8 out=
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }
while [ $# -gt 0 ]; do
  case $1 in
    --tests) benchmarks=no ;;
    --benchmarks) tests=no sanitizer=no ;;
    --no-peers) peers=no ;;
    --no-sanitizer) sanitizer=no ;;
    --only | --minutes | --out)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"
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
"$bin/tangram" --version
out=${out:-$(mktemp -d /tmp/tangram-gpu-XXXXXX)}
mkdir -p "$out"
if [ "$peers" = no ]; then
  unset TANGRAM_PEERS
elif [ -z "${TANGRAM_PEERS:-}" ] &&
  python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then
  export TANGRAM_PEERS=python3
fi

deadline=$((SECONDS + minutes * 60))
failed=0 summary=
# part NAME SECONDS COMMAND...: runs it within that time and what is left; its output goes to $out/NAME.{out,err}.
part() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS code=0 verdict=ok
  shift 2
  [ "$limit" -lt "$left" ] || limit=$left
  : >"$out/$name.out" >"$out/$name.err"
  if [ "$limit" -gt 0 ]; then
    timeout -k 10 "$limit" "$@" >"$out/$name.out" 2>"$out/$name.err" </dev/null || code=$?
  else
    code=124
  fi
  case $code in
    0) ;;
    124 | 137)
      verdict="stopped: $limit s were left for it"
      [[ $name != test_* ]] || failed=1 ;;
    *) verdict="FAILED with code $code" failed=1 ;;
  esac
  summary+="$(printf '%-16s %4d s  %s' "$name" $((SECONDS - start)) "$verdict")"$'\n'
  echo "== $name: $((SECONDS - start)) s, $verdict"
}

filter='*Cuda*:*Cudnn*:*Graph*:PlannedMatmul*:SharedLibraries*'
if [ "$tests" = yes ]; then
  for program in "$bin"/test_{kernels,blocks,distill,puzzle}; do
    [ -x "$program" ] && "$program" --gtest_list_tests --gtest_filter="$filter" 2>/dev/null | grep -q . || continue
    name=$(basename "$program")
    part "$name" 150 "$program" --gtest_filter="$filter"
    grep -E '^\[ +(PASSED|SKIPPED|FAILED) +\]|Failure$' "$out/$name.out" | tail -20
  done
fi

table=
if [ "$benchmarks" = yes ]; then
  for name in kernels memory score bld model; do
    rows=$only
    [[ $only = "$name" ]] && rows=
    [[ -n $only && $only != "$name" && " kernels memory score bld model " = *" $only "* ]] && continue
    left=$((deadline - SECONDS))
    part "bench_$name" 170 "$bin/bench_$name" --device cuda --only "$rows" \
      --peer-seconds $((left < 200 ? (left > 0 ? left / 2 : 0) : 110))
    # A program that was stopped has said on stderr what it had measured.
    found=$(grep -E '^\| ' "$out/bench_$name.out" || grep -E '^\| ' "$out/bench_$name.err" || true)
    table+=$(grep -vE '^\| (what|---)' <<<"$found")$'\n'
    grep -vE '^\| ' "$out/bench_$name.err" | tail -5
  done
fi

if [ "$sanitizer" = yes ] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do  # one set of parameters of every test that has some
    part "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/test_kernels" \
      --gtest_filter="*Cuda*/5"
    grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|Error:' "$out/$tool.out" | tail -5
  done
fi

printf '\n%s\n' "$summary"
if [ "$benchmarks" = yes ]; then
  printf '| %-32s | %-48s | %-4s | %10s | %13s | %5s | %s |\n' what shape '' time rate part 'times the peer'
  printf '| --- | --- | --- | --- | --- | --- | --- |\n%s\n' "$(grep . <<<"$table")"
fi
echo "the output of every program is in $out; $SECONDS s in all"
exit "$failed"
