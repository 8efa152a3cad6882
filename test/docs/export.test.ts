// docs/export.md: its script is run by two processes over a plan that is small enough to work out by hand.

import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fusco, ROOT, saveRouting, useTemporaryDirectory } from '../support/cli.ts';
import { run } from '../support/programs.ts';

useTemporaryDirectory();

const hasTorch = spawnSync('python3', ['-c', 'import torch, numpy']).status === 0;
const page = readFileSync(join(ROOT, 'docs/export.md'), 'utf8');
const script = /^```python\n(.*?)^```$/ms.exec(page)![1]!;

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

it('lists the arrays that fusco export writes', async () => {
  saveRouting('r.npy', [[[0, 1]], [[1, 0]]]);
  await fusco('plan', 'r.npy', '--experts', '2', '--no-multi-hot', '-o', 'p.fusco');
  await fusco('export', 'p.fusco', '--out', 'arrays');
  const written = execFileSync('ls', ['arrays'], { encoding: 'utf8' }).trim().split('\n');
  const listed = [...page.matchAll(/^\| `rank\{r\}\.(\w+)\.npy` \|/gm)].map((match) => match[1]!);
  expect(written).toEqual([0, 1].flatMap((rank) => listed.map((name) => `rank${rank}.${name}.npy`)).sort());
});

it('has a script that Python can read', () => {
  writeFileSync('exchange.py', script);
  const { status, stderr } = spawnSync('python3', ['-m', 'py_compile', 'exchange.py'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
});

it.skipIf(!hasTorch)('exchanges rows along the plan, masked and dropped entries left out', async () => {
  // Four experts on two ranks, blocks padded to 4 rows, at most two rows per expert.
  saveRouting('r.npy', [
    [
      [0, 1],
      [0, 2],
    ],
    [
      [0, 3],
      [3, -1],
    ],
  ]);
  const options = ['--align', '4', '--capacity', '2'];
  await fusco('plan', 'r.npy', '--experts', '4', ...options, '-o', 'p.fusco');
  await fusco('export', 'p.fusco', '--out', 'arrays');
  writeFileSync('exchange.py', script);
  const port = await freePort();
  const launch = (rank: number) => {
    const group = { RANK: `${rank}`, WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT: `${port}` };
    return run('python3', ['exchange.py', 'arrays'], { env: { ...process.env, ...group } });
  };
  const results = await Promise.all([launch(0), launch(1)]);
  expect(results.map(({ code, stderr }) => (code === 0 ? 0 : stderr))).toEqual([0, 0]);
  // The first expert of a rank multiplies by 1, the second by 2; weights are 1/2, a row has four elements.
  // Rank 0, rows of 1: (1 + 2) / 2 and (1 + 1) / 2. Rank 1, rows of 2: expert 0 drops its third row, so 4 / 2 and 4 / 2.
  expect(results.map(({ stdout }) => stdout.trim())).toEqual([
    'rank 0: received 3 rows, sum 10.000',
    'rank 1: received 3 rows, sum 16.000',
  ]);
});
