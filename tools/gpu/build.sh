# shellcheck shell=sh disable=SC1091,SC2154
# Sourced by check.sh, multi.sh and compare.sh: functions that unpack and build the archives of pack.sh, and run parts of
# them. Takes $results, $carry, and $limit_s: seconds for everything, after which the steps that are left fail.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
app=$work/new
started=$(date +%s)
failed=0
groups=0
groups_failed=0

seconds() { echo $(($(date +%s) - started)); }
step() { printf '== %s (%s s)\n' "$1" "$(seconds)"; }
fusco() { within 300 "$app/node" "$app/test/gpu/fusco.js" "$@"; }

# at_most SECONDS: so many, or those that are left of $limit_s; at least one.
at_most() {
  left=$((${limit_s:-3600} - $(seconds)))
  [ "$left" -lt "$1" ] || left=$1
  [ "$left" -gt 1 ] || left=1
  echo "$left"
}

# within SECONDS COMMAND...
within() {
  most=$(at_most "$1")
  shift
  timeout -k 5 "$most" "$@" || {
    code=$?
    [ "$code" -lt 124 ] || echo "ended after $most s: $*" | cut -c 1-200
    return "$code"
  }
}

# one_process: the cases of one process.
one_process() {
  within 200 "$app/node" "$app/test/gpu/run.js" "$results/tests.json" || failed=1
}

# unpack ARCHIVE FOLDER
unpack() {
  mkdir -p "$2"
  xz -dc "$carry/$1.tar.xz" | tar -C "$2" -xf -
}

# build FOLDER NAME: the addons of an unpacked archive, from its own native sources.
build() {
  cmake -S "$1/native" -B "$1/build/native" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    "-DCMAKE_JS_INC=$1/node_modules/node-api-headers/include;$1/node_modules/node-addon-api" \
    >"$results/cmake-$2.log" 2>&1 || { tail -20 "$results/cmake-$2.log"; return 1; }
  ninja -C "$1/build/native" fusco_node fusco_bench >"$results/build-$2.log" 2>&1 ||
    { grep -E 'error|FAILED' "$results/build-$2.log" | head -30; return 1; }
  mkdir -p "$1/build/native/Release"
  cp "$1"/build/native/node/*.node "$1/build/native/Release/"
}

# Meanwhile the library of the Python package is built, from the same native sources.
build_new() {
  step 'building'
  { cmake -S native/python -B "$work/python" -G Ninja -DCMAKE_BUILD_TYPE=Release &&
    ninja -C "$work/python" fusco_python; } >"$results/build-python.log" 2>&1 &
  building_python=$!
  unpack fusco-gpu "$app" && build "$app" new || exit 1
  wait $building_python || { failed=1; grep -E 'error|FAILED' "$results/build-python.log" | head -30; }
  fusco doctor
}

# torch_package SECONDS: the tests of the Python package.
torch_package() {
  step 'testing PyTorch'
  torch_s=$(at_most "$1")
  FUSCO_LIBRARY="$work/python/libfusco.so" timeout -k 5 $((torch_s + 20)) \
    python3 tools/gpu/torch_package.py "$results" "$torch_s" \
    2>"$results/torch-package.log" || { failed=1; tail -5 "$results/torch-package.log"; }
}

# start_training STEPS RANKS SECONDS: the model of the Python examples is trained on each number of ranks while the script
# goes on. wait_for_training waits for it: the bits of all these trainings are the same.
start_training() {
  FUSCO_LIBRARY="$work/python/libfusco.so" FUSCO_DEADLINE_MS=20000 PYTHONPATH=native/python within "$3" \
    python3 native/python/examples/train_moe.py --backend nccl --steps "$1" --ranks "$2" --no-batched --at-once \
    --text ARCHITECTURE.md --out "$results/torch-training.json" >"$results/torch-training.log" 2>&1 &
  training=$!
}
wait_for_training() {
  wait "$training" || { failed=1; echo 'training failed'; tail -n 20 "$results/torch-training.log"; }
  grep -E 'a step|same' "$results/torch-training.log"
}

# launch N SECONDS SCRIPT...: a process of Node for each of N ranks.
launch() {
  count=$1 limit=$2
  shift 2
  within "$limit" "$app/node" "$app/test/gpu/fusco.js" launch -n "$count" -- "$app/node" "$@"
}

# ranks N RANKS_PER_MACHINE RANKS_PER_NODE: the cases of the nccl backend, a process for each rank.
ranks() {
  groups=$((groups + 1))
  count=$1
  shift
  launch "$count" 120 "$app/test/gpu/nccl/rank.js" "$@" || { failed=1 groups_failed=$((groups_failed + 1)); }
}

# record SCRIPT: a row for docs/gpu-record.md, once all tests have run; tools/gpu/record.sh appends it.
record() {
  . "$app/trees.sh"
  # shellcheck disable=SC2016
  cells=$("$app/node" -p 'const { devices, cases, failed } = JSON.parse(fs.readFileSync(process.argv[1]));
    `${devices.length} x ${devices[0].name} | ${process.argv[2]} | ${cases - failed} of ${cases}`' \
    "$results/tests.json" "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)")
  # shellcheck disable=SC2016
  printf '| %s | %s | %s | %s of %s | %s | `%s` | `%s` |\n' "$(date -u +%F)" "$1" "$cells" \
    $((groups - groups_failed)) "$groups" "$([ "$failed" = 0 ] && echo passed || echo FAILED)" \
    "$native_tree" "$tests_tree" | tee "$results/record.md"
}
