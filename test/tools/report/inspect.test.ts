// `fusco inspect --html` as a command: what it writes, what it says, and how it treats a broken plan.

import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { expectRefusal, fusco, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

const ROUTING = [
  [
    [0, 1],
    [2, -1],
  ],
  [
    [3, 0],
    [1, 2],
  ],
];

async function makePlan(...options: string[]): Promise<void> {
  saveRouting('r.npy', ROUTING);
  expect((await fusco('plan', 'r.npy', '--experts', '4', '-o', 'p.fusco', ...options)).code).toBe(0);
}

describe('fusco inspect ROUTING', () => {
  it('plans a routing that is given without options, and gives one line', async () => {
    saveRouting('r.npy', ROUTING);
    const { code, stdout } = await fusco('inspect', 'r.npy');
    expect([code, stdout.split('\n')[0]]).toEqual([
      0,
      'r.npy: 1 routing; times are predicted by a cost model',
    ]);
    expectRefusal(await fusco('inspect', 'none.npy'), 'E_FILE_NOT_FOUND', /none\.npy/);
  });
});

describe('fusco inspect RECORDING --html', () => {
  it('shows imbalance, time and memory of each routing', async () => {
    saveRouting('steps.npy', [
      ...ROUTING,
      [
        [2, 3],
        [3, 2],
      ],
    ]);
    const args = ['--axes', 'steps,tokens,topk', '--ranks', '2', '--experts', '4'];
    const { code, stderr } = await fusco('inspect', 'steps.npy', ...args, '--html', 'r.html');
    expect([code, stderr]).toEqual([0, expect.stringMatching(/^report of 3 routings: .* -> r\.html$/m)]);
    const page = readFileSync('r.html', 'utf8');
    expect(page).toContain('<title>Recording – steps.npy</title>');
    expect(page.match(/<figure class="chart"/g)).toHaveLength(4);
    // In the last step all entries are for the experts of rank 1.
    expect(page).toContain('aria-label="step 2: 2.000 ×"');
    expect(page).toContain('2.00 × at most (step 2)');
    expect(page).not.toMatch(/\b(src|href)="(?!#)/);
    const refused = await fusco('inspect', 'steps.npy', ...args, '--html', 'r.html', '--run', 'x.json');
    expectRefusal(refused, 'E_USAGE', /--run is only valid with a plan file/);
  });
});

describe('fusco inspect --html', () => {
  it('writes one file that holds its own style and script, and prints the summary as well', async () => {
    await makePlan();
    const { code, stdout, stderr } = await fusco('inspect', 'p.fusco', '--html', 'p.html');
    expect(code).toBe(0);
    expect(stdout).toContain('verified');
    expect(stderr).toMatch(/^report of plan [0-9a-f]{12}: [\d.]+ KiB -> p\.html\n$/);
    const page = readFileSync('p.html', 'utf8');
    expect(page).toContain('<title>Plan ');
    expect(page).toContain('--near:');
    expect(page).toContain('addEventListener');
  });

  it('is the same file for the same plan', async () => {
    await makePlan('--strategy', 'hier', '--ranks-per-node', '1');
    await fusco('inspect', 'p.fusco', '--html', 'a.html');
    await fusco('inspect', 'p.fusco', '--html', 'b.html', '--json');
    expect(readFileSync('a.html', 'utf8')).toBe(readFileSync('b.html', 'utf8'));
  });

  it('shows a broken plan, and still exits with 2', async () => {
    await makePlan();
    const bytes = readFileSync('p.fusco');
    // The last byte belongs to the digest of the file.
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync('p.fusco', bytes);
    const { code, stderr } = await fusco('inspect', 'p.fusco', '--html', 'p.html');
    expect(code).toBe(2);
    expect(stderr).toContain('error[E_PLAN_DIGEST]');
    const page = readFileSync('p.html', 'utf8');
    expect(page).toContain('<code>E_PLAN_DIGEST</code>');
    expect(page).toContain('Do not execute this plan.');
  });

  it('refuses a place where it cannot write, before it prints anything', async () => {
    await makePlan();
    expectRefusal(await fusco('inspect', 'p.fusco', '--html', 'no/such/p.html'), 'E_FILE_WRITE');
  });
});
