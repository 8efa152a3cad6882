// Predictions against times worked out by hand on a machine with round numbers (support.ts).

import { describe, expect, it } from 'vitest';
import { compare } from '../../../tools/simulate/compare.ts';
import { planLoads } from '../../../tools/simulate/loads.ts';
import { type Exchange, type Stage, timeExchange, timeStage } from '../../../tools/simulate/model.ts';
import { flatFused, hierFused, unfused } from '../../../tools/simulate/strategies.ts';
import { machine, planner, planOf, ROUND } from './support.ts';

function stagesOf(exchange: Exchange, changes = {}) {
  return timeExchange(exchange, { ...ROUND, ...changes });
}

describe('one pair on two nodes, 100 rows', () => {
  const plan = planOf([[[1]], []], { ranksPerNode: 1 }, 100);
  const loads = planLoads(plan);

  it('flat: latency and bytes over the NIC, then the sum at home', () => {
    const { dispatch, combine } = flatFused(loads, plan.spec);
    const sent = stagesOf(dispatch);
    expect(sent.stages).toMatchObject([{ name: 'send', resource: 'nic', rank: 0, startUs: 0 }]);
    expect(sent.us).toBeCloseTo(5 + 10, 10);
    // One slice: nothing overlaps. 100 rows read, 100 written.
    expect(stagesOf(combine).us).toBeCloseTo(5 + 10 + 0.2, 10);
  });

  it('unfused: a read and a write of every row on each side besides', () => {
    const { dispatch, combine } = unfused(loads, plan.spec);
    expect(stagesOf(dispatch).us).toBeCloseTo(0.2 + 15 + 0.2, 10);
    expect(stagesOf(combine).us).toBeCloseTo(0.2 + 15 + 0.2, 10);
    expect(stagesOf(dispatch, { permuteReached: 0.5 }).us).toBeCloseTo(0.4 + 15 + 0.4, 10);
  });

  it('counts the start of every stage, and of the exchange', () => {
    const { dispatch } = unfused(loads, plan.spec);
    expect(stagesOf(dispatch, { launchUs: 3, setupUs: 40 }).us).toBeCloseTo(40 + 15.4 + 9, 10);
  });
});

describe('all equal: 4 ranks of one node, 10 rows from each to each', () => {
  const plan = planOf(Array(4).fill([[0], [1], [2], [3]]), {}, 10);
  const { dispatch } = flatFused(planLoads(plan), plan.spec);

  it('takes the rows for three peers, and the latency once per peer', () => {
    expect(stagesOf(dispatch).us).toBeCloseTo(3 * 2 + 30 * 0.01, 10);
    expect(stagesOf(dispatch).stages[0]).toMatchObject({ resource: 'nvlink', rank: 0 });
  });

  it('takes the latency once where all peers are served at once', () => {
    expect(stagesOf(dispatch, { channels: 2 }).us).toBeCloseTo(2 * 2 + 0.3, 10);
    expect(stagesOf(dispatch, { channels: 8 }).us).toBeCloseTo(2 + 0.3, 10);
  });

  it('is bound by memory where that is slow: 40 rows read and 40 written', () => {
    expect(stagesOf(dispatch, { hbmGBps: 1 }).stages[0]).toMatchObject({ resource: 'hbm' });
    expect(stagesOf(dispatch, { hbmGBps: 1 }).us).toBeCloseTo(80, 10);
  });
});

describe('one hot rank: 8 nodes of one rank, everybody sends 100 rows to rank 3', () => {
  const plan = planOf(Array(8).fill([[3]]), { ranksPerNode: 1 }, 100);

  it('is bound by what rank 3 receives, not by the mean', () => {
    const { dispatch, combine } = flatFused(planLoads(plan), plan.spec);
    for (const exchange of [dispatch, combine]) {
      const { stages } = stagesOf(exchange, { nicLatencyUs: 0 });
      expect(stages[0]).toMatchObject({ resource: 'nic', rank: 3 });
      expect(stages[0]!.us).toBeCloseTo(7 * 10, 10);
    }
  });
});

