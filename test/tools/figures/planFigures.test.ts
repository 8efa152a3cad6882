// The figures behind the charts, worked out by hand or compared with the planner's own counts.

import { beforeAll, describe, expect, it } from 'vitest';
import { loadPlanner } from '../../../planner/node.ts';
import type { Planner } from '../../../planner/planner.ts';
import { loadOf } from '../../../tools/figures/load.ts';
import { figuresOf } from '../../../tools/figures/planFigures.ts';
import { directLengths, forwardLengths, spreadOf } from '../../../tools/figures/tokens.ts';
import { planOf } from '../../support/buffers.ts';
import { SAMPLE_NAMES, samplePlan } from '../../support/samplePlans.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

describe('loadOf', () => {
  it('gives max / mean, (max - mean) / mean and mean / max', () => {
    const load = loadOf([1, 2, 3, 10], ['a', 'b', 'c', 'd']);
    expect(load).toMatchObject({ mean: 4, max: 10, maxOverMean: 2.5, excess: 1.5, meanOverMax: 0.4 });
  });

  it('calls nothing at all balanced', () => {
    expect(loadOf([0, 0], ['a', 'b'])).toMatchObject({ max: 0, maxOverMean: 1, excess: 0, meanOverMax: 1 });
  });
});

// Four ranks, two a node, one expert each. Capacity 3 drops the last row of expert 0.
//   rank 0: (0,1) (0,2)   rank 1: (3,-1)   rank 2: (0,2)   rank 3: (0,-1), dropped
const OPTIONS = { experts: 4, ranksPerNode: 2, hidden: 4, capacity: 3 } as const;
const ROUTING = [
  [
    [0, 1],
    [0, 2],
  ],
  [[3, -1]],
  [[0, 2]],
  [[0, -1]],
];

describe('spreadOf', () => {
  it('counts the ranks and nodes of kept entries', async () => {
    const plan = await planOf(ROUTING, 2, OPTIONS);
    expect(spreadOf(plan)).toEqual({
      // rank 3's token reaches nothing, rank 1's one rank, the others two.
      ranks: [1, 1, 3],
      // r0t0 stays on node 0; r0t1 and r2t0 reach both; r1t0 reaches node 1.
      nodes: [1, 2, 2],
    });
  });
});

describe('directLengths', () => {
  it('measures runs of consecutive tokens to one expert', async () => {
    // Rank 0: tokens 0, 1, 2 choose expert 0, token 3 expert 1, token 4 expert 0 again.
    const plan = await planOf([[[0], [0], [0], [1], [0]]], 1, { experts: 2 });
    expect(directLengths(plan)).toEqual({ bins: [2, 1], segments: 3, rows: 5, longest: 3 });
  });

  it.each(SAMPLE_NAMES)('finds as many segments in the sample %s as the planner counted', (name) => {
    const plan = samplePlan(planner, name);
    const { segments, rows, bins } = directLengths(plan);
    expect(segments).toBe(plan.shards.reduce((sum, shard) => sum + shard.segments, 0));
    expect(rows).toBe(plan.shards.reduce((sum, shard) => sum + shard.sendEntry.length, 0));
    expect(bins.reduce((sum, n) => sum + n, 0)).toBe(segments);
  });
});

describe('forwardLengths', () => {
  it('measures runs of consecutive tokens to consecutive rows of one forwarder', async () => {
    // Two ranks, one a node. Tokens 0 and 1 of rank 0 go to rank 1's expert 1 and land in its slots 0 and 1; token 2
    // stays; token 3 goes again, to slot 2: contiguous there, but not here.
    const plan = await planOf([[[1], [1], [0], [1]], []], 1, {
      experts: 2,
      ranksPerNode: 1,
      strategy: 'hier',
    });
    expect(forwardLengths(plan)).toEqual({ bins: [1, 1], segments: 2, rows: 3, longest: 2 });
  });
});

