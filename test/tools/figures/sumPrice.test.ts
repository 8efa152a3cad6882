// The price of sums by token, worked out by hand.

import { describe, expect, it } from 'vitest';
import { rowMatrix } from '../../../planner/traffic.ts';
import { sumFacts } from '../../../tools/figures/facts.ts';
import { predictTimeline } from '../../../tools/figures/prediction.ts';
import { sumPriceOf } from '../../../tools/figures/sumPrice.ts';
import { entryLoads, planLoads } from '../../../tools/simulate/loads.ts';
import { defaultTopology } from '../../../tools/simulate/topology.ts';
import { planOf } from '../../support/buffers.ts';
import { makeRouting, placementOf } from '../../support/workloads.ts';

// Two nodes of two ranks, an expert a rank, rows of 8 bytes. Rank 0 sends a token to ranks 1, 2 and 3, another to ranks 2
// and 3: rank 2 forwards both.
const routing = [
  [
    [1, 2, 3],
    [2, 3, -1],
  ],
  [],
  [],
  [],
];
const options = { experts: 4, ranksPerNode: 2, hidden: 4, strategy: 'hier', balance: 'static' } as const;

describe('sumPriceOf', () => {
  it('by node: a partial sum per token between nodes; by token: a row per entry', async () => {
    const price = sumPriceOf(await planOf(routing, 3, options))!;
    expect(price.sum).toBe('node');
    // Rank 3 returns two rows to rank 2, and rank 1 one to rank 0; two partial sums.
    expect(price.node).toMatchObject({ linkBytes: 8 * (2 + 1 + 2), interNodeBytes: 8 * 2 });
    expect(price.token).toMatchObject({ linkBytes: 8 * (1 + 4), interNodeBytes: 8 * 4 });
  });

  it('counts partial sums that are kept in float32 with four bytes an element', async () => {
    const price = sumPriceOf(await planOf(routing, 3, { ...options, partial: 'f32', sum: 'token' }))!;
    expect(price.sum).toBe('token');
    expect(price.node).toMatchObject({ linkBytes: 8 * 3 + 16 * 2, interNodeBytes: 16 * 2 });
    expect(price.token).toMatchObject({ linkBytes: 8 * 5, interNodeBytes: 8 * 4 });
  });

  it('predicts the times that the timelines of both plans have', async () => {
    const node = await planOf(routing, 3, options);
    const token = await planOf(routing, 3, { ...options, sum: 'token' });
    const price = sumPriceOf(node)!;
    const machine = defaultTopology(node.spec);
    expect(price.machine).toBe(machine.name);
    expect(sumPriceOf(token)).toEqual({ ...price, sum: 'token' });
    expect(price.node.us).toBe(predictTimeline(node, machine).combine.us);
    expect(price.token.us).toBe(predictTimeline(token, machine).combine.us);
    expect(predictTimeline(token, machine).dispatch).toEqual(predictTimeline(node, machine).dispatch);
  });

  it('is nothing for a flat plan, which has no other order', async () => {
    expect(sumPriceOf(await planOf(routing, 3, { ...options, strategy: 'flat' }))).toBeUndefined();
  });

  it('is shown with the ratio, and with the order of the plan marked', async () => {
    const [node, token] = sumFacts(sumPriceOf(await planOf(routing, 3, { ...options, sum: 'token' }))!);
    expect(node![0]).toBe('sum by node');
    expect(token![0]).toBe('sum by token *');
    expect(token![1]).toMatch(/moves 40 B between ranks, 32 B of it between nodes.* 1\.00 x the bytes/);
  });
});

describe('entryLoads', () => {
  it.each(['blocks', 'replicated'])(
    'of a hierarchical plan are the loads of the flat plan: %s',
    async (kind) => {
      const workload = { family: 'hotExperts', seed: 3, ranks: 8, tokens: 40, topk: 3, experts: 16 } as const;
      const given = {
        experts: 16,
        ranksPerNode: 2,
        capacity: 90,
        hidden: 8,
        sliceBytes: 64,
        placement: placementOf(kind, 16, 8),
      };
      const ids = makeRouting({ ...workload, masked: 0.1 });
      // Replicas on the local node are preferred, so that both plans choose the same ones.
      const flat = await planOf(ids, 3, { ...given, strategy: 'flat' });
      const hier = await planOf(ids, 3, { ...given, strategy: 'hier' });
      expect(rowMatrix(hier)).toEqual(rowMatrix(flat));
      expect(entryLoads(hier)).toEqual(planLoads(flat));
      expect(entryLoads(hier)).not.toEqual(planLoads(hier));
      const slices = flat.shards.map((shard) => shard.slices.length / 3);
      expect(planLoads(flat).slices).toBe(Math.max(...slices));
    },
  );
});
