# Sourced by check.sh and multi.sh: unpacks the archive of pack.sh into $app, builds the addon there, and defines
# `fusco`, `ranks` and `step`. Takes $results and $carry.
app=$(mktemp -d)
trap 'rm -rf "$app"' EXIT
started=$(date +%s)
failed=0
step() { printf '== %s (%s s)\n' "$1" "$(($(date +%s) - started))"; }
fusco() { "$app/node" "$app/test/gpu/fusco.js" "$@"; }
# ranks N RANKS_PER_HOST RANKS_PER_NODE: the cases of the nccl backend, a process for each rank.
ranks() {
  count=$1
  shift
  timeout -k 5 120 "$app/node" "$app/test/gpu/fusco.js" launch -n "$count" -- \
    "$app/node" "$app/test/gpu/nccl/rank.js" "$@" || failed=1
}

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
fusco doctor
