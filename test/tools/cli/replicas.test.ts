// `--replicas` and `--max-rows` of `fusco plan`, and what verify and inspect say about them.

import { expect, it } from 'vitest';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveRouting,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

/** 4 tokens of rank 0 for expert 0, which is on both ranks. */
async function planWith(...args: string[]) {
  saveRouting('r.npy', [
    [[0], [0], [0], [0]],
    [[1], [-1], [-1], [-1]],
  ]);
  save('map.json', '[[0, 1], 1]');
  return fusco('plan', 'r.npy', '--experts', '2', '--placement', 'map.json', '-o', 'p.fusco', ...args);
}

it.each([
  ['quota-1', [], [3, 2]],
  ['local', ['--replicas', 'local'], [4, 1]],
] as const)('plans with the rule %s, which verify proves and inspect shows', async (rule, args, recvRows) => {
  expect((await planWith(...args)).code).toBe(0);
  expect((await fusco('verify', 'p.fusco', '--routing', 'r.npy')).stdout).toContain(
    'it is the plan of r.npy',
  );
  expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({ replicas: rule, recvRows });
  expect((await fusco('inspect', 'p.fusco')).stdout).toContain(`2 experts in 3 instances (${rule})`);
});

it('streams the same file', async () => {
  await planWith();
  const plain = await fuscoJson('inspect', 'p.fusco');
  await planWith('--stream');
  expect((await fuscoJson('inspect', 'p.fusco')).planId).toBe(plain.planId);
  expect((await fusco('verify', 'p.fusco', '--stream')).code).toBe(0);
});

it('refuses a plan with more rows on a rank than --max-rows', async () => {
  expect((await planWith('--max-rows', '3')).code).toBe(0);
  expectRefusal(await planWith('--max-rows', '2'), 'E_MAX_ROWS', /rank 0 would receive 3 rows, maxRows is 2/);
});

it('knows no other rule', async () => {
  expectRefusal(await planWith('--replicas', 'even'), 'E_USAGE', /even/);
});
