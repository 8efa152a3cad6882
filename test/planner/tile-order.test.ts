// The order of stores inside tiles: worked by hand, refused where it cannot be, and checked before it is followed.

import { describe, expect, it } from 'vitest';
import { decodePlan, encodePlan, type Plan, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { toTables } from '../support/workloads.ts';

/** 2 ranks, 4 experts; rank 0 has three tokens, so that its last tile of two is short. */
const ROUTING = [
  [
    [3, 0],
    [2, -1],
    [1, 3],
  ],
  [[0, 2]],
];

async function tiledPlan(): Promise<Plan> {
  const planner = await loadPlanner();
  return planner.planAll(toTables(ROUTING, 2), { ranks: 2, experts: 4, tileTokens: 2 });
}

describe('a tile order', () => {
  it('lists each tile by destination and slot, entries that go nowhere last', async () => {
    const [first, second] = (await tiledPlan()).shards;
    // Experts of rank 0's entries: 3 0 | 2 - and, in the short tile, 1 3.
    expect([...first!.tileOrder]).toEqual([1, 2, 0, 3, 0, 1]);
    expect([...second!.tileOrder]).toEqual([0, 1]);
    expect(first!.tileTokens).toBe(2);
  });

  it('survives a file and verification', async () => {
    const { bytes } = await encodePlan(await tiledPlan(), nodeSha256);
    const { plan } = await decodePlan(bytes, nodeSha256);
    expect(plan.spec.tileTokens).toBe(2);
    expect([...verifyPlan(plan).shards[0]!.tileOrder]).toEqual([1, 2, 0, 3, 0, 1]);
  });

  it('is absent by default', async () => {
    const planner = await loadPlanner();
    const plan = planner.planAll(toTables(ROUTING, 2), { ranks: 2, experts: 4 });
    expect(plan.shards.map(({ tileOrder }) => tileOrder.length)).toEqual([0, 0]);
  });

  it.each([
    ['an entry twice', [1, 1, 0, 3, 0, 1]],
    ['an entry of another tile', [1, 2, 0, 4, 0, 1]],
    ['two entries exchanged', [2, 1, 0, 3, 0, 1]],
    ['an entry that goes nowhere in front', [3, 1, 2, 0, 0, 1]],
  ])('is refused with %s', async (_, order) => {
    const plan = await tiledPlan();
    plan.shards[0]!.tileOrder.set(order);
    let code = '';
    verifyPlan({ ...plan }, (error) => {
      code = error.code;
      expect(error.details.path).toMatch(/^\/ranks\/0\/tileOrder\/\d$/);
    });
    expect(code).toBe('E_STREAM');
  });

  it.each([-1, 129, 1.5])(
    'of %s tokens of topk 2 is refused: a place in a tile is one byte',
    async (tileTokens) => {
      const planner = await loadPlanner();
      const options = { ranks: 2, experts: 4, tileTokens };
      expect(() => planner.planAll(toTables(ROUTING, 2), options)).toThrow(/tileTokens/);
    },
  );
});
