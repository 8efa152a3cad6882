import { expect, it } from 'vitest';
import { loadPlanner } from '../../../planner/node.ts';
import { memoryFact } from '../../../tools/figures/facts.ts';
import { memoryOf } from '../../../tools/figures/memory.ts';
import { summarize } from '../../../tools/figures/summary.ts';
import { toTables } from '../../support/workloads.ts';

const factOf = (plan: Parameters<typeof summarize>[0]) => memoryFact(summarize(plan))[1];

it('a flat plan needs its buffers, and for nccl the rows that return', async () => {
  // Rows of 4 bytes. Rank 0: 3 tokens, 1 row received, 3 rows returned. Rank 1: 1 token, 3 rows received, 1 returned.
  const options = { ranks: 2, experts: 2, hidden: 2, dtype: 'bf16' } as const;
  const plan = (await loadPlanner()).planAll(toTables([[[1], [1], [1]], [[0]]], 1), options);
  expect(memoryOf(plan)).toEqual({ recvBytes: 12, host: 16, cuda: 16, nccl: 4 * (3 + 1 + 3) });
  expect(factOf(plan)).toBe(
    'receive buffer 12 B on the largest rank; with tokens: host, cuda 16 B, nccl at most 28 B',
  );
});

it('a hierarchical plan needs landing rows and partial sums as well', async () => {
  const options = {
    ranks: 2,
    experts: 2,
    ranksPerNode: 1,
    hidden: 2,
    dtype: 'bf16',
    strategy: 'hier',
    partial: 'f32',
  } as const;
  const plan = (await loadPlanner()).planAll(toTables([[[1], [1], [1]], [[0]]], 1), options);
  // Landing rows: 1 at rank 0, 3 at rank 1. Partial sums of 8 bytes: 3 for rank 0, 1 for rank 1.
  expect(memoryOf(plan)).toEqual({ recvBytes: 12, host: 16, cuda: 16 + 4 + 24, nccl: 16 + 24 });
  expect(factOf(plan)).toContain('host 16 B, cuda at most 44 B, nccl at most 40 B');
});
