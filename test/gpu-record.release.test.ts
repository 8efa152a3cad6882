// The sources in native/ and test/gpu are those that last passed on GPUs.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

const git = (...args: string[]) => execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();

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

it('the newest record is of these sources, and it passed', () => {
  expect(git('status', '--porcelain', '--', 'native', 'test/gpu'), 'uncommitted changes').toBe('');
  const newest = records().at(-1);
  expect(newest, 'docs/gpu-record.md has no record').toBeDefined();
  const [result, native, tests] = newest!.slice(-3);
  expect({ result, native, tests }).toEqual({
    result: 'passed',
    native: git('rev-parse', 'HEAD:native'),
    tests: git('rev-parse', 'HEAD:test/gpu'),
  });
});
