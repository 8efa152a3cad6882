#!/bin/sh
# Times variants of the kernels of one-pass exchanges on a machine with two to eight GPUs of one host, nvcc and g++, and
# compares the bytes that they write with those of the library's kernels. No package is needed.
#
#   sh tools/gpu/variants.sh [RESULTS [FOLDER [MODE...]]]   default ./gpu-results, .carry, processes and threads; writes
#                                                           RESULTS/variants-MODE.txt
#
# A mode takes 90 s; what does not fit is left out and named. Open questions come first. Without a GPU it compiles only, and
# leaves the program as FOLDER/variants. A GPU machine takes that, if its sources are the same.
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
carry=${2:-.carry}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- processes threads
failed=0
# A kernel that is loaded late could wait behind one that waits for it.
export CUDA_MODULE_LOADING=EAGER

# compile OBJECT SOURCE
compile() {
  object=$1 source=$2
  nvcc -O3 -arch=sm_90 --fmad=false -std=c++17 -Inative/include -Inative/cuda -Inative/core -Inative/host \
    -Itools/gpu/variants -c -o "$work/$object.o" "$source" >"$work/$object.log" 2>&1 || { cat "$work/$object.log"; touch "$work/failed"; }
}

sources_hash() { cat tools/gpu/variants/* native/cuda/* native/core/* native/host/* native/include/* 2>/dev/null | sha256sum; }

build() {
  for kernel in sum gradient; do
    compile "$kernel" "tools/gpu/variants/${kernel}_variants.cu" &
  done
  compile move native/cuda/one_pass_move.cu &
  compile rank tools/gpu/variants/rank.cu &
  compile main tools/gpu/variants/main.cu &
  compile tables native/cuda/one_pass_tables.cc &
  compile places native/core/rank_places.cc &
  wait
  [ ! -e "$work/failed" ] && nvcc -arch=sm_90 -cudart static -o "$work/variants" "$work"/*.o -lpthread
}

if [ -x "$carry/variants" ] && [ "$(cat "$carry/variants.sources")" = "$(sources_hash)" ]; then
  cp "$carry/variants" "$work/variants"
else
  build || exit 1
fi
command -v nvidia-smi >/dev/null || {
  mkdir -p "$carry"
  cp "$work/variants" "$carry/variants"
  sources_hash >"$carry/variants.sources"
  echo "all variants compile; there is no GPU here; the program is $carry/variants"
  exit 0
}
gpus=$(nvidia-smi --list-gpus | wc -l)
for mode in "$@"; do
  # The last candidate may take a few seconds more.
  nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 >"$results/variants-$mode.txt"
  timeout -k 5 105 "$work/variants" "$mode" "$gpus" 90 >>"$results/variants-$mode.txt" 2>"$work/errors" || failed=1
  cat "$work/errors"
  grep -E '^fastest|^left|DIFFERENT' "$results/variants-$mode.txt"
done
exit $failed
