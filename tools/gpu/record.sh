#!/bin/sh
# Appends the records of check.sh and multi.sh to docs/gpu-record.md:
#
#   tools/gpu/record.sh RESULTS...
#
# Exit 1, and nothing is appended: a run failed, or what it ran was not committed.
set -eu
for results in "$@"; do
  if grep -E 'FAILED|uncommitted' "$results/record.md"; then exit 1; fi
done
for results in "$@"; do
  cat "$results/record.md" >>"$(dirname "$0")/../../docs/gpu-record.md"
done
