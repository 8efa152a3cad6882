// `maxRows`: a bound of every receive buffer that holds before anything is built.

import { beforeAll, describe, expect, it } from 'vitest';
import { optionsDigest } from '../../planner/format/digest.ts';
import { encodePlan, gatherFacts, type Planner, type PlanOptions } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { optionsOf, resolveOptions } from '../../planner/spec.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

// Expert 1 on rank 1 receives 3 rows, padded to 4.
const TABLES = toTables(
  [
    [[1], [1]],
    [[1], [0]],
  ],
  1,
);
const OPTIONS: PlanOptions = { ranks: 2, experts: 2, align: 2 };

describe('maxRows', () => {
  it('refuses a plan whose busiest rank would receive more, padding included', () => {
    expect(() => planner.planAll(TABLES, { ...OPTIONS, maxRows: 3 })).toThrow(
      expect.objectContaining({
        code: 'E_MAX_ROWS',
        message: 'rank 1 would receive 4 rows, maxRows is 3',
        details: expect.objectContaining({ rank: 1, value: 4, limit: 3 }),
      }),
    );
  });

  it('refuses it on every rank that plans by itself, also on those that receive less', () => {
    const spec = resolveOptions({ ...OPTIONS, maxRows: 3 }, 1);
    const routed = TABLES.map((table, rank) => planner.routeRank(rank, table, spec));
    const optionsDigest = new Uint8Array(32);
    const facts = gatherFacts(
      spec,
      routed.map(({ counts }) => ({ counts, optionsDigest })),
    );
    for (const own of routed)
      expect(() => planner.planRank(own, facts, spec)).toThrow('rank 1 would receive 4 rows');
  });

  it('changes nothing of a plan that keeps it', async () => {
    const bytesOf = async (options: PlanOptions) =>
      (await encodePlan(planner.planAll(TABLES, options), nodeSha256)).bytes;
    expect(Buffer.compare(await bytesOf({ ...OPTIONS, maxRows: 4 }), await bytesOf(OPTIONS))).toBe(0);
  });

  it('counts the rows of replicas', () => {
    const replicated = { ...OPTIONS, align: 1, placement: [0, [0, 1]] };
    expect(
      planner.planAll(TABLES, { ...replicated, maxRows: 2 }).shards.map(({ recvRows }) => recvRows),
    ).toEqual([2, 2]);
    expect(() => planner.planAll(TABLES, { ...replicated, maxRows: 1 })).toThrow(
      'rank 0 would receive 2 rows',
    );
  });

  it('is compared between ranks, kept by options, and has a range', async () => {
    const digestOf = async (maxRows: number) =>
      Buffer.from(await optionsDigest(resolveOptions({ ...OPTIONS, maxRows }, 1), nodeSha256)).toString(
        'hex',
      );
    expect(await digestOf(4)).not.toBe(await digestOf(5));
    expect(optionsOf(resolveOptions({ ...OPTIONS, maxRows: 4 }, 1)).maxRows).toBe(4);
    expect(optionsOf(resolveOptions(OPTIONS, 1))).not.toHaveProperty('maxRows');
    expect(() => resolveOptions({ ...OPTIONS, maxRows: -1 }, 1)).toThrow('maxRows');
  });
});