describe('two levels: 2 nodes x 2 ranks, 100 tokens of rank 0 to both experts of node 1', () => {
  const options = { ranksPerNode: 2, strategy: 'hier', balance: 'static', sliceBytes: 10_000 } as const;
  const plan = planOf([[[2, 3]], [], [], []], options, 100);
  const loads = planLoads(plan);

  it('crosses once; the forwarder keeps one copy where it landed and hands on the other', () => {
    expect([...loads.inter.nic.out]).toEqual([100, 0, 0, 0]);
    expect([...loads.inter.nic.in]).toEqual([0, 0, 100, 0]);
    expect([...loads.intra.nvlink.out]).toEqual([0, 0, 100, 0]);
    expect([...loads.intra.nvlink.in]).toEqual([0, 0, 0, 100]);
    expect([...loads.local]).toEqual([0, 0, 0, 0]);
    expect([[...loads.summed], loads.slices]).toEqual([[100, 0, 0, 0], 10]);
  });

  it('dispatch takes max + min / slices', () => {
    // NIC: 5 + 10. NVLink: 2 + 1. Ten slices.
    const { us, stages } = stagesOf(hierFused(loads, plan.spec).dispatch);
    expect(us).toBeCloseTo(15 + 3 / 10, 10);
    expect(stages).toMatchObject([
      { name: 'forward', resource: 'nic', rank: 0 },
      { name: 'distribute', resource: 'nvlink', rank: 2 },
    ]);
    // The second starts with the first slice and waits for the last one.
    expect(stages[1]!.startUs).toBeCloseTo(1.5, 10);
    expect(stages[1]!.us).toBe(3);
  });

  it('without overlap it takes the sum', () => {
    expect(stagesOf(hierFused(loads, plan.spec).dispatch, { overlap: 0 }).us).toBeCloseTo(18, 10);
  });

  it('combine gathers, sends one partial sum a token home, and adds', () => {
    const { us, stages } = stagesOf(hierFused(loads, plan.spec).combine);
    expect(stages.map(({ name }) => name)).toEqual(['gather', 'send home', 'add']);
    // Gather 0..3; send home starts after a tenth of it and takes 15; adding starts a tenth of that later, and its
    // last tenth of 200 rows comes after the last partial sum.
    expect(stages.map(({ startUs }) => Number(startUs.toFixed(6)))).toEqual([0, 0.3, 1.8]);
    expect(us).toBeCloseTo(0.3 + 15 + 0.02, 10);
  });

  it('partial sums in float32 are twice the bytes of bf16', () => {
    const wide = planOf([[[2, 3]], [], [], []], { ...options, partial: 'f32' }, 100);
    const { stages } = stagesOf(hierFused(planLoads(wide), wide.spec).combine);
    expect(stages[1]!.us).toBeCloseTo(5 + 20, 10);
  });

  it('against flat: half the bytes between nodes', () => {
    const { predictions, own, best } = compare(plan, planner, machine({}, 2));
    expect(predictions.map(({ strategy, rule }) => `${strategy} ${rule}`)).toEqual([
      'unfused none',
      'flat fused none',
      'hier static',
      'once per rank none',
    ]);
    expect(own).toBe(2);
    // Two peers, one after the other.
    expect(predictions[1]!.dispatch.us).toBeCloseTo(2 * 5 + 20, 10);
    expect(predictions[2]!.dispatch.us).toBeCloseTo(15.3, 10);
    expect(best).toBe(2);
  });
});

