#!/usr/bin/env bash
# Everything worth knowing from a GPU in one call, without a network and without installing anything.
#
#   bash benchmarks/gpu_check.sh first     correctness, then times, then where they go (<= 440 s)
#   bash benchmarks/gpu_check.sh second    checkers of memory and races, counters      (<= 200 s)
#   bash benchmarks/gpu_check.sh peers     other libraries, as far as they are there   (<= 200 s)
#   bash benchmarks/gpu_check.sh           all of it
#
# Every step has a limit of its own and no failure stops the others; what a step prints and the
# tables, which grow row by row, are in $OUT after it. Ends with status 1 if there is no GPU that
# can be used or if a step failed. PYTHON names the interpreter. WHEELS names a folder of wheels that
# are unpacked for this run and come before what is installed. GPU_CHECK_TINY=1 starts everything
# once on tiny sizes in the simulator, on a machine without a GPU.
set -u
WHEELS=${WHEELS:+$(realpath "$WHEELS")}
cd "$(dirname "$0")/.." || exit 1
parts=${1:-all}
case $parts in first | second | peers | all) ;; *)
  echo "expected first, second, peers or nothing, got '$parts'" >&2
  exit 2
  ;;
esac

tiny=${GPU_CHECK_TINY:-}
[ -n "${PYTHON:-}" ] || { PYTHON=python3 && [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; }
OUT=${OUT:-build/gpu_check}
logs=$(mktemp -d)
carried=$(mktemp -d)
trap 'rm -rf "$logs" "$carried"' EXIT
mkdir -p "$OUT"
summary=$OUT/summary.txt
: >"$summary"
failed=0
deadline=0
smoke=()

if [ -n "$WHEELS" ]; then
  for wheel in "$WHEELS"/*.whl; do
    "$PYTHON" -m zipfile -e "$wheel" "$carried" && found=carried || found="could not be unpacked"
    echo "$(basename "$wheel"): $found" | tee -a "$summary"
  done
fi
export PYTHONPATH=$PWD:$carried${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0 XLA_PYTHON_CLIENT_PREALLOCATE=false
# where libnvvm lies if no wheel brings it
if [ -z "${CUDA_HOME:-}" ] && [ -d /usr/local/cuda ]; then export CUDA_HOME=/usr/local/cuda; fi
if [ -n "$tiny" ]; then
  export NUMBA_ENABLE_CUDASIM=1
  smoke=(--smoke)
fi

say() { echo "[$SECONDS s] $*" | tee -a "$summary"; }

keep() {
  tar czf "$OUT/logs.tgz" -C "$logs" . 2>/dev/null
  for table in gpu gpu_stages; do
    [ -e "benchmarks/results/$table.csv" ] && cp "benchmarks/results/$table.csv" "$OUT/"
  done
}

within() { # limit: what is left of the part's time, if that is less; the simulator takes its own
  [ -z "$tiny" ] || { echo 900 && return; }
  local left=$((deadline - SECONDS))
  echo $((left < $1 ? left : $1))
}

step() { # name limit command...
  local name=$1 limit start=$SECONDS status
  limit=$(within "$2")
  shift 2
  if [ "$limit" -lt 5 ]; then
    say "$name: left out, no time"
    failed=1
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$logs/$name.txt" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  say "$name: status $status in $((SECONDS - start)) s; $(tail -n 1 "$logs/$name.txt" | cut -c1-200)"
  keep
  return $status
}

tests() { # name arguments...: in the background, its end is in the log
  local name=$1 status
  shift
  timeout -k 5 "$(within 140)" "$PYTHON" -m pytest -p no:cacheprovider -m gpu -q -rfEs \
    --durations=8 --tb=short "$@" >"$logs/tests_$name.txt" 2>&1
  status=$?
  echo "status $status" >>"$logs/tests_$name.txt"
  return $status
}

first() {
  # three at once: the compilers need the cores. Left out: what compiles the CPU's whole FMM
  tests fields tests/gpu/test_fields.py &
  local running=($!)
  tests fmm tests/gpu/test_multipole_method.py \
    --deselect tests/gpu/test_multipole_method.py::test_devices_are_not_mixed &
  running+=($!)
  tests operators tests/gpu/test_operators.py &
  running+=($!)
  for one in "${running[@]}"; do wait "$one" || failed=1; done
  for name in fields fmm operators; do
    say "tests of $name: $(tail -n 2 "$logs/tests_$name.txt" | tr '\n' ' ')"
  done
  grep -hE "^(FAILED|ERROR|SKIPPED)" "$logs"/tests_*.txt | cut -c1-200 | tee -a "$summary"
  keep
  # one after the other, the most telling first; the second process finds what the tests compiled
  times fmm 75
  times direct 40
  times first 60
  times model 60
  step stages 60 "$PYTHON" benchmarks/gpu_stages.py "${smoke[@]}"
  grep -E "^stage|^leaf" "$logs/stages.txt" | cut -c1-200 | tee -a "$summary"
  times batches 40
  times training 50
}

times() { # case limit
  step "times_$1" "$2" "$PYTHON" benchmarks/gpu.py "${smoke[@]}" --only "$1"
  grep -E "target|error|left out" "$logs/times_$1.txt" | cut -c1-220 | tee -a "$summary"
}

with_tool() { # name limit tool,its,arguments option points
  local name=$1 limit=$2 tool=() points=$5
  IFS=, read -r -a tool <<<"$3"
  if ! command -v "${tool[0]}" >/dev/null; then
    say "$name: ${tool[0]} is not installed"
    [ -n "$tiny" ] || return 0
    tool=()
  fi
  [ -z "$tiny" ] || points=60
  step "$name" "$limit" "${tool[@]}" "$PYTHON" benchmarks/gpu_stages.py "${smoke[@]}" "$4" "$points"
}

second() {
  local sanitizer=compute-sanitizer,--error-exitcode,9,--tool
  with_tool memory 60 $sanitizer,memcheck --checked 5000
  with_tool races 60 $sanitizer,racecheck --checked 2000
  # all kernels of a plan and an evaluation
  with_tool counters 50 "ncu,--clock-control,none,--set,basic,--section,MemoryWorkloadAnalysis,\
--section,WarpStateStats,-c,150" --once 1000000
  with_tool barriers 30 $sanitizer,synccheck --checked 2000
  with_tool unwritten 40 $sanitizer,initcheck --checked 2000
}

peers() {
  times peers 190
}

if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>&1 |
    head -n 3 | tee -a "$summary"
fi
timeout -k 5 60 "$PYTHON" benchmarks/gpu.py --check >"$logs/check.txt" 2>&1 || failed=1
cat "$logs/check.txt" | tee -a "$summary"
if [ $failed -ne 0 ] && [ -z "$tiny" ]; then
  keep
  exit 1
fi
part() { # name seconds
  [ "$parts" = all ] || [ "$parts" = "$1" ] || return 0
  deadline=$((SECONDS + $2))
  "$1"
}

part first 430
part second 190
part peers 190
keep
echo
cat "$summary"
exit $failed
