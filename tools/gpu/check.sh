#!/bin/sh
# Builds, tests and benches the cuda backend on a bare GPU machine: nvcc, cmake, ninja and g++ are there, network and
# Node are not. tools/gpu/pack.sh makes the archive beforehand. Results are JSON files.
#
#   tools/gpu/check.sh [RESULTS [FOLDER]]        default ./gpu-results and .carry
#
# Exit 0: everything passed; 1: a test or the sanitizer failed. Figures are not judged here.
set -u
cd "$(dirname "$0")/../.."
mkdir -p "${1:-gpu-results}"
results=$(cd "${1:-gpu-results}" && pwd)
carry=$(cd "${2:-.carry}" && pwd)
app=$(mktemp -d)
failed=0
step() { printf '== %s (%s s)\n' "$1" "$(($(date +%s) - started))"; }
started=$(date +%s)

step 'unpacking'
xz -dc "$carry/fusco-gpu.tar.xz" | tar -C "$app" -xf - || exit 1
headers="$app/node_modules/node-api-headers/include;$app/node_modules/node-addon-api"

step 'building'
cmake -S native -B "$app/build/native" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_JS_INC=$headers" \
  >"$results/cmake.log" 2>&1 || { tail -20 "$results/cmake.log"; exit 1; }
ninja -C "$app/build/native" fusco_node fusco_sweep >"$results/build.log" 2>&1 ||
  { grep -E 'error|FAILED' "$results/build.log" | head -30; exit 1; }
mkdir -p "$app/build/native/Release"
cp "$app/build/native/node/fusco.node" "$app/build/native/Release/"
fusco() { "$app/node" "$app/test/gpu/fusco.js" "$@"; }
fusco doctor

step 'testing'
"$app/node" "$app/test/gpu/run.js" "$results/tests.json" || failed=1

step 'running plans with fusco run --check'
cat >"$app/input.py" <<'PYTHON'
import sys
import numpy
rows = numpy.random.default_rng(1).standard_normal((8, 512, 256)).astype(numpy.float32)
numpy.save(sys.argv[1], rows)
PYTHON
python3 "$app/input.py" "$app/x.npy"
routing="$app/tools/demo/moe256-ep8x512-mixed-l3"
for options in '--strategy flat --align 16' '--strategy hier --ranks-per-node 2' '--tile-tokens 4'; do
  # shellcheck disable=SC2086
  fusco plan "$routing.idx.npy" --experts 256 --hidden 256 --dtype f32 $options -o "$app/p.fusco" &&
    fusco run "$app/p.fusco" --input "$app/x.npy" --weights "$routing.w.npy" --out "$app/out" --backend cuda --check ||
    failed=1
done

step 'compute-sanitizer'
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    timeout 100 compute-sanitizer --tool $tool --error-exitcode 9 "$app/node" "$app/test/gpu/sanitized.js" \
      >"$results/$tool.log" 2>&1 || { failed=1; echo "$tool failed"; }
    tail -2 "$results/$tool.log"
  done
else
  echo 'compute-sanitizer is not here'
fi

step 'benching'
routing_option=''
[ -d "$carry/routing" ] && routing_option="--routing $carry/routing"
# shellcheck disable=SC2086
fusco bench cuda $routing_option --out "$results/bench.json" || failed=1
"$app/build/native/cuda/fusco_sweep" 4096 >"$results/sweep-4096.txt"
"$app/build/native/cuda/fusco_sweep" 512 >"$results/sweep-512.txt"
step 'done'
rm -rf "$app"
exit $failed
