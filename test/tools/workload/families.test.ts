// Workload families: pure functions of their arguments, the same everywhere, and of the shape that they claim.

import { describe, expect, it } from 'vitest';
import type { RoutingTable } from '../../../planner/routing.ts';
import { Urn } from '../../../tools/workload/draw.ts';
import {
  FAMILIES,
  type Family,
  makeWorkload,
  resampleTokens,
  sampleCounts,
  type Workload,
} from '../../../tools/workload/families.ts';
import { Stream } from '../../../tools/workload/random.ts';
import { toTables } from '../../support/workloads.ts';

const ALL = Object.keys(FAMILIES) as Family[];

function tokensOf({ ids, tokens, topk }: RoutingTable): number[][] {
  return Array.from({ length: tokens }, (_, token) =>
    Array.from(ids.subarray(token * topk, (token + 1) * topk), Number),
  );
}

/** Entries per rank that hosts them, for contiguous blocks. */
function rankLoads(tables: readonly RoutingTable[], experts: number): number[] {
  const loads = tables.map(() => 0);
  for (const table of tables) {
    for (const id of table.ids) loads[Math.floor((Number(id) * tables.length) / experts)]!++;
  }
  return loads;
}

describe('the generator', () => {
  // From an implementation in another language, with integers of any size.
  it('gives known words', () => {
    expect(new Stream(1, 2, 3).next()).toBe(3402595409);
    const stream = new Stream(7);
    expect([stream.next(), stream.next(), stream.next()]).toEqual([236867408, 3475793006, 2819065773]);
  });

  it('stays below its limit, to the largest one, and shuffles every item into the list', () => {
    for (const limit of [1, 2, 3, 1000, 2 ** 21, 2 ** 32]) {
      const stream = new Stream(limit % 97);
      for (let i = 0; i < 1000; i++) {
        const value = stream.below(limit);
        expect(Number.isInteger(value) && value >= 0 && value < limit).toBe(true);
      }
    }
    expect(new Stream(3).shuffle(50).sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });
});

describe('literal prefixes of rank 1 of 4, top-3 of 16 experts, seed 5, step 1', () => {
  const golden: [Family, number[][]][] = [
    [
      'balanced',
      [
        [6, 9, 0],
        [14, 15, 7],
        [12, 10, 5],
        [2, 0, 14],
      ],
    ],
    [
      'hot-experts',
      [
        [2, 6, 0],
        [13, 15, 3],
        [11, 7, 0],
        [0, 14, 12],
      ],
    ],
    [
      'hot-rank',
      [
        [2, 3, 0],
        [11, 15, 2],
        [7, 3, 1],
        [0, 12, 13],
      ],
    ],
    [
      'spread-hot-experts',
      [
        [4, 8, 0],
        [12, 15, 5],
        [12, 8, 4],
        [0, 12, 13],
      ],
    ],
    [
      'rotating-hot-spot',
      [
        [5, 6, 1],
        [11, 15, 5],
        [7, 5, 4],
        [1, 12, 13],
      ],
    ],
    [
      'imbalanced',
      [
        [9, 10, 1],
        [11, 15, 9],
        [11, 10, 8],
        [7, 1, 12],
      ],
    ],
    [
      'one-node',
      [
        [4, 0, 7],
        [11, 14, 13],
        [1, 0, 7],
        [14, 10, 8],
      ],
    ],
  ];
  it.each(golden)('%s', (family, expected) => {
    const sizes = { seed: 5, step: 1, ranks: 4, tokens: 9, topk: 3, experts: 16, ranksPerNode: 2 };
    expect(tokensOf(makeWorkload({ ...sizes, family })[1]!).slice(0, 4)).toEqual(expected);
  });

  it('ragged has 9, 2, 9 and 1 of at most 9 tokens', () => {
    const tables = makeWorkload({
      family: 'ragged',
      seed: 5,
      step: 1,
      ranks: 4,
      tokens: 9,
      topk: 3,
      experts: 16,
    });
    expect(tables.map(({ tokens }) => tokens)).toEqual([9, 2, 9, 1]);
  });

  it('counts are drawn by their share', () => {
    const tables = sampleCounts([0, 5, 0, 1, 2, 40, 0, 9], { seed: 5, ranks: 2, tokens: 4, topk: 2 });
    expect(tokensOf(tables[1]!)).toEqual([
      [5, 7],
      [5, 3],
      [5, 4],
      [7, 5],
    ]);
  });
});

describe.each(ALL)('%s', (family) => {
  const workload: Workload = { family, seed: 11, step: 3, ranks: 8, tokens: 200, topk: 4, experts: 64 };

  it('gives the same table twice, and another one for another seed and for another step', () => {
    const made = makeWorkload(workload);
    expect(makeWorkload(workload)).toEqual(made);
    expect(makeWorkload({ ...workload, seed: 12 })).not.toEqual(made);
    expect(makeWorkload({ ...workload, step: 4 })).not.toEqual(made);
  });

  it('has distinct ids in range in every token', () => {
    for (const table of makeWorkload(workload)) {
      for (const ids of tokensOf(table)) {
        expect(new Set(ids).size).toBe(4);
        expect(ids.every((id) => id >= 0 && id < 64)).toBe(true);
      }
    }
  });

  it('gives every expert to a token that asks for all of them, where a token may', () => {
    const topk = { 'one-node': 32, 'idle-rank': 56 }[family as string] ?? 64;
    const tables = makeWorkload({ ...workload, tokens: 3, topk, ranksPerNode: 4, skew: 1000 });
    for (const table of tables) for (const ids of tokensOf(table)) expect(new Set(ids).size).toBe(topk);
  });

  it('takes no tokens at all', () => {
    const tables = makeWorkload({ ...workload, tokens: 0 });
    expect(tables.map(({ tokens, ids }) => [tokens, ids.length])).toEqual(Array(8).fill([0, 0]));
  });
});

describe('shapes', () => {
  const sizes = { seed: 2, ranks: 8, tokens: 2000, topk: 4, experts: 64 };
  const loadsOf = (workload: Partial<Workload> & { family: Family }) =>
    rankLoads(makeWorkload({ ...sizes, ...workload }), 64);

  it('balanced loads every rank within five per cent', () => {
    for (const load of loadsOf({ family: 'balanced' })) expect(Math.abs(load / 8000 - 1)).toBeLessThan(0.05);
  });

  it('hot-rank loads rank 0, and the rotating hot spot the rank of the step', () => {
    const busiest = (loads: number[]) => loads.indexOf(Math.max(...loads));
    expect(busiest(loadsOf({ family: 'hot-rank' }))).toBe(0);
    for (const step of [0, 5, 13]) {
      expect(busiest(loadsOf({ family: 'rotating-hot-spot', step }))).toBe(step % 8);
    }
  });

  it('hot-experts are the first sixteenth; spread ones load every rank alike', () => {
    const share = (tables: RoutingTable[], isHot: (id: number) => boolean) => {
      const ids = tables.flatMap((table) => Array.from(table.ids, Number));
      return ids.filter(isHot).length / ids.length;
    };
    // 4 of 64 experts, 8 times as likely: drawn without replacement, somewhat less than 32/92 of the entries.
    const hot = share(makeWorkload({ ...sizes, family: 'hot-experts' }), (id) => id < 4);
    expect(hot).toBeGreaterThan(0.25);
    expect(hot).toBeLessThan(32 / 92);
    const spread = makeWorkload({ ...sizes, family: 'spread-hot-experts' });
    expect(share(spread, (id) => id % 8 === 0)).toBeGreaterThan(0.4);
    for (const load of rankLoads(spread, 64)) expect(Math.abs(load / 8000 - 1)).toBeLessThan(0.05);
  });

  it('imbalanced has two modes: a quarter of the ranks, whichever the seed says, and the rest', () => {
    const loads = loadsOf({ family: 'imbalanced' }).sort((a, b) => b - a);
    expect(loads[1]! / loads[2]!).toBeGreaterThan(4);
    expect(loads[0]! / loads[1]!).toBeLessThan(1.1);
    expect(loads[2]! / loads[7]!).toBeLessThan(1.25);
  });

  it("one-node keeps every token's experts on one node, and uses every node", () => {
    const tables = makeWorkload({ ...sizes, family: 'one-node', ranksPerNode: 2 });
    const nodes = tables.flatMap(tokensOf).map((ids) => new Set(ids.map((id) => Math.floor(id / 16))));
    expect(nodes.every((set) => set.size === 1)).toBe(true);
    expect(new Set(nodes.flatMap((set) => [...set])).size).toBe(4);
  });

  it('empty-rank, burst and ragged have their tokens where they say', () => {
    const lengths = (family: Family, step = 0) =>
      makeWorkload({ ...sizes, family, step, tokens: 50 }).map(({ tokens }) => tokens);
    expect(lengths('empty-rank')).toEqual([50, 50, 50, 50, 50, 50, 50, 0]);
    expect(lengths('burst', 10)).toEqual([1, 1, 50, 1, 1, 1, 1, 1]);
    expect(new Set(lengths('ragged')).size).toBeGreaterThan(4);
    expect(lengths('ragged').every((tokens) => tokens >= 0 && tokens <= 50)).toBe(true);
  });
});

describe('samples', () => {
  it('never choose an expert that was never chosen, and follow the counts', () => {
    const counts = [0, 3_000_000_000, 1_000_000_000, 0, 10];
    const tables = sampleCounts(counts, { seed: 1, ranks: 2, tokens: 4000, topk: 1 });
    const seen = [0, 0, 0, 0, 0];
    for (const table of tables) for (const id of table.ids) seen[Number(id)]!++;
    expect([seen[0], seen[3]]).toEqual([0, 0]);
    expect(seen[1]! / seen[2]!).toBeGreaterThan(2.7);
    expect(seen[1]! / seen[2]!).toBeLessThan(3.3);
  });

  it('refuse more experts a token than were ever chosen', () => {
    expect(() => sampleCounts([1, 0, 1], { seed: 1, ranks: 1, tokens: 1, topk: 3 })).toThrow(
      /topk 3 of the 2/,
    );
  });

  it('of a recorded routing repeat its tokens whole, masks and all', () => {
    const recorded = toTables(
      [
        [
          [1, 2],
          [3, -1],
        ],
        [[7, 5]],
      ],
      2,
      'i64',
    );
    const tables = resampleTokens(recorded, { seed: 1, ranks: 3, tokens: 40 });
    const rows = tables.flatMap(tokensOf).map(String);
    expect([...new Set(rows)].sort()).toEqual(['1,2', '3,-1', '7,5']);
    expect(() => resampleTokens(toTables([[]], 2), { seed: 1, ranks: 1, tokens: 1 })).toThrow(/no tokens/);
  });
});

it('an urn with one heavy expert still finds the light ones', () => {
  const ids = new Int32Array(3);
  for (let seed = 0; seed < 20; seed++) {
    new Urn([1_000_000, 1, 0, 1], 10).draw(new Stream(seed), ids, 0, 3);
    expect([...ids].sort()).toEqual([10, 11, 13]);
  }
});

describe('refusals', () => {
  const sizes: Workload = { family: 'balanced', seed: 0, ranks: 4, tokens: 1, topk: 2, experts: 8 };
  it.each([
    [{ topk: 9 }, /topk 9 of the 8 experts of the layer/],
    [{ family: 'one-node', topk: 3, ranksPerNode: 1 }, /topk 3 of the 2 experts of node 0/],
    [{ family: 'one-node', ranksPerNode: 3 }, /does not divide/],
    [{ seed: -1 }, /seed/],
    [{ ranks: 0 }, /ranks/],
    [{ skew: 0 }, /skew/],
    [{ family: 'nonsense' as Family }, /family nonsense/],
  ] as [Partial<Workload>, RegExp][])('%o', (change, message) => {
    expect(() => makeWorkload({ ...sizes, ...change })).toThrow(message);
    expect(() => makeWorkload({ ...sizes, ...change })).toThrow(
      expect.objectContaining({ code: 'E_OPTION' }),
    );
  });
});
