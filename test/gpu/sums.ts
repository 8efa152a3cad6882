// Sums by token on devices: the same tokens on 1, 2 and 4 ranks give the bits that one rank of the reference gives.

import assert from 'node:assert/strict';
import { createGroup, type Group } from '../../executor/group.ts';
import type { PlanOptions, VerifiedPlan } from '../../planner/index.ts';
import { expertRowsOn, SAME_TOKENS_OPTIONS, tablesOn, weightsOn } from '../support/sameTokens.ts';
import type { GpuCase } from './support.ts';

const DTYPE = 'bf16';
const ROW_BYTES = 2 * SAME_TOKENS_OPTIONS.hidden;

type Way = Pick<PlanOptions, 'strategy' | 'ranksPerNode'>;

/** Combined rows of the group's local ranks, weighted and then unweighted as in dispatch's gradient. */
async function combinedBy(group: Group, plan: VerifiedPlan): Promise<Uint8Array[][]> {
  using exchange = await group.prepare(plan);
  const local = <T>(perRank: readonly T[]) => group.localRanks.map((rank) => perRank[rank]!);
  const from = local(expertRowsOn(plan, DTYPE, ROW_BYTES));
  const found: Uint8Array[][] = [];
  for (const given of [{ weights: local(weightsOn(plan)) }, {}]) {
    const to = exchange.tokens.map((tokens) => new Uint8Array(tokens * ROW_BYTES).fill(0xaa));
    await exchange.combine({ dtype: DTYPE, rowBytes: ROW_BYTES, from, to, ...given });
    found.push(to);
  }
  return found;
}

/** A plan of the tokens on some ranks. */
async function planOn(ranks: number, way: Way): Promise<VerifiedPlan> {
  using group = await createGroup({ ranks, backend: 'reference' });
  return group.plan(tablesOn(ranks), { ...SAME_TOKENS_OPTIONS, ...way, sum: 'token' });
}

/** Rows of all tokens, on one rank of the reference. */
async function expectedRows(): Promise<Uint8Array[]> {
  using group = await createGroup({ ranks: 1, backend: 'reference' });
  const found = await combinedBy(group, await planOn(1, { strategy: 'flat' }));
  return found.map(([rows]) => rows!);
}

/** Combines on a group and compares the rows of its local ranks with those of the same tokens on one rank. */
export async function checkSums(group: Group, way: Way): Promise<void> {
  const plan = await planOn(group.ranks, way);
  const found = await combinedBy(group, plan);
  const first = plan.shards.map((_, rank) =>
    plan.shards.slice(0, rank).reduce((tokens, shard) => tokens + shard.tokens * ROW_BYTES, 0),
  );
  for (const [i, expected] of (await expectedRows()).entries()) {
    for (const [at, rank] of group.localRanks.entries()) {
      const rows = found[i]![at]!;
      const wanted = expected.subarray(first[rank]!, first[rank]! + rows.length);
      assert.equal(
        Buffer.compare(rows, wanted),
        0,
        `${i === 0 ? 'weighted' : 'unweighted'} sums of rank ${rank}`,
      );
    }
  }
}

export const sumCases: GpuCase[] = [1, 2, 4].flatMap((ranks) =>
  ([{ strategy: 'flat' }, ...[1, 2, 4].map((ranksPerNode) => ({ strategy: 'hier', ranksPerNode }))] as Way[])
    .filter(({ ranksPerNode = 1 }) => ranks % ranksPerNode === 0)
    .map((way) => ({
      name: `sums by token: ${ranks} ranks, ${way.strategy}, ${way.ranksPerNode ?? ranks} a node`,
      async run() {
        using group = await createGroup({ ranks, backend: 'cuda' });
        await checkSums(group, way);
      },
    })),
);
