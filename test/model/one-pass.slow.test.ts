// Checks the signals of one-pass exchanges, and of plans between processes, exhaustively, with Spin, for small sizes; and
// that the models find out each rule that is taken away.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

type Model = 'one_pass' | 'plan_facts';
const hasSpin = spawnSync('spin', ['-V']).status === 0;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-model-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What Spin's verifier prints for a model with these definitions. */
function verify(model: Model, ...definitions: string[]): string {
  const flags = definitions.map((definition) => `-D${definition}`);
  const file = fileURLToPath(new URL(`${model}.pml`, import.meta.url));
  execFileSync('spin', ['-a', ...flags, file], { cwd: folder, stdio: 'pipe' });
  const options = ['-w', '-O2', '-DSAFETY', '-DCOLLAPSE', '-DVECTORSZ=4096', '-o', 'pan', 'pan.c'];
  execFileSync('cc', options, { cwd: folder, stdio: 'pipe' });
  expect(readdirSync(folder)).toContain('pan');
  return execFileSync(join(folder, 'pan'), ['-m2000000'], { cwd: folder, encoding: 'utf8' });
}

describe.skipIf(!hasSpin && process.env.CI === undefined)('signals of one-pass exchanges', () => {
  it.each([
    ['two devices, two warps of which one is resident', []],
    ['two devices, three warps of which one is resident', ['W=3', 'C=1', 'E=3']],
    ['three devices', ['D=3', 'W=1', 'C=1']],
    ['tickets that are taken ahead', ['PREFETCH']],
    ['gradients, two devices, two warps of which one is resident', ['GRADIENT']],
    ['gradients, two devices, two resident warps', ['GRADIENT', 'R=2', 'C=1', 'E=2']],
    ['gradients, three devices', ['GRADIENT', 'D=3', 'W=1', 'C=1']],
  ])(
    '%s: no deadlock, nothing read too early, nothing overwritten too early',
    (_, definitions) => {
      const output = verify('one_pass', ...definitions);
      expect(output).toMatch(/errors: 0/);
      expect(output).not.toMatch(/max search depth too small|out of memory/);
    },
    600_000,
  );

  it.each([
    ['NO_READY', [], /assertion violated/],
    ['NO_FLAG', [], /assertion violated/],
    ['NO_END', ['D=3', 'W=1', 'C=1'], /assertion violated/],
    ['ONE_SET', ['D=3', 'W=1', 'C=1'], /assertion violated/],
    ['NO_PRODUCTS', ['GRADIENT'], /assertion violated/],
    ['FIXED_ROLES', ['E=5'], /invalid end state/],
  ])(
    'without the rule that %s takes away an error is found',
    (rule, definitions, error) => {
      const output = verify('one_pass', rule, ...definitions);
      expect(output).toMatch(/errors: 1/);
      expect(output).toMatch(error);
    },
    600_000,
  );
});

describe.skipIf(!hasSpin && process.env.CI === undefined)('facts of plans between processes', () => {
  it.each([
    ['three ranks', []],
    ['three ranks, plans only', ['X=0']],
    ['two ranks, many calls', ['D=2', 'E=9', 'X=5']],
  ])(
    '%s: no deadlock, and what is read is of this call',
    (_, definitions) => {
      expect(verify('plan_facts', ...definitions)).toMatch(/errors: 0/);
    },
    600_000,
  );

  it.each(['NO_BEGIN', 'NO_END', 'ONE_MEMORY'])(
    'without the rule that %s takes away an error is found',
    (rule) => {
      expect(verify('plan_facts', rule)).toMatch(/assertion violated/);
    },
    600_000,
  );
});
