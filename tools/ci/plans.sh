#!/bin/sh
# Compares the plans of a golden file with their entries, and, if a base branch is named, the plans of that branch with
# those of this checkout. Prints workflow commands of GitHub, and a summary in Markdown to the file SUMMARY.
#
#   plans.sh GOLDEN FAIL_ON BASE SUMMARY FUSCO...
#
# BASE may be empty. FUSCO... is the command that runs fusco. Exit code 1: an entry differs, or a plan breaks FAIL_ON.

set -eu

golden=$1 fail_on=$2 base=$3 summary=$4
shift 4

failed=0
"$@" check "$golden" --format github || failed=1
[ -n "$base" ] || exit "$failed"

scratch=$(mktemp -d)
trap 'git worktree remove --force "$scratch/base" || true; rm -rf "$scratch"' EXIT
git fetch --quiet --depth=1 origin "$base"
git worktree add --quiet --detach "$scratch/base" FETCH_HEAD

"$@" check "$golden" --plans "$scratch/after" --format none || [ $? -eq 1 ]
if [ -e "$scratch/base/$golden" ]; then
  "$@" check "$scratch/base/$golden" --plans "$scratch/before" --format none || [ $? -eq 1 ]
fi

for after in "$scratch/after"/*.fusco; do
  name=$(basename "$after" .fusco)
  before=$scratch/before/$name.fusco
  [ -e "$before" ] || continue
  printf '\n#### %s\n\n' "$name" >> "$summary"
  "$@" diff "$before" "$after" --format markdown --fail-on none >> "$summary"
  "$@" diff "$before" "$after" --format github --fail-on "$fail_on" || failed=1
done
exit "$failed"