describe('ranks that NVLink joins, whatever the nodes of the plan', () => {
  // 100 tokens of rank 0 to two experts of rank 1.
  const options = { experts: 4, ranks: 2, ranksPerNode: 1, balance: 'static' } as const;
  const tables = [
    { ids: Int8Array.from({ length: 200 }, (_, i) => 2 + (i % 2)), tokens: 100, topk: 2 },
    { ids: new Int8Array(0), tokens: 0, topk: 2 },
  ];
  const once = planner.planAll(tables, { ...options, hidden: 500, strategy: 'hier' });

  it('a node of one rank costs NVLink inside a machine and the NIC between machines', () => {
    const near = planLoads(once, 2);
    expect([...near.inter.nvlink.out, ...near.inter.nic.out]).toEqual([100, 0, 0, 0]);
    const far = planLoads(once, 1);
    expect([...far.inter.nvlink.out, ...far.inter.nic.out]).toEqual([0, 0, 100, 0]);
  });

  it('once per rank takes one pass: half the bytes of flat on the link, and the copies behind it', () => {
    const { predictions, best } = compare(once, planner, machine());
    const [, flat, rank] = predictions;
    expect([flat!.strategy, rank!.strategy, best]).toEqual(['flat fused', 'once per rank', 2]);
    expect(flat!.dispatch.us).toBeCloseTo(2 + 2, 10);
    expect(rank!.dispatch.us).toBeCloseTo(2 + 1, 10);
    // Rank 1 reads 100 landed rows and writes 200: where memory is slow, that is the time.
    const slow = compare(once, planner, machine({ hbmGBps: 1 })).predictions[2]!;
    expect(slow.dispatch.us).toBeCloseTo(300, 10);
    // Combine: 200 rows read; rank 0 writes 100 tokens, and writes and reads 100 partial sums.
    expect(slow.combine.us).toBeCloseTo(300, 10);
    expect(slow.combine.stages).toMatchObject([{ name: 'sum and return', resource: 'hbm', rank: 0 }]);
  });

  it('rows straight to the slots of several peers reach a share of the rate', () => {
    const plan = planOf(Array(4).fill([[0], [1], [2], [3]]), {}, 10);
    const us = (scatterReached: number) =>
      compare(plan, planner, machine({ scatterReached, nvlinkLatencyUs: 0 })).predictions[1]!.dispatch.us;
    expect(us(1)).toBeCloseTo(0.3, 10);
    expect(us(0.5)).toBeCloseTo(0.6, 10);
  });
});

describe('dtypes of dispatch and combine', () => {
  const plan = (options: object) => planOf([[[1]], []], { ranksPerNode: 1, ...options }, 100);
  const us = (made: ReturnType<typeof plan>) => {
    const { dispatch, combine } = flatFused(planLoads(made), made.spec);
    return [
      stagesOf(dispatch, { nicLatencyUs: 0 }).us,
      stagesOf(combine, { nicLatencyUs: 0, hbmGBps: 1e9 }).us,
    ];
  };

  it('fp8 dispatches its codes and scales, and combines in 16 bits', () => {
    // 500 codes and 4 scales of 4 bytes a row; 1000 bytes a row on the way back.
    const [dispatch, combine] = us(plan({ dtype: 'fp8' }));
    expect(dispatch).toBeCloseTo(100 * 0.0516, 10);
    expect(combine).toBeCloseTo(10, 5);
  });

  it('combineDtype sets the bytes of combine alone', () => {
    const [dispatch, combine] = us(plan({ combineDtype: 'f32' }));
    expect(dispatch).toBeCloseTo(10, 10);
    expect(combine).toBeCloseTo(20, 5);
  });
});

describe('schedules', () => {
  const stage = (name: string, us: number): Stage => ({ name, hbm: Float64Array.of(us * 1e6) });
  const exchange = (slices: number, ...groups: number[][]): Exchange => ({
    groups: groups.map((group, g) => group.map((us, i) => stage(`${g}${i}`, us))),
    slices,
  });

  it('groups follow one another, stages inside overlap by slices', () => {
    expect(timeExchange(exchange(4, [8], [2]), ROUND).us).toBe(10);
    expect(timeExchange(exchange(4, [8, 2]), ROUND).us).toBe(8.5);
    expect(timeExchange(exchange(4, [2, 8]), ROUND).us).toBe(8.5);
    expect(timeExchange(exchange(4, [4, 8, 4]), ROUND).us).toBe(4 / 4 + 8 + 4 / 4);
    expect(timeExchange(exchange(1, [4, 8, 4]), ROUND).us).toBe(16);
    expect(timeExchange(exchange(4, [8, 2]), { ...ROUND, overlap: 0.5 }).us).toBe(8 + 2 * (1 - 0.5 * 0.75));
  });

  it('a stage in which nothing moves costs nothing, not even its start', () => {
    const idle: Stage = { name: 'idle', nic: { bytes: new Float64Array(3), peers: new Float64Array(3) } };
    expect(timeStage(idle, { ...ROUND, launchUs: 7 })).toEqual({
      name: 'idle',
      us: 0,
      resource: 'none',
      rank: 0,
    });
  });
});
