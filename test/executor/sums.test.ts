// Sums by token: the same tokens on any number of ranks, under any strategy, give the same bits.

import { describe, expect, it } from 'vitest';
import type { BackendName } from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import { findAddon } from '../../executor/native/addon.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { PlanOptions, SumOrder } from '../../planner/index.ts';
import { combined, f32, floats, planOf } from '../support/buffers.ts';
import { expertRowsOn, SAME_TOKENS_OPTIONS, tablesOn, weightsOn } from '../support/sameTokens.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];
const RANKS = [1, 2, 4, 8, 16, 64];
const HIDDEN = SAME_TOKENS_OPTIONS.hidden;

type Way = Pick<PlanOptions, 'strategy' | 'ranksPerNode' | 'sum' | 'partial'>;

/** Combined rows of all tokens, weighted as in a combine and unweighted as in dispatch's gradient, in token order. */
async function sums(backend: BackendName, ranks: number, dtype: FloatDtype, way: Way): Promise<string> {
  await using group = await createGroup({ backend, ranks });
  const plan = group.plan(tablesOn(ranks), { ...SAME_TOKENS_OPTIONS, ...way });
  using exchange = await group.prepare(plan);
  const rowBytes = HIDDEN * (dtype === 'f32' ? 4 : 2);
  const from = expertRowsOn(plan, dtype, rowBytes);
  const found: string[] = [];
  for (const given of [{ weights: weightsOn(plan) }, {}]) {
    const to = exchange.tokens.map((tokens) => new Uint8Array(tokens * rowBytes).fill(0xaa));
    await exchange.combine({ dtype, rowBytes, from, to, ...given });
    found.push(Buffer.concat(to).toString('hex'));
  }
  return found.join(' ');
}

/** Every number of ranks a node that divides the ranks. */
const shapesOf = (ranks: number) => [1, 2, 4, 8].filter((ranksPerNode) => ranks % ranksPerNode === 0);

describe.each(BACKENDS)('%s: sums by token', (backend) => {
  it.each(['f32', 'bf16'] as const)(
    'have the same bits on 1, 2, 4, 8, 16 and 64 ranks and for every strategy: %s',
    async (dtype) => {
      const expected = await sums(backend, 1, dtype, { strategy: 'flat' });
      for (const ranks of RANKS) {
        expect(await sums(backend, ranks, dtype, { strategy: 'flat' }), `${ranks} ranks, flat`).toBe(
          expected,
        );
        for (const ranksPerNode of shapesOf(ranks)) {
          const way = { strategy: 'hier', ranksPerNode, sum: 'token' } as const;
          expect(await sums(backend, ranks, dtype, way), `${ranks} ranks, ${ranksPerNode} a node`).toBe(
            expected,
          );
        }
      }
    },
  );

  it('have other bits than sums by node of several nodes', async () => {
    const expected = await sums(backend, 8, 'f32', { strategy: 'hier', ranksPerNode: 2, sum: 'token' });
    for (const ranksPerNode of [1, 2, 4]) {
      const byNode = await sums(backend, 8, 'f32', { strategy: 'hier', ranksPerNode, partial: 'f32' });
      expect(byNode, `${ranksPerNode} a node`).not.toBe(expected);
    }
  });
});

describe.each(BACKENDS)('%s: one token of rank 0 on two other nodes', (backend) => {
  // k 0 and 2 go to node 1, k 1 to node 2. In float32 2^24 + 1 is 2^24.
  const routing = [[[2, 4, 3]], [], [], [], [], []];
  const rows: Record<number, number> = { 2: 2 ** 24, 4: 1, 3: -(2 ** 24) };

  async function sumBy(sum: SumOrder): Promise<number[]> {
    const options = { experts: 6, ranksPerNode: 2, strategy: 'hier', sum } as const;
    const plan = await planOf(routing, 3, options);
    const from = plan.shards.map(({ rank, recvRows }) => f32(...(recvRows === 0 ? [] : [rows[rank]!])));
    return floats((await combined(plan, 'f32', 4, from, undefined, backend))[0]!);
  }

  it('by node: (2^24 - 2^24) + 1', async () => {
    expect(await sumBy('node')).toEqual([1]);
  });

  it('by token: (2^24 + 1) - 2^24', async () => {
    expect(await sumBy('token')).toEqual([0]);
  });
});
