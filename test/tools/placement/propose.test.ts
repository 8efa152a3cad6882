// Proposed placements: by hand, and what they promise for any load.

import { describe, expect, it } from 'vitest';
import { makePlacement } from '../../../planner/placement.ts';
import { countChoices, imbalanceOf, proposePlacement, replicate } from '../../../tools/placement/propose.ts';
import { randomFrom, toTables } from '../../support/workloads.ts';

describe('by hand', () => {
  it('packs the heaviest first on the least loaded rank with room', () => {
    // Blocks: 9 + 7 and 2 + 4. Packed: 9 to rank 0, 7 and 4 to rank 1, and 2 to rank 0, which alone has room.
    const { map, before, after, replicas } = proposePlacement([9, 7, 2, 4], { ranks: 2 });
    expect(map).toEqual([0, 1, 0, 1]);
    expect([before.rankMaxOverMean, after.rankMaxOverMean, replicas]).toEqual([16 / 11, 1, 0]);
  });

  it('replicates the expert with the highest load per replica', () => {
    // 12 -> 6, 6; then 8 -> 4, 4; then 6 again -> 4, 4, 4.
    expect(replicate([12, 8, 1], 1, 4)).toEqual([2, 1, 1]);
    expect(replicate([12, 8, 1], 2, 4)).toEqual([2, 2, 1]);
    expect(replicate([12, 8, 1], 3, 4)).toEqual([3, 2, 1]);
  });

  it('stops replicating an expert that lives on every rank', () => {
    expect(replicate([100, 1, 1], 3, 2)).toEqual([2, 2, 2]);
  });

  it('splits one hot expert over two ranks', () => {
    // 12 becomes 6 and 6; 3 and 3 fill up.
    const { map, before, after, replicas } = proposePlacement([12, 3, 3], { ranks: 2, replicas: 1 });
    expect(map).toEqual([[0, 1], 0, 1]);
    expect(replicas).toBe(1);
    expect(before.rankMaxOverMean).toBe(15 / 9);
    expect(after.rankMaxOverMean).toBe(1);
  });

  it('puts equal choices on a node that does not host the expert yet', () => {
    const { map } = proposePlacement([8, 0, 0, 0], { ranks: 4, replicas: 1, ranksPerNode: 2 });
    expect(map[0]).toEqual([0, 2]);
  });

  it('keeps blocks where packing does not beat them', () => {
    const { map, before, after } = proposePlacement([1, 1, 1, 1], { ranks: 2 });
    expect(map).toEqual([0, 0, 1, 1]);
    expect(after).toEqual(before);
  });

  it('counts choices and leaves masked entries out', () => {
    const tables = toTables(
      [
        [
          [0, 2],
          [2, -1],
        ],
        [[3, 2]],
      ],
      2,
      'i16',
    );
    expect(countChoices(tables, 4)).toEqual([1, 0, 3, 1]);
    expect(() => countChoices(tables, 3)).toThrow(expect.objectContaining({ code: 'E_ROUTING_ID' }));
  });
});

describe('300 seeded loads', () => {
  const draws = Array.from({ length: 300 }, (_, seed) => {
    const random = randomFrom(seed);
    const ranks = [1, 2, 3, 4, 8, 16][seed % 6]!;
    const experts = 1 + Math.floor(random() * 64);
    const counts = Array.from({ length: experts }, () => Math.floor(random() ** 6 * 10_000));
    const replicas = Math.min(experts * (ranks - 1), Math.floor(random() * 20));
    return { seed, ranks, counts, replicas };
  });

  it('are never balanced worse than in blocks', () => {
    for (const { seed, ranks, counts } of draws) {
      const { before, after } = proposePlacement(counts, { ranks });
      expect(after.rankMaxOverMean, `seed ${seed}`).toBeLessThanOrEqual(before.rankMaxOverMean);
    }
  });

  it('give placements that the planner takes, with no rank over its room and the imbalance that they report', () => {
    for (const { seed, ranks, counts, replicas } of draws) {
      const proposal = proposePlacement(counts, { ranks, replicas });
      const { rankFirst, instances } = makePlacement(counts.length, ranks, proposal.map);
      const room = Math.ceil((counts.length + replicas) / ranks);
      expect(instances, `seed ${seed}`).toBe(counts.length + proposal.replicas);
      expect(proposal.replicas).toBeLessThanOrEqual(replicas);
      if (replicas > 0) {
        for (let rank = 0; rank < ranks; rank++) {
          expect(rankFirst[rank + 1]! - rankFirst[rank]!).toBeLessThanOrEqual(room);
        }
      }
      const size = [8, 7, 6, 5, 4, 3, 2, 1].find((n) => ranks % n === 0)!;
      expect(imbalanceOf(proposal.map, counts, ranks, size)).toEqual(proposal.after);
    }
  });

  it('find a rank for nearly every replica', () => {
    const asked = draws.reduce((sum, { replicas }) => sum + replicas, 0);
    const placed = draws.reduce((sum, draw) => sum + proposePlacement(draw.counts, draw).replicas, 0);
    expect(placed / asked).toBeGreaterThan(0.95);
  });

  it('come out the same twice', () => {
    for (const draw of draws.slice(0, 20)) {
      expect(proposePlacement(draw.counts, draw)).toEqual(proposePlacement(draw.counts, draw));
    }
  });
});

it('sixteen replicas halve the busiest rank of a load with one expert in ten hot', () => {
  const counts = Array.from({ length: 128 }, (_, expert) => (expert % 10 === 0 ? 1000 : 50));
  const { before, after } = proposePlacement(counts, { ranks: 64, replicas: 64 });
  expect(after.rankMaxOverMean).toBeLessThan(before.rankMaxOverMean / 2);
});

describe('6000 small loads with replicas', () => {
  const draws = Array.from({ length: 6000 }, (_, seed) => {
    const random = randomFrom(seed);
    const below = (count: number) => Math.floor(random() * count);
    const ranks = 1 + below(8);
    const counts = Array.from({ length: 1 + below(12) }, () => (seed % 2 === 0 ? below(10) : 90 + below(20)));
    return { ranks, counts, replicas: Math.min(counts.length * (ranks - 1), below(6)) };
  });

  it('never make the busiest rank busier than blocks do', () => {
    const worse = draws.filter(({ ranks, counts, replicas }) => {
      const { before, after } = proposePlacement(counts, { ranks, replicas });
      return after.rankMaxOverMean > before.rankMaxOverMean;
    });
    expect(worse).toEqual([]);
  });

  it('leave out replicas that do harm, and keep those that do not', () => {
    // Blocks: 4 + 3 and 6. With room for three instances a rank, any two replicas make a rank heavier than 7.
    const none = proposePlacement([4, 3, 6], { ranks: 2, replicas: 2 });
    expect([none.map, none.replicas]).toEqual([[0, 0, 1], 0]);
    expect(none.after).toEqual(none.before);
    // A replica of the 10 is 5 on each rank.
    const one = proposePlacement([10, 1], { ranks: 2, replicas: 1 });
    expect([one.map, one.replicas]).toEqual([[[0, 1], 0], 1]);
  });
});

describe('refusals', () => {
  it.each([
    [[], { ranks: 2 }, /experts/],
    [[1], { ranks: 0 }, /ranks/],
    [[1, 1], { ranks: 2, replicas: 3 }, /replicas is 3/],
    [[1, 1], { ranks: 4, ranksPerNode: 3 }, /does not divide/],
  ])('%o %o', (counts, options, message) => {
    expect(() => proposePlacement(counts, options)).toThrow(message);
    expect(() => proposePlacement(counts, options)).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
  });
});
