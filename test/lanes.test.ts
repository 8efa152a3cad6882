// Every test file belongs to exactly one lane, the one that its name says, and every lane has a command.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { LANES } from './lanes.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const NAME = new RegExp(
  `^[\\w-]+(?:\\.(${LANES.filter((lane) => lane !== 'fast').join('|')}))?\\.test\\.ts$`,
);

const tests = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.test.ts'))
  .map((path) => `test/${path.split(sep).join('/')}`)
  .sort();

it('names every test file NAME.test.ts or NAME.LANE.test.ts', () => {
  const misnamed = tests.filter((path) => !NAME.test(path.slice(path.lastIndexOf('/') + 1)));
  expect(misnamed).toEqual([]);
});

it('runs every test file in exactly one lane, the one that its name says', () => {
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
  const text = execFileSync(process.execPath, [vitest, 'list', '--filesOnly', '--json'], { cwd: ROOT });
  const listed = (JSON.parse(text.toString()) as { file: string; projectName: string }[])
    .map(({ file, projectName }) => [file.slice(ROOT.length).split(sep).join('/'), projectName])
    .sort();
  const named = tests.map((path) => [path, NAME.exec(path.slice(path.lastIndexOf('/') + 1))?.[1] ?? 'fast']);
  expect(listed).toEqual(named.sort());
});

it('has a command for every lane, and CI runs all but the gpu lane', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  for (const lane of LANES) {
    const command = scripts[lane === 'fast' ? 'test' : `test:${lane}`];
    expect(command, lane).toContain(`vitest run --project ${lane}`);
  }
  const ci = readFileSync(join(ROOT, '.ci/run'), 'utf8');
  expect(/^lanes=\((.*)\)$/m.exec(ci)?.[1]?.split(' ')).toEqual(LANES.filter((lane) => lane !== 'gpu'));
});
