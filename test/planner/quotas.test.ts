// How good the quotas of `quota-1` are: against a proven optimum, against a second implementation, and on real routing.

import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { instanceCounts } from '../../planner/quotas.ts';
import { resolveOptions } from '../../planner/spec.ts';
import { countChoices, proposePlacement } from '../../tools/placement/propose.ts';
import { readRouting } from '../../tools/readers/numpyRouting.ts';
import { obviousQuotas, type QuotaCase } from '../support/obviousQuotas.ts';
import { FAMILIES, makeRouting, randomFrom, toTables } from '../support/workloads.ts';

/** u32[ranks, instances] of a case, and the rank of each instance. */
function quotasOf({ ranks, ranksPerNode, counts, hosts }: QuotaCase) {
  const options = { ranks, ranksPerNode, experts: hosts.length, placement: hosts };
  const spec = resolveOptions(options, 1);
  return { spec, quotas: instanceCounts(spec, Uint32Array.from(counts.flat())) };
}

/** Rows of each rank. */
function loadsOf(given: QuotaCase): number[] {
  const { spec, quotas } = quotasOf(given);
  const { instances, instanceRank } = spec.placement;
  const loads = new Array<number>(spec.ranks).fill(0);
  quotas.forEach((rows, at) => {
    loads[instanceRank[at % instances]!]! += rows;
  });
  return loads;
}

/**
 * The least possible number of rows of the busiest rank, proven: every set of ranks holds at least the rows of the experts
 * that have no host outside of it (Hall's theorem for the fractional problem, and flows are integral).
 */
function leastBusiest({ ranks, counts, hosts }: QuotaCase): number {
  const rows = hosts.map((_, expert) => counts.reduce((sum, row) => sum + row[expert]!, 0));
  const masks = hosts.map((list) => list.reduce((mask, rank) => mask | (1 << rank), 0));
  let least = 0;
  for (let set = 1; set < 1 << ranks; set++) {
    const size = Array.from({ length: ranks }, (_, rank) => (set >> rank) & 1).reduce((a, b) => a + b);
    const held = rows.reduce((sum, count, expert) => sum + ((masks[expert]! & ~set) === 0 ? count : 0), 0);
    least = Math.max(least, Math.ceil(held / size));
  }
  return least;
}

/** A random case of 2 to 8 ranks, at least one expert with replicas: few and many rows, even and skewed experts and ranks. */
function randomCase(seed: number, most = 24): QuotaCase {
  const random = randomFrom(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const ranksPerNode = [1, 1, 2, 2, 4][below(5)]!;
  const ranks = Math.max(2, ranksPerNode * (1 + below(8 / ranksPerNode)));
  const hosts = Array.from({ length: 1 + below(most) }, (_, expert) => {
    const free = Array.from({ length: ranks }, (_, rank) => rank);
    const wanted = random() < 0.4 ? 1 : 1 + below(ranks);
    const count = expert === 0 ? Math.max(2, wanted) : wanted;
    return Array.from({ length: count }, () => free.splice(below(free.length), 1)[0]!).sort((a, b) => a - b);
  });
  const [skew, rows] = [[1, 3, 20][below(3)]!, [2, 30, 1000][below(3)]!];
  const weight = () => (random() < 0.2 ? skew : 1);
  const ofExpert = hosts.map(weight);
  const counts = Array.from({ length: ranks }, () => {
    const ofRank = weight();
    return ofExpert.map((of) => Math.floor(random() * rows * of * ofRank));
  });
  return { ranks, ranksPerNode, counts, hosts };
}

describe('random cases of up to 8 ranks', () => {
  it('the busiest rank has the proven least number of rows, in 1,000 cases', () => {
    const worse: string[] = [];
    for (let seed = 0; seed < 1000; seed++) {
      const given = randomCase(seed);
      const [busiest, least] = [Math.max(...loadsOf(given)), leastBusiest(given)];
      if (busiest !== least) worse.push(`seed ${seed}: ${busiest}, not ${least}`);
    }
    expect(worse).toEqual([]);
  });

  it('the quotas are those of a second implementation, in 300 cases', () => {
    for (let seed = 2000; seed < 2300; seed++) {
      const given = randomCase(seed, 10);
      const { spec, quotas } = quotasOf(given);
      const { instances, instanceRank, instanceExpert } = spec.placement;
      const found = Array.from({ length: spec.ranks }, (_, source) =>
        Array.from(quotas.subarray(source * instances, (source + 1) * instances), (rows, i) => [
          instanceExpert[i]!,
          instanceRank[i]!,
          rows,
        ])
          .filter(([, , rows]) => rows! > 0)
          .sort((a, b) => a[0]! - b[0]! || a[1]! - b[1]!),
      );
      expect(found, `seed ${seed}`).toEqual(obviousQuotas(given));
    }
  });

  it('every row has an instance of its expert', () => {
    for (let seed = 3000; seed < 3100; seed++) {
      const given = randomCase(seed);
      const { spec, quotas } = quotasOf(given);
      const { instances, instanceExpert } = spec.placement;
      const sums = given.counts.map((row) => row.map(() => 0));
      quotas.forEach((rows, at) => {
        sums[Math.floor(at / instances)]![instanceExpert[at % instances]!]! += rows;
      });
      expect(sums).toEqual(given.counts);
    }
  });
});

describe('long chains', () => {
  it('512 ranks in a row, each sharing an expert with the next: rows move along all of them', () => {
    const ranks = 512;
    const hosts = Array.from({ length: ranks - 1 }, (_, rank) => [rank, rank + 1]);
    // 1022 rows of each expert start on its first rank, and on rank 0 twice as many: every expert passes some of them on.
    const counts = hosts.map((_, rank) => hosts.map((__, expert) => (expert === rank ? 1022 : 0)));
    counts[0]![0]! += 1022;
    counts.push(hosts.map(() => 0));
    const loads = loadsOf({ ranks, ranksPerNode: 8, counts, hosts });
    expect(Math.max(...loads)).toBe(Math.ceil((512 * 1022) / ranks));
  });
});

/** Largest load over the mean with two redundant instances a rank, placed for the counts of the same table. */
function balanced(tables: Parameters<typeof countChoices>[0], ranks: number, experts: number): number {
  const { map } = proposePlacement(countChoices(tables, experts), { ranks, replicas: 2 * ranks });
  const counts = tables.map((table) => countChoices([table], experts));
  const hosts = map.map((entry) => (typeof entry === 'number' ? [entry] : [...entry]));
  const loads = loadsOf({ ranks, ranksPerNode: Math.min(8, ranks), counts, hosts });
  const mean = loads.reduce((a, b) => a + b) / ranks;
  return Math.max(...loads) / mean;
}

describe('two redundant instances a rank', () => {
  it.each([
    ['../../tools/demo/moe256-ep8x512-mixed-l3.idx.npy', 8],
    ['../fixtures/routing/moe256-ep64x4096-mixed-l2.npz', 64],
  ])('%s: the busiest rank has at most 1.02 of the mean', async (file, ranks) => {
    const tables = await readRouting(fileURLToPath(new URL(file, import.meta.url)));
    expect(balanced(tables, ranks, 256)).toBeLessThanOrEqual(1.02);
  });

  it.each(FAMILIES)('%s, 8 ranks: at most 1.05', (family) => {
    const routing = makeRouting({ family, seed: 1, ranks: 8, tokens: 512, topk: 4, experts: 64 });
    expect(balanced(toTables(routing, 4), 8, 64)).toBeLessThanOrEqual(1.05);
  });
});
