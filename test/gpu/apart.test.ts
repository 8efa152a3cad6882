// Cases that break their process cost their own results only. No GPU is needed.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runApart } from './apart.ts';

/** A case is what its process does: passes, fails, hangs, or ends the process, before or after it has told its result. */
const SCRIPT = `
  const { appendFileSync } = require('node:fs');
  const [cases, file, first] = process.argv.slice(2);
  for (const name of JSON.parse(cases).slice(Number(first))) {
    if (name === 'hangs') for (;;);
    if (name === 'exits') process.exit(7);
    const error = name === 'passes' ? '' : name;
    appendFileSync(file, JSON.stringify({ name, seconds: 1, error }) + '\\n');
    if (name === 'fails and ends') process.kill(process.pid, 'SIGKILL');
  }`;

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-apart-'));
  writeFileSync(join(folder, 'cases.cjs'), SCRIPT);
});

afterAll(() => rmSync(folder, { recursive: true }));

async function errorsOf(names: string[], signal?: AbortSignal): Promise<string[]> {
  const file = join(folder, 'lines');
  const command = [join(folder, 'cases.cjs'), JSON.stringify(names), file];
  const results = await runApart(names, command, file, 2, signal);
  expect(results.map(({ name }) => name)).toEqual(names);
  return results.map(({ error }) => error);
}

it('goes on behind a case that fails, ends its process or hangs', async () => {
  const names = ['passes', 'fails', 'passes', 'fails and ends', 'exits', 'passes', 'hangs', 'passes'];
  expect(await errorsOf(names)).toEqual([
    ...['', 'fails', '', 'fails and ends', 'the process ended with code 7', ''],
    ...['no result after 2 s', ''],
  ]);
});

it('ends at a case that hangs when it is told to, and leaves out the others', async () => {
  const signal = AbortSignal.timeout(700);
  expect(await errorsOf(['passes', 'hangs', 'passes'], signal)).toEqual([
    ...['', 'the run was ended', 'left out'],
  ]);
});

it('names every case once if all pass, or none does', async () => {
  expect(await errorsOf(['passes', 'passes'])).toEqual(['', '']);
  expect(await errorsOf(['exits', 'exits'])).toEqual(Array(2).fill('the process ended with code 7'));
});
