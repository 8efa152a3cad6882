#!/bin/sh
# Times variants of the kernels of one-pass exchanges on a machine with two to eight GPUs of one host, nvcc and g++, and
# compares the bytes that they write with those of the library's kernels. It takes a few minutes; no package is needed.
#
#   sh tools/gpu/variants.sh [RESULTS]     default ./gpu-results; writes variants-threads.txt and variants-processes.txt
#
# The first line of each case is the library's code with its default shape. Exit 1: a variant wrote other bytes, or
# something failed. tools/gpu/variants has the variants. What wins becomes the code of native/cuda: the constants of a
# `Tuning` there, and the shapes in one_pass_exchange.cc. The others go, with their branches in the kernels.
set -u
cd "$(dirname "$0")/../.."
mkdir -p "${1:-gpu-results}"
results=$(cd "${1:-gpu-results}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
# A kernel that is loaded late could wait behind one that waits for it.
export CUDA_MODULE_LOADING=EAGER

# compile OBJECT SOURCE [OPTION]
compile() {
  object=$1 source=$2
  shift 2
  nvcc -O3 -arch=sm_90 --fmad=false -std=c++17 "$@" -Inative/include -Inative/cuda -Inative/core -Itools/gpu/variants \
    -c -o "$work/$object.o" "$source" >"$work/$object.log" 2>&1 || { cat "$work/$object.log"; touch "$work/failed"; }
}

for kernel in move sum gradient; do
  compile "$kernel" "tools/gpu/variants/${kernel}_variants.cu" &
  compile "$kernel-outlined" "tools/gpu/variants/${kernel}_variants.cu" -DFUSCO_OUTLINED_WAITS &
done
compile rank tools/gpu/variants/rank.cu &
compile main tools/gpu/variants/main.cu &
compile tables native/cuda/one_pass_tables.cc &
compile places native/core/rank_places.cc &
wait
[ ! -e "$work/failed" ] && nvcc -arch=sm_90 -cudart static -o "$work/variants" "$work"/*.o -lpthread || exit 1
command -v nvidia-smi >/dev/null || { echo 'all variants compile; there is no GPU here'; exit 0; }
gpus=$(nvidia-smi --list-gpus | wc -l)
for mode in threads processes; do
  nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 >"$results/variants-$mode.txt"
  timeout 240 "$work/variants" "$mode" "$gpus" >>"$results/variants-$mode.txt" 2>"$work/errors" || failed=1
  cat "$work/errors"
  grep -E '^fastest|DIFFERENT' "$results/variants-$mode.txt"
done
exit $failed
