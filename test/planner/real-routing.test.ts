// What hierarchical plans do to real routing: the figures that the README shows, and the bounds they must keep.

import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadPlanner } from '../../planner/node.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { summarize } from '../../tools/figures/summary.ts';
import { readRouting } from '../../tools/readers/numpyRouting.ts';

const FILE = fileURLToPath(new URL('../fixtures/routing/moe256-ep64x4096-mixed-l2.npz', import.meta.url));

describe('64 ranks, 8 a node, 4096 tokens each, top-8 of 256', () => {
  let planner: Planner;
  let tables: RoutingTable[];

  beforeAll(async () => {
    planner = await loadPlanner();
    tables = await readRouting(FILE);
  });

  const summary = (options: Partial<PlanOptions>) =>
    summarize(planner.planAll(tables, { experts: 256, ranks: 64, ...options }));

  it('a token crosses to each node once, so the busiest NIC carries at most 1 / 1.65 of the flat bytes', () => {
    const flat = summary({});
    const best = summary({ strategy: 'hier' });
    expect(flat.copiesPerToken.sent).toBe(8);
    expect(best.copiesPerToken.sent).toBeLessThan(6);
    expect(best.busiestNicBytes).toBeLessThan(flat.busiestNicBytes / 1.65);
    expect(best.recvRows).toEqual(flat.recvRows);
  });

  it('best is no busier than any rule, and all rules send the same rows', () => {
    const best = summary({ strategy: 'hier', balance: 'best' });
    for (const balance of ['static', 'rotate', 'lpt'] as const) {
      const other = summary({ strategy: 'hier', balance });
      expect(other.forwarding!.forwardedRows).toBe(best.forwarding!.forwardedRows);
      expect(best.busiestNicBytes).toBeLessThanOrEqual(other.busiestNicBytes);
    }
  });

  it('auto takes the hierarchical strategy and says why', () => {
    const chosen = summary({ strategy: 'auto' });
    expect(chosen).toMatchObject({ strategy: 'hier', ranksPerNode: 8 });
    expect(chosen.reason).toMatch(
      /^once per node has the least busy rank: flat \d+ rows between machines and \d+ inside, once per rank \d+/,
    );
  });
});
