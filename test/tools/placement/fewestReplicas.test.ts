// Placements for quota-1: as few replicas as a target needs.

import { describe, expect, it } from 'vitest';
import { makePlacement, type PlacementMap } from '../../../planner/placement.ts';
import { compareProposals } from '../../../tools/placement/compareProposals.ts';
import { fewestReplicas } from '../../../tools/placement/fewestReplicas.ts';
import { proposePlacement } from '../../../tools/placement/propose.ts';
import { quotaLoads, stepRatios } from '../../../tools/placement/quotaLoads.ts';
import { randomFrom } from '../../support/workloads.ts';

/** Rows of `experts` experts in one step: some hot. */
function skewedRows(random: () => number, experts: number): number[] {
  return Array.from({ length: experts }, () => Math.floor(1000 * random()) * (random() < 0.1 ? 20 : 1) + 1);
}

const options = { ranks: 2, target: 1, most: 9, useAll: false };

describe('quotaLoads', () => {
  it('are the least that the placement allows', () => {
    // Expert 0, on ranks 0 and 1, has 9 rows; expert 1, on ranks 1 and 2, has 3: 12 rows on 3 ranks.
    const placement = makePlacement(2, 3, [
      [0, 1],
      [1, 2],
    ]);
    const { loads, closed } = quotaLoads(placement, [9, 3]);
    expect([...loads]).toEqual([4, 5, 3]);
    expect(closed).toEqual([0, 1]);
  });

  it('name no ranks if the bound is kept', () => {
    expect(quotaLoads(makePlacement(2, 2, [[0, 1], 1]), [4, 4]).closed).toEqual([]);
    expect(quotaLoads(makePlacement(2, 2, [0, 1]), [5, 3], 5).closed).toEqual([]);
    expect(quotaLoads(makePlacement(2, 2, [0, 1]), [5, 3], 4).closed).toEqual([0]);
  });
});

describe('fewestReplicas', () => {
  it('adds none where none is needed', () => {
    expect(fewestReplicas([0, 1], [[5, 5]], options)).toEqual([0, 1]);
  });

  it('one replica relieves a rank', () => {
    expect(fewestReplicas([0, 0, 1], [[6, 2, 2]], options)).toEqual([[0, 1], 0, 1]);
  });

  it('meets the target in every step, not in their sum', () => {
    const steps = [
      [8, 0],
      [0, 8],
    ];
    expect(fewestReplicas([0, 1], steps, options)).toEqual([
      [0, 1],
      [0, 1],
    ]);
  });

  it('keeps to a number of replicas, and uses all of them if asked', () => {
    const rows = [[9, 1, 1, 1]];
    const count = (map: PlacementMap) => makePlacement(4, 2, map).instances - 4;
    expect(count(fewestReplicas([0, 0, 1, 1], rows, { ...options, most: 0 }))).toBe(0);
    expect(count(fewestReplicas([0, 0, 1, 1], rows, options))).toBe(1);
    expect(count(fewestReplicas([0, 0, 1, 1], rows, { ...options, most: 3, useAll: true }))).toBe(3);
    expect(count(fewestReplicas([0, 0, 1, 1], rows, { ...options, most: 4, useAll: true }))).toBe(4);
  });
});

describe('proposals', () => {
  it.each([16, 32, 64])(
    'for %d ranks meet 1.02, which one replica less of EPLB’s heuristic does not',
    (ranks) => {
      const random = randomFrom(ranks);
      for (let i = 0; i < 3; i++) {
        const rows = skewedRows(random, 128);
        const own = compareProposals([rows], { ranks, target: 1.02 }).at(-1)!;
        expect(own.steps.worst).toBeLessThanOrEqual(1.02);
        expect(own.replicas).toBeGreaterThan(0);
        const eplb = proposePlacement(rows, { ranks, replicas: own.replicas - 1 });
        expect(stepRatios(makePlacement(128, ranks, eplb.map), [rows])[0]).toBeGreaterThan(1.02);
      }
    },
  );

  it('put no more instances on a rank than two redundant ones, and reach the mean', () => {
    const rows = skewedRows(randomFrom(7), 128);
    const own = compareProposals([rows], { ranks: 16, replicas: 32 }).at(-1)!;
    const { rankFirst, ...placement } = makePlacement(128, 16, own.map);
    const most = Math.max(
      ...Array.from({ length: 16 }, (_, rank) => rankFirst[rank + 1]! - rankFirst[rank]!),
    );
    expect([own.replicas, most]).toEqual([32, 10]);
    expect(stepRatios({ ...placement, rankFirst }, [rows])[0]).toBeLessThan(1.001);
  });
});
