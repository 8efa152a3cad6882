// The sources in native/, apart from native/python, and test/gpu are those that last ran on GPUs, where all cases passed.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Hash of a folder's git tree, or `uncommitted`. */
const treeOf = (folder: string) =>
  execFileSync('tools/gpu/tree.sh', [folder], { cwd: ROOT, encoding: 'utf8' }).trim();

/** Cells of every row of the record, oldest first. */
function records(): string[][] {
  const text = readFileSync(new URL('../docs/gpu-record.md', import.meta.url), 'utf8');
  const rows = text.split('\n').filter((line) => /^\| \d{4}-\d\d-\d\d /.test(line));
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('`', '')),
  );
}

it('the newest record is of these sources, its cases passed, and it names what else failed', () => {
  const newest = records().at(-1);
  expect(newest, 'docs/gpu-record.md has no record').toBeDefined();
  const [cases, groups, result, native, tests] = newest!.slice(-5) as [
    string,
    string,
    string,
    string,
    string,
  ];
  // "–": the row of unchanged.sh, whose objects are those of an earlier row.
  expect([cases, groups].every((cell) => cell === '–' || /^(\d+) of \1$/.test(cell))).toBe(true);
  expect(result).toMatch(/^(passed$|FAILED: .)/);
  // What is released has an entry of its version, and none that is unreleased.
  if (!/^## Unreleased$/m.test(readFileSync(`${ROOT}/CHANGELOG.md`, 'utf8'))) expect(result).toBe('passed');
  expect({ native, tests }).toEqual({ native: treeOf('native'), tests: treeOf('test/gpu') });
});
