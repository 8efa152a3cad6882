// The Python package in one layer, where `npm run test:python` has installed it; its tests are in native/python/tests.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { planId } from '../../planner/format/digest.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { readPlan } from '../../tools/files/index.ts';
import { ROOT, useTemporaryDirectory } from '../support/cli.ts';
import { run } from '../support/programs.ts';

const PYTHON = join(ROOT, 'build/python/venv/bin/python');
// Looks for the packages without importing them, which takes seconds.
const FIND =
  "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ('fusco', 'torch', 'numpy'))))";
const isInstalled = existsSync(PYTHON) && (await run(PYTHON, ['-c', FIND])).code === 0;

useTemporaryDirectory();

const PROGRAM = `
import torch
import fusco.torch

shuffle = fusco.torch.ExpertShuffle(experts=4, hidden=8, topk=2, max_tokens=2, ranks=2, strategy='flat')
x = torch.ones(4, 8, requires_grad=True)
ids = torch.tensor([[0, 3], [1, 2], [2, -1], [3, 0]])
weights = torch.full((4, 2), 0.5)
rows, handle = shuffle.dispatch(x, ids, weights)
shuffle.combine(2 * rows, handle).sum().backward()
assert x.grad[:, 0].tolist() == [2, 2, 1, 2]
handle.save('python.fusco')
print(handle.plan_id())
`;

it.skipIf(!isInstalled)('a layer in Python has the plan that TypeScript makes', async () => {
  const { code, stdout, stderr } = await run(PYTHON, ['-c', PROGRAM]);
  expect([code, code === 0 ? '' : stderr]).toEqual([0, '']);
  const tables = [
    [0, 3, 1, 2],
    [2, -1, 3, 0],
  ].map((ids) => ({ ids: Int32Array.from(ids), tokens: 2, topk: 2 }));
  const plan = (await loadPlanner()).planAll(tables, { experts: 4, ranks: 2, ranksPerNode: 1, hidden: 8 });
  const id = await planId(plan, nodeSha256);
  expect(stdout.trim()).toBe(id);
  expect(await planId(await readPlan('python.fusco'), nodeSha256)).toBe(id);
});
