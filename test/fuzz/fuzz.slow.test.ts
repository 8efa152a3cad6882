// The fuzzer finds planted defects, and a short run of every target finds nothing.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { targetsOf } from './targets.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const targets = targetsOf(root);

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-fuzz-test-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let runs = 0;
/** Every run starts from an empty corpus of its own. */
function fuzz(...args: string[]) {
  const places = ['--corpus', join(folder, `corpus${runs++}`), '--findings', join(folder, 'findings')];
  return spawnSync(process.execPath, [join(root, 'test/fuzz/run.mjs'), ...args, ...places], {
    cwd: root,
    encoding: 'utf8',
  });
}

describe('the fuzzer', () => {
  it('reaches a defect behind four comparisons with coverage guidance, and not without it', {
    timeout: 180_000,
  }, () => {
    const args = ['--target', 'planted-throw', '--seed', '3', '--runs', '60000', '--seconds', '100'];
    const guided = fuzz(...args);
    expect(guided.stdout).toMatch(/^planted-throw: FOUND TypeError: the defect was reached$/m);
    expect(guided.status).toBe(1);
    // What it printed reproduces the defect.
    const input = /--input (\S+)$/m.exec(guided.stdout)![1]!;
    expect(readFileSync(input, 'latin1').slice(0, 4)).toBe('FUZZ');
    const again = fuzz('--target', 'planted-throw', '--input', input);
    expect(again.stderr).toContain('the defect was reached');
    expect(again.status).not.toBe(0);
    const blind = fuzz(...args, '--unguided');
    expect([blind.status, blind.stdout]).toEqual([0, expect.stringContaining('60000 runs')]);
  });

  it.each([
    ['planted-hang', /FOUND it takes longer than 700 ms/],
    ['planted-hoard', /FOUND Error.*memory/],
  ])('reports the defect %s', { timeout: 300_000 }, (name, text) => {
    const run = fuzz(
      '--target',
      name,
      '--seed',
      '3',
      '--seconds',
      '20',
      '--hang-ms',
      name.endsWith('hang') ? '700' : '100000',
    );
    expect(run.stdout).toMatch(text);
    const [kept] = readdirSync(join(folder, 'findings', name));
    expect(readFileSync(join(folder, 'findings', name, kept!))[0]).toBe(0x46);
  });

  it('finds nothing in a short run of every target', { timeout: 300_000 }, ({ annotate }) => {
    const seconds = 0.6 * (targets.length + 3);
    const run = fuzz('--seconds', String(seconds));
    // The seed is in the message of a failure: `npm run fuzz -- --seed N` goes the same way.
    expect(run.stdout, run.stderr).not.toContain('FOUND');
    expect(run.status, run.stdout + run.stderr).toBe(0);
    for (const { name } of targets) expect(run.stdout).toMatch(new RegExp(`^${name}: [1-9]\\d* runs`, 'm'));
    const left = /^.*left out.*$/m.exec(run.stdout)?.[0];
    if (left !== undefined) void annotate(left);
    if (left === undefined || process.env.CI !== undefined) {
      for (const name of ['native-exchange', 'native-plan-file', 'native-rows']) {
        expect(run.stdout).toMatch(new RegExp(`^${name}: [1-9]\\d* runs`, 'm'));
      }
    }
  });
});
