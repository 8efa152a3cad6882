#!/bin/sh
# Builds, tests and benches on a machine with several GPUs of one host, as check.sh does with one; the archive is the
# same. NVLink multicast stays off: NCCL_NVLS_ENABLE=0.
#
#   tools/gpu/multi.sh [RESULTS [FOLDER]]        default ./gpu-results and .carry
#
# It ends after FUSCO_GPU_SECONDS, default 1200: the steps that are left fail.
#
# Exit 0: everything passed; 1: a test failed. Figures are not judged here.
set -u
cd "$(dirname "$0")/../.."
mkdir -p "${1:-gpu-results}"
results=$(cd "${1:-gpu-results}" && pwd)
carry=$(cd "${2:-.carry}" && pwd)
# shellcheck disable=SC2034
limit_s=${FUSCO_GPU_SECONDS:-1200}
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
. tools/gpu/build.sh
build_new
gpus=$(nvidia-smi --list-gpus | wc -l)
echo "$gpus GPUs"
nvidia-smi topo -m | head -n $((gpus + 1))

step 'testing: one process drives all GPUs'
one_process

step 'testing: a process for each GPU, with a training next to it'
case $gpus in 1) numbers=1 ;; 2 | 3) numbers=1,2 ;; *) numbers=1,2,4 ;; esac
start_training 200 $numbers 250
export FUSCO_TEST_ONE_GPU=0
ranks "$gpus" "$gpus" 1
ranks "$gpus" 1 1
FUSCO_STEP_BYTES=1 ranks "$gpus" 1 1 'exchange ' 'sums ' 'device buffers'
if [ "$gpus" -ge 4 ]; then
  ranks "$gpus" "$gpus" 2
  ranks "$gpus" 2 2
fi
[ "$gpus" -ge 8 ] && ranks "$gpus" 4 4
wait_for_training
step 'failures of processes, across GPUs'
within 90 "$app/node" "$app/test/gpu/nccl/failures.js" --short || failed=1
step 'testing: several processes for each GPU, nodes of two and of four'
FUSCO_TEST_ONE_GPU=1 ranks $((2 * gpus)) 2 2
[ "$gpus" -lt 8 ] && FUSCO_TEST_ONE_GPU=1 ranks 8 4 4

step 'auditing PyTorch, with planted faults'
within 120 torchrun --nproc-per-node "$gpus" tools/gpu/torch_faults.py "$results/torch-faults.json" \
  "$app/node" "$app/test/gpu/fusco.js" 2>"$results/torch-faults.log" || failed=1

torch_package 200

record multi.sh

step 'benching: one process drives all GPUs'
routing_option=''
[ -d "$carry/routing" ] && routing_option="--routing $carry/routing"
# shellcheck disable=SC2086
fusco bench gpus $routing_option --out "$results/bench-gpus.json" || failed=1

step 'benching: a process for each GPU'
for tokens in 4096 32768; do
  launch "$gpus" 180 "$app/test/gpu/fusco.js" bench nccl --tokens $tokens --rounds 11 \
    --out "$results/bench-nccl-$tokens.json" || failed=1
done
step 'benching: PyTorch'
for tokens in 4096 32768; do
  within 100 torchrun --nproc-per-node "$gpus" tools/gpu/torch_alltoall.py $tokens 7168 8 256 \
    "$results/torch-$tokens.json" 2>"$results/torch-$tokens.log" || { failed=1; tail -3 "$results/torch-$tokens.log"; }
done
step 'done'
exit $failed