describe('figuresOf', () => {
  it('names experts in the order in which they lie on their ranks, whatever the placement', async () => {
    const plan = await planOf([[[0]], [[2]]], 1, { experts: 3, placement: [1, 0, [0, 1]] });
    const { experts } = figuresOf(plan, true);
    expect(experts.ticks).toEqual(['1', '2', '0', '2']);
    expect(experts.labels[1]).toBe('expert 2 on rank 0');
    // Rank 0 sends to expert 0 on rank 1; so rank 1's row for expert 2 goes to rank 0.
    expect(experts.rows).toEqual([0, 1, 1, 0]);
  });

  it('adds up: bytes by link are those of the matrix, and rows by expert those by rank', () => {
    for (const name of SAMPLE_NAMES) {
      const { heat, totalBytes, experts, ranks, nicOut, nicIn } = figuresOf(samplePlan(planner, name), true);
      const total = (matrix: readonly (readonly number[])[]) => matrix.flat().reduce((sum, n) => sum + n, 0);
      expect(total(heat.intra)).toBe(totalBytes.intra + totalBytes.own);
      expect(total(heat.inter)).toBe(totalBytes.inter);
      expect(nicOut.reduce((sum, n) => sum + n, 0)).toBe(totalBytes.inter);
      expect(nicIn.reduce((sum, n) => sum + n, 0)).toBe(totalBytes.inter);
      expect(experts.mean * experts.rows.length).toBeCloseTo(ranks.mean * ranks.rows.length, 9);
    }
  });

  it('names the largest of each kind, most unequal first', async () => {
    const { offenders } = figuresOf(await planOf(ROUTING, 2, OPTIONS), true);
    const ratios = offenders.map(({ ratio }) => ratio);
    expect(ratios).toEqual([...ratios].sort((a, b) => b - a));
    const named = new Map(offenders.map((offender) => [offender.what, offender]));
    // Rows received: 3, 1, 2, 1 of 7.
    expect(named.get('Busiest rank')).toMatchObject({ who: 'rank 0', amount: '3 rows', ratio: 12 / 7 });
    expect(named.get('Most entries dropped')).toMatchObject({ who: 'expert 0', amount: '1 row', ratio: 4 });
    // Rows of 8 bytes cross from 0 to 2, 1 to 3 and 2 to 0, one each.
    expect(named.get('Busiest pair on different nodes')).toMatchObject({ amount: '8 B', ratio: 1 });
  });

  it('shares cells of the heat map by whole nodes where there are many ranks', async () => {
    const routing = Array.from({ length: 96 }, (_, rank) => [[(rank + 8) % 96]]);
    const { heat } = figuresOf(await planOf(routing, 1, { experts: 96, hidden: 1, dtype: 'fp8' }), true);
    expect(heat).toMatchObject({ ranksPerCell: 8, cells: 12, cellsPerNode: 0 });
    for (let cell = 0; cell < 12; cell++) {
      expect(heat.inter[cell]).toEqual(
        Array.from({ length: 12 }, (_, to) => (to === (cell + 1) % 12 ? 8 : 0)),
      );
    }
  });

  it('predicts that the slowest link ends its stage, and that no link works longer than its stage', () => {
    for (const name of SAMPLE_NAMES) {
      const { tokens } = figuresOf(samplePlan(planner, name), true);
      for (const part of ['dispatch', 'combine'] as const) {
        const { us, busy, slowest } = tokens!.prediction[part];
        for (const bar of busy) expect(bar.startUs + bar.us).toBeLessThanOrEqual(us + 1e-9);
        if (slowest.us > 0) expect(Math.max(...busy.map((bar) => bar.us))).toBeCloseTo(slowest.us, 9);
      }
    }
  });

  it('leaves out what needs the entries of a plan that was not verified', () => {
    const figures = figuresOf(samplePlan(planner, 'crowded'), false);
    expect(figures.tokens).toBeUndefined();
    expect(figures.ranks.rows).toHaveLength(4);
  });
});
