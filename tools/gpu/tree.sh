#!/bin/sh
# Prints the hash of a folder's git tree as docs/gpu-record.md has it: without native/python, which has no kernels.
#
#   tools/gpu/tree.sh native|test/gpu [COMMIT]     default HEAD
#
# Prints `uncommitted` if the folder has changes that are not committed, and no COMMIT is given.
set -eu
if [ $# = 1 ] && [ -n "$(git status --porcelain -- "$1" ':!native/python')" ]; then
  echo uncommitted
else
  git ls-tree "${2:-HEAD}:$1" | grep -v '[[:space:]]python$' | git mktree
fi
