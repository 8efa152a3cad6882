// A short soak; `npm run soak -- --minutes 60` is the long one.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { soakCase } from './cases.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

const soak = (...args: string[]) =>
  spawnSync(process.execPath, ['test/soak/run.mjs', ...args], { cwd: root, encoding: 'utf8' });

/**
 * A short soak. On a starved machine the compiler's and the collector's own memory may still be growing in the last
 * third of so short a run, so growth alone is looked at three times: a leak grows in each. A case that differs ends
 * a run before memory is judged.
 */
function shortSoak() {
  for (let turn = 1; ; turn++) {
    const run = soak('--cases', '300');
    const grows = run.status === 1 && run.stdout.includes('\nresident memory GROWS\n');
    if (!grows || turn === 3) return run;
  }
}

it('random cases agree with the reference bit for bit, and memory stays flat', { timeout: 300_000 }, () => {
  const run = shortSoak();
  // The seed stands in stderr.
  expect(run.status, run.stdout + run.stderr).toBe(0);
  const [, cases, flat, hier] = /^(\d+) cases \((\d+) flat, (\d+) hierarchical/.exec(run.stdout)!.map(Number);
  expect(flat! + hier!).toBe(cases);
  expect(cases).toBe(300);
  expect(Math.min(flat!, hier!)).toBeGreaterThan(20);
});

it('a leak of a few kilobytes a case is noticed', { timeout: 300_000 }, () => {
  const run = soak('--cases', '240', '--seed', '2', '--leak');
  expect(run.stdout).toMatch(/^resident memory GROWS\n {2}again: npm run soak -- --seed 2 --cases 240$/m);
  expect(run.status).toBe(1);
});

it('a case is a function of seed and number, and runs alone', { timeout: 60_000 }, () => {
  expect(soakCase(7, 3)).toEqual(soakCase(7, 3));
  expect(soakCase(7, 4)).not.toEqual(soakCase(7, 3));
  expect(soakCase(8, 3)).not.toEqual(soakCase(7, 3));
  expect(soak('--seed', '7', '--case', '3').status).toBe(0);
});

it('the cases vary in everything', () => {
  const cases = Array.from({ length: 200 }, (_, i) => soakCase(1, i));
  const distinct = (of: (one: (typeof cases)[number]) => unknown) => new Set(cases.map(of)).size;
  expect(distinct(({ options }) => options.strategy)).toBe(3);
  expect(distinct(({ options }) => options.balance)).toBe(4);
  expect(distinct(({ options }) => options.partial)).toBe(3);
  expect(distinct(({ options }) => options.sum)).toBe(3);
  expect(distinct(({ dtype }) => dtype)).toBe(3);
  expect(distinct(({ workload }) => workload.ranks)).toBe(8);
  expect(distinct(({ workload }) => workload.family)).toBeGreaterThan(5);
  expect(cases.some(({ options }) => options.placement?.some((hosts) => Array.isArray(hosts)))).toBe(true);
});
