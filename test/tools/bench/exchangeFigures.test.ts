// Arithmetic of the figures of exchanges: rows worked out by hand, times injected.

import { describe, expect, it } from 'vitest';
import { visitEntries } from '../../../planner/traffic.ts';
import {
  CHAIN_CALLS,
  type ChainClock,
  caseCandidates,
  measureCases,
  movedRows,
  stageFigures,
} from '../../../tools/bench/exchangeFigures.ts';
import { workloadTable, workloadTables } from '../../../tools/bench/ids.ts';
import { counterTables } from '../../../tools/workload/counterHash.ts';
import { planOf } from '../../support/buffers.ts';

describe('movedRows', () => {
  // Two experts a rank. Rank 0 sends a token to both experts of rank 1 and to its own expert 0, another to rank 2 and to rank
  // 3; rank 2 sends one to rank 1. Rank 1 receives 3 rows for 2 pairs of a token and a rank.
  const routing = [
    [
      [2, 3, 0],
      [4, 6, -1],
    ],
    [],
    [[2, -1, -1]],
    [],
  ];
  const options = { experts: 8, ranksPerNode: 2 };

  it('straight to every slot: the busier direction of the busiest rank', async () => {
    expect(movedRows(await planOf(routing, 3, options))).toEqual({
      link: 4, // rank 0: two rows for rank 1, one for 2, one for 3
      memory: 3, // rank 0: two tokens and one received row; rank 1: three received rows
      toRanks: 4,
      toSlots: 5,
    });
  });

  it('once per rank: rows of one token for one rank cross once', async () => {
    const plan = await planOf(routing, 3, { ...options, ranksPerNode: 1, strategy: 'hier' });
    expect(movedRows(plan)).toEqual({ link: 3, memory: 3, toRanks: 4, toSlots: 5 });
    expect(movedRows(plan, visitEntries).link).toBe(4);
  });

  it('once per node: what the forwarder hands on crosses a link, too', async () => {
    // Rank 0 sends two rows inside its node, one to a forwarder, and as a forwarder hands on the row of rank 2.
    const plan = await planOf(routing, 3, { ...options, strategy: 'hier', balance: 'static' });
    expect(movedRows(plan).link).toBe(4);
  });

  it('does not count what is masked or dropped', async () => {
    const plan = await planOf([[[1], [1], [-1]], []], 1, { experts: 2, ranksPerNode: 1, capacity: 1 });
    expect(movedRows(plan)).toEqual({ link: 1, memory: 3, toRanks: 1, toSlots: 1 });
  });
});

describe('stageFigures', () => {
  const rows = { link: 100, memory: 300, toRanks: 120, toSlots: 200 };

  it('compares the time of a call with the floors, and counts rows per rank and per slot', () => {
    // 100 rows of 4000 bytes at 400 GB/s take 1 us; 300 rows at 3000 GB/s 0.4 us.
    const times = { callNs: 2000, chainedNs: 1600 };
    expect(stageFigures(times, rows, 4000, { linkGBs: 400, memoryGBs: 3000 }, 24)).toEqual({
      ms: 0.002,
      chainedMs: 0.0016,
      linkMiB: 400_000 / 2 ** 20,
      linkFloorUs: 1,
      memoryFloorUs: 0.4,
      linkShare: 0.5,
      memoryShare: 0.2,
      toRanksGBs: 240,
      toSlotsGBs: 400,
      sms: 24,
    });
  });

  it('has no share of a link that there is not', () => {
    const figures = stageFigures({ callNs: 1, chainedNs: 1 }, rows, 1, {
      linkGBs: undefined,
      memoryGBs: 300,
    });
    expect(figures).toMatchObject({ linkFloorUs: undefined, linkShare: undefined, memoryShare: 1 });
    expect(figures.sms).toBeUndefined();
  });
});

describe('times of a case', () => {
  const COST: Record<string, number> = { dispatch: 7, combine: 5 };

  /** A clock of calls that cost what their names say, and 100 for the way to the first one. */
  function fakeClock(): { clock: ChainClock; log: string[] } {
    const log: string[] = [];
    const clock: ChainClock = (calls, times) => () => {
      const names: string[] = [];
      for (let i = 0; i < times; i++) for (const call of calls) names.push(String(call()));
      log.push(names.join(' '));
      return 100 + names.reduce((sum, name) => sum + COST[name]!, 0);
    };
    return { clock, log };
  }
  const calls = { dispatch: () => 'dispatch', combine: () => 'combine' };

  it('are of one call, of ten back to back, and of ten pairs in turn', async () => {
    const { clock, log } = fakeClock();
    const candidates = caseCandidates(calls, clock);
    expect(await candidates.dispatch()).toBe(107);
    expect(await candidates.chainedDispatch()).toBe(17);
    expect(await candidates.combine()).toBe(105);
    expect(await candidates.chainedCombine()).toBe(15);
    expect(await candidates.pair()).toBe(10 + 12);
    const many = (name: string) => Array(CHAIN_CALLS).fill(name).join(' ');
    expect(log).toEqual(['dispatch', many('dispatch'), 'combine', many('combine'), many('dispatch combine')]);
  });

  it('are measured in turn with other candidates, and kept apart by name', async () => {
    const { clock, log } = fakeClock();
    const slow = { dispatch: () => 'combine', combine: () => 'combine' };
    const copy = { bytes: 50, run: () => 25 };
    const { cases, others } = await measureCases(
      { a: calls, b: slow },
      clock,
      { dispatch: copy },
      { rounds: 3 },
    );
    expect(cases.a).toEqual({
      dispatch: { callNs: 107, chainedNs: 17 },
      combine: { callNs: 105, chainedNs: 15 },
      pairNs: 22,
    });
    expect(cases.b.dispatch.callNs).toBe(105);
    expect(others.dispatch).toEqual({ ns: 25, ms: 25e-6, rate: 2 });
    // A warm-up and three rounds of five measurements of both cases.
    expect(log.length).toBe(4 * 2 * 5);
    expect(log.slice(0, 10)).toEqual(log.slice(10, 20));
  });
});

describe('workloads of the benches', () => {
  const sizes = { ranks: 3, tokens: 5, topk: 2, experts: 16 };

  it('have the same tables for one rank alone as for all of them', () => {
    for (const workload of ['uniform', 'collectivex'] as const) {
      const tables = workloadTables(workload, sizes);
      expect(tables.map((_, rank) => workloadTable(workload, sizes, rank))).toEqual(tables);
      expect(new Set(tables.map(({ ids }) => ids.join()))).toHaveProperty('size', 3);
    }
  });

  it('collectivex has the seed of that benchmark', () => {
    expect(workloadTables('collectivex', sizes)).toEqual(counterTables({ ...sizes, seed: 67 }));
  });
});
