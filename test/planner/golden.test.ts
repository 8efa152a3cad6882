// Golden plan ids: an accidental change of a plan's bytes, however it comes about, fails here.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { encodePlan, type PlanOptions, subtleSha256, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { readRouting } from '../../tools/readers/numpyRouting.ts';

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const GOLDENS = path('golden-plan-ids.json');
const UPDATE = 'UPDATE_GOLDEN=1 npx vitest run test/planner/golden.test.ts';

const REAL = path('../../tools/demo/moe256-ep8x512-mixed-l3.idx.npy');
const TINY = path('../fixtures/routing/tiny-ragged');

/** Every eighth expert has a replica on the other half of the group. */
const replicas = Array.from({ length: 256 }, (_, expert) => {
  const home = Math.floor(expert / 32);
  return expert % 8 === 0 ? [home, (home + 4) % 8] : home;
});

const CASES: Record<string, { routing: string; options: PlanOptions }> = {
  'real, defaults': { routing: REAL, options: { ranks: 8, experts: 256 } },
  'real, align 16, capacity 40, 4 ranks a node': {
    routing: REAL,
    options: { ranks: 8, experts: 256, align: 16, capacity: 40, ranksPerNode: 4 },
  },
  'real, replicas, 2 ranks a node, fp8': {
    routing: REAL,
    options: { ranks: 8, experts: 256, placement: replicas, ranksPerNode: 2, dtype: 'fp8' },
  },
  'real, replicas by the rule local': {
    routing: REAL,
    options: { ranks: 8, experts: 256, placement: replicas, ranksPerNode: 2, replicas: 'local' },
  },
  'real, hierarchical, 2 ranks a node, capacity 60, replicas': {
    routing: REAL,
    options: {
      ranks: 8,
      experts: 256,
      strategy: 'hier',
      ranksPerNode: 2,
      align: 4,
      capacity: 60,
      placement: replicas,
      partial: 'f32',
    },
  },
  'tiny and ragged, align 4': { routing: TINY, options: { ranks: 4, experts: 6, align: 4 } },
};

async function planIds(): Promise<Record<string, string>> {
  const planner = await loadPlanner();
  const ids: Record<string, string> = {};
  for (const [name, { routing, options }] of Object.entries(CASES)) {
    const plan = planner.planAll(await readRouting(routing), options);
    verifyPlan({ ...plan });
    const { planId } = await encodePlan(plan, nodeSha256);
    expect((await encodePlan(plan, subtleSha256)).planId).toBe(planId);
    ids[name] = planId;
  }
  return ids;
}

describe('golden plan ids', () => {
  it('are those of the committed routings, none missing and none left over', async () => {
    const found = await planIds();
    expect(new Set(Object.values(found)).size).toBe(Object.keys(CASES).length);
    if (process.env.UPDATE_GOLDEN === '1') {
      if (process.env.CI)
        throw new Error('UPDATE_GOLDEN is refused where CI is set: commit new goldens by hand');
      writeFileSync(GOLDENS, `${JSON.stringify(found, null, 2)}\n`);
    }
    const committed = JSON.parse(readFileSync(GOLDENS, 'utf8')) as Record<string, string>;
    expect(found, `plan bytes changed; if that is meant, run: ${UPDATE}`).toEqual(committed);
  });

  it('the real routing drops rows at capacity 40, so that the case means something', async () => {
    const { routing, options } = CASES['real, align 16, capacity 40, 4 ranks a node']!;
    const plan = (await loadPlanner()).planAll(await readRouting(routing), options);
    const dropped = plan.shards.reduce((sum, shard) => sum + shard.dropped, 0);
    expect(dropped).toBeGreaterThan(1000);
    expect(plan.shards.every((shard) => shard.recvRows % 16 === 0)).toBe(true);
  });

  it('the hierarchical case lands rows, stages rows and drops some', async () => {
    const { routing, options } = CASES['real, hierarchical, 2 ranks a node, capacity 60, replicas']!;
    const plan = (await loadPlanner()).planAll(await readRouting(routing), options);
    for (const { staged, dropped, forwardToken } of plan.shards) {
      expect(staged).toBeGreaterThan(100);
      expect(forwardToken.length - staged).toBeGreaterThan(100);
      expect(dropped).toBeGreaterThan(0);
    }
  });
});
