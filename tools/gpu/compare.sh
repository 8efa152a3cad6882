#!/bin/sh
# Compares the benches of two builds on one machine with at least two GPUs: builds both, runs each bench of the old and
# of the new build in turn, and prints and writes the medians of every time, their spread and their ratio.
#
#   tools/gpu/pack.sh .carry && tools/gpu/pack.sh .carry OLD_CHECKOUT
#   tools/gpu/compare.sh [RESULTS [FOLDER [PAIRS [SECONDS]]]]     default ./gpu-results, .carry, 7 pairs, 540 seconds
#
# No pair starts in the last minute of SECONDS. Exit 0: no time is worse; 1: some are, or a bench failed.
set -u
cd "$(dirname "$0")/../.."
mkdir -p "${1:-gpu-results}"
results=$(cd "${1:-gpu-results}" && pwd)
carry=$(cd "${2:-.carry}" && pwd)
pairs=${3:-7}
time_limit=${4:-540}
export NCCL_NVLS_ENABLE=0
. tools/gpu/build.sh
new=$app
old=$work/old

step 'building both'
unpack fusco-gpu "$new" && unpack fusco-gpu-old "$old" && cp "$new/node" "$old/node" || exit 1
build "$old" old &
building=$!
build "$new" new || failed=1
wait $building && [ $failed = 0 ] || exit 1

# bench BUILD RUN: each bench once, with few rounds; the figures as RESULTS/BUILD/BENCH-RUN.json.
bench() {
  app=$work/$1
  out=$results/$1
  {
    CUDA_VISIBLE_DEVICES=0 fusco bench cuda --rounds 7 --out "$out/cuda-$2.json" &&
      fusco bench gpus --tokens 4096,32768 --rounds 7 --multiprocessors 132 --out "$out/gpus-$2.json" &&
      launch 2 60 "$app/test/gpu/fusco.js" bench nccl --rounds 7 --out "$out/nccl-$2.json"
  } >"$out/bench-$2.log" 2>&1 || { failed=1; tail -3 "$out/bench-$2.log"; }
}

rm -rf "$results/old" "$results/new"
mkdir -p "$results/old" "$results/new"
pair=1
while [ $pair -le "$pairs" ] && [ "$(seconds)" -lt $((time_limit - 60)) ]; do
  step "pair $pair"
  bench old $pair
  bench new $pair
  pair=$((pair + 1))
done
app=$new
step 'comparing'
fusco bench compare "$results/old" "$results/new" --out "$results/compare.json" || failed=1
step 'done'
exit $failed
