#!/bin/sh
# For a change of native/ that leaves the code for GPUs as it is, on a machine without a GPU: builds the sources of the
# newest record and those of HEAD in the same place, with the same compilers, and compares all object files. If those of
# the record are there again, byte for byte, its results hold for HEAD as well. New objects are allowed.
#
#   tools/gpu/unchanged.sh [RESULTS [OBJECT...]]     default ./gpu-results; then tools/gpu/record.sh RESULTS
#
# OBJECT is the name of an object that may differ, because its code never runs on GPUs and tests without a GPU cover it:
# of the Node layer (node/methods.cc lists the functions of the addon), of planning on the CPU, or of plan files. The
# record names it. Needs nvcc, cmake, ninja, g++, and npm's packages.
#
# Exit 1: an object differs or is gone; test/gpu is not that of the record; or a build failed.
set -eu
cd "$(dirname "$0")/../.."
results=${1:-gpu-results}
mkdir -p "$results"
[ $# = 0 ] || shift
row=$(grep -E '^\| [0-9]{4}-' docs/gpu-record.md | grep -v unchanged.sh | tail -n 1)
cell() { echo "$row" | awk -F'|' -v n="$1" '{ gsub(/[ `]/, "", $(NF - n)); print $(NF - n) }'; }
recorded=$(cell 2) tests=$(cell 1)
die() { echo "$*" >&2; exit 1; }
[ "$(cell 3)" = passed ] || die 'the newest run failed'
native=$(tools/gpu/tree.sh native)
[ "$native" != uncommitted ] || die 'native/ has changes that are not committed'
[ "$(tools/gpu/tree.sh test/gpu)" = "$tests" ] || die 'test/gpu is not that of the record: run the tests on a GPU'
command -v nvcc >/dev/null || die 'nvcc is not there'
commit=$(git rev-list HEAD -- native | while read -r commit; do
  if [ "$(tools/gpu/tree.sh native "$commit")" = "$recorded" ]; then echo "$commit" && break; fi
done)
[ -n "$commit" ] || die "no commit of this history has the native sources $recorded"
for object; do
  case $object in
    node/* | planning/* | plan_file/*) ;;
    *) die "$object may not differ: it is not of the Node layer, of planning or of plan files" ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
include=$(node -p "[require('node-api-headers'), require('node-addon-api')].map(p => require('path').resolve(p.include_dir)).join(';')")

# objects COMMIT LIST: the object files of native/, with the hash of each. Both commits are built in one folder, so that
# paths in the objects are the same. nvcc leaves the name of a temporary file in the table of symbols: it is removed.
objects() {
  rm -rf "$work/native" "$work/build"
  mkdir -p "$work/native"
  git archive "$1:native" | tar -C "$work/native" -xf -
  cmake -S "$work/native" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_JS_INC=$include" >"$2.log" 2>&1 &&
    ninja -C "$work/build" fusco_node fusco_bench >>"$2.log" 2>&1 || { tail -n 20 "$2.log"; exit 1; }
  (cd "$work/build" && find . -name '*.o' | sort | while read -r object; do
    strip --strip-unneeded "$object"
    # ./cuda/CMakeFiles/fusco_cuda.dir/edges.cu.o is cuda/edges.cu; the target is kept where it is not the folder.
    echo "$(sha256sum <"$object" | cut -c 1-64) $(echo "$object" | sed -E 's|^\./||; s|CMakeFiles/([a-z_]+)\.dir/|\1:|; s|\.o$||')"
  done) >"$2"
}

echo "building $(git log -1 --format=%h "$commit"), which the tests ran on"
objects "$commit" "$results/recorded.txt"
echo 'building HEAD'
objects HEAD "$results/head.txt"

# Names of objects of the record that HEAD does not have with the same hash, without their target.
differ=$(grep -vxFf "$results/head.txt" "$results/recorded.txt" | cut -d' ' -f 2 | sed -E 's|[a-z_]+:||' | sort -u || true)
for object in $differ; do
  case " $* " in *" $object "*) ;; *) echo "differs: $object" && failed=1 ;; esac
done
[ -z "${failed:-}" ] || exit 1
count=$(wc -l <"$results/recorded.txt")
echo "$count objects of the record; differing, as allowed: ${differ:-none}"
note="objects as \`$(echo "$recorded" | cut -c 1-12)\`"
# shellcheck disable=SC2086
[ -z "$differ" ] || note="$note except $(echo $differ | sed 's/ /, /g')"
printf '| %s | unchanged.sh | none: %s | – | – | – | passed | `%s` | `%s` |\n' "$(date -u +%F)" "$note" \
  "$native" "$tests" | tee "$results/record.md"
