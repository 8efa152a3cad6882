#!/bin/sh
# Builds, tests and benches the cuda and nccl backends on a bare machine with one GPU: nvcc, cmake, ninja, g++ and NCCL
# are there, network and Node are not. tools/gpu/pack.sh makes the archive beforehand. Results are JSON files, and
# record.md, which tools/gpu/record.sh appends to docs/gpu-record.md.
#
#   tools/gpu/check.sh [RESULTS [FOLDER]]        default ./gpu-results and .carry
#
# It ends after FUSCO_GPU_SECONDS, default 540: the steps that are left fail.
#
# Exit 0: everything passed; 1: a test or the sanitizer failed. Figures are not judged here.
set -u
cd "$(dirname "$0")/../.."
mkdir -p "${1:-gpu-results}"
results=$(cd "${1:-gpu-results}" && pwd)
carry=$(cd "${2:-.carry}" && pwd)
# shellcheck disable=SC2034
limit_s=${FUSCO_GPU_SECONDS:-540}
# One GPU, even if there are more.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
. tools/gpu/build.sh

# compute-sanitizer runs the cases of one process, and those of two processes that take turns on the GPU, while the script goes
# on: most of it is work of the host.
sanitizers=''
start_sanitizers() {
  command -v compute-sanitizer >/dev/null || { echo 'compute-sanitizer is not here'; return; }
  for check in 'sanitize memcheck' 'sanitize racecheck' racecheck_ranks; do
    $check &
    sanitizers="$sanitizers ${check#sanitize }:$!"
  done
}
wait_for_sanitizers() {
  for sanitizer in $sanitizers; do
    wait "${sanitizer#*:}" || { failed=1; echo "${sanitizer%:*} failed"; }
    tail -n 2 "$results/${sanitizer%:*}.log"
  done
}

sanitize() {
  within 240 compute-sanitizer --tool "$1" --error-exitcode 9 "$app/node" "$app/test/gpu/sanitized.js" \
    >"$results/$1.log" 2>&1
}

# One-pass kernels, and planning between processes. Kernels are slowed a hundredfold, so ranks wait longer than usual.
# Kernels of NCCL are left out. No memcheck: it takes stores to the memory of another process for errors.
racecheck_ranks() {
  within 240 env FUSCO_DEADLINE_MS=120000 "$app/node" "$app/test/gpu/fusco.js" launch -n 2 -- \
    compute-sanitizer --tool racecheck --kernel-regex kns=fusco --error-exitcode 9 \
    "$app/node" "$app/test/gpu/nccl/rank.js" 2 1 \
    'exchange 8:' 'exchange 11:' 'exchange 13:' 'exchange 15:' 'extreme: one token to all ranks: hier' \
    'extreme: all tokens to one rank: flat' 'device plans: flat all , 33 tokens' \
    'device plans: hier 1 , 33 tokens' 'device plans: a bad id' >"$results/racecheck_ranks.log" 2>&1
}

build_new

step 'testing'
one_process

step 'testing processes, with compute-sanitizer and a training next to them'
start_sanitizers
start_training 20 1 100
ranks 1 1 1
ranks 2 1 1
ranks 4 1 1
ranks 8 1 1
ranks 4 4 2
ranks 4 2 2
FUSCO_STEP_BYTES=1 ranks 4 1 1 'exchange ' 'sums ' 'device buffers'
FUSCO_STEP_BYTES=1 ranks 4 2 2 'exchange ' 'sums ' 'device buffers'
wait_for_sanitizers
wait_for_training
step 'failures of processes'
within 120 "$app/node" "$app/test/gpu/nccl/failures.js" || failed=1

torch_package 120

step 'running plans with fusco run --check'
cat >"$app/input.py" <<'PYTHON'
import sys
import numpy
rows = numpy.random.default_rng(1).standard_normal((8, 512, 256)).astype(numpy.float32)
numpy.save(sys.argv[1], rows)
PYTHON
python3 "$app/input.py" "$app/x.npy"
routing="$app/tools/demo/moe256-ep8x512-mixed-l3"
for options in '--strategy flat --align 16' '--strategy hier --ranks-per-node 2' \
  '--strategy hier --ranks-per-node 2 --sum token' '--tile-tokens 4'; do
  # shellcheck disable=SC2086
  fusco plan "$routing.idx.npy" --experts 256 --hidden 256 --dtype f32 $options -o "$app/p.fusco" &&
    fusco run "$app/p.fusco" --input "$app/x.npy" --weights "$routing.w.npy" --out "$app/out" --backend cuda --check ||
    failed=1
done
# A process for each rank. Each poses as another machine to NCCL, which otherwise refuses several ranks on one GPU.
cat >"$app/rank.sh" <<'SH'
NCCL_HOSTID="rank $RANK" exec "$APP/node" "$APP/test/gpu/fusco.js" run "$APP/p.fusco" --input "$APP/x.npy" \
  --weights "$1" --out "$APP/out" --backend nccl --check
SH
APP=$app fusco launch -n 8 -- sh "$app/rank.sh" "$routing.w.npy" || failed=1

step 'running the examples'
within 60 "$app/node" "$app/examples/train/main.js" --backend cuda --short --json "$results/train.json" || failed=1
within 60 "$app/node" "$app/examples/train/main.js" --backend cuda --short --plan device \
  --json "$results/train-device.json" || failed=1
within 60 "$app/node" "$app/examples/overlap/main.js" --backend cuda --out "$results/overlap.json" || failed=1
within 60 "$app/node" "$app/examples/hello/cuda.js" || failed=1
APP=$app fusco launch -n 2 -- sh -c 'NCCL_HOSTID="rank $RANK" exec "$APP/node" "$APP/examples/hello/nccl.js"' || failed=1

record check.sh

step 'benching'
routing_option=''
[ -d "$carry/routing" ] && routing_option="--routing $carry/routing"
# shellcheck disable=SC2086
fusco bench cuda $routing_option --out "$results/bench.json" || failed=1
launch 4 100 "$app/test/gpu/fusco.js" bench nccl --one-gpu --tokens 512 --rounds 9 \
  --out "$results/bench-nccl.json" || failed=1
step 'done'
exit $failed
