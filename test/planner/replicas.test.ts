// Replica rules: which instance takes a row. The expected values are worked out by hand from docs/replicas.md.

import { beforeAll, describe, expect, it } from 'vitest';
import { decodePlan, encodePlan, type Planner, type PlanOptions, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { makePlacement, weightGradientRanks } from '../../planner/placement.ts';
import { resolveOptions } from '../../planner/spec.ts';
import { refusalOf } from '../support/honest.ts';
import type { PlainRouting } from '../support/obviousPlan.ts';
import { openFile, sealFile } from '../support/planFile.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

function plan(routing: PlainRouting, topk: number, options: Omit<PlanOptions, 'ranks'>) {
  return planner.planAll(toTables(routing, topk), { ...options, ranks: routing.length });
}

const instancesOf = (made: ReturnType<typeof plan>) => made.shards.map((shard) => [...shard.entryInstance]);

/** `count` tokens that choose expert 0. */
const zeros = (count: number) => Array.from({ length: count }, () => [0]);

describe('local', () => {
  it('takes a replica on the local rank, then on the local node, then number (token + rank) % count', () => {
    // 4 ranks, nodes {0,1} {2,3}. Expert 0 on ranks 0 and 2; expert 1 on ranks 0 and 1; expert 2 on rank 3 only.
    // Instances by (rank, expert): 0 = r0e0, 1 = r0e1, 2 = r1e1, 3 = r2e0, 4 = r3e2.
    const options = {
      experts: 3,
      ranksPerNode: 2,
      placement: [[2, 0], [0, 1], 3],
      replicas: 'local',
    } as const;
    const routing = Array.from({ length: 4 }, () => [
      [0, 1],
      [0, 1],
      [1, 2],
    ]);
    const made = plan(routing, 2, options);
    expect(instancesOf(made)).toEqual([
      // Both experts on the local rank.
      [0, 1, 0, 1, 1, 4],
      // Expert 0 on the local node (rank 0), expert 1 on the local rank.
      [0, 2, 0, 2, 2, 4],
      // Expert 0 on the local rank; expert 1 on the other node: tokens 0 and 2 take number 0, token 1 number 1.
      [3, 1, 3, 2, 1, 4],
      // Expert 0 on the local node (rank 2); expert 1 on the other: tokens 0 and 2 take number 1, token 1 number 0.
      [3, 2, 3, 1, 2, 4],
    ]);
    const { shards } = made;
    // Rank 0, expert 0: tokens 0 and 1 of ranks 0 and 1. Expert 1 from row 4: rank 0's tokens 0, 1, 2, then rank 2's
    // tokens 0 and 2 and rank 3's token 1.
    expect([...shards[0]!.expertOffset]).toEqual([0, 4, 10]);
    expect([...shards[2]!.entrySlot]).toEqual([0, 7, 1, 3, 8, 2]);
    expect([...shards[3]!.entrySlot]).toEqual([2, 4, 3, 9, 5, 3]);
  });

  it('uses the replicas of the local node in turn', () => {
    const options = { experts: 1, ranksPerNode: 3, placement: [[0, 1]], replicas: 'local' } as const;
    expect(instancesOf(plan([[], [], zeros(5)], 1, options))[2]).toEqual([0, 1, 0, 1, 0]);
  });

  it('spreads small batches of other nodes', () => {
    // 64 ranks of one token, 4 replicas on the first node: each takes 14 of the 56 rows of the other nodes.
    const routing = Array.from({ length: 64 }, () => zeros(1));
    const { shards } = plan(routing, 1, { experts: 1, placement: [[0, 1, 2, 3]], replicas: 'local' });
    const received = shards.slice(0, 4).map(({ recvRows }) => recvRows);
    // Of the first node's 8 rows, 4 stay on their rank, and the others are all token 0.
    expect(received).toEqual([19, 15, 15, 15]);
  });
});

describe('quota-1', () => {
  it('levels small batches', () => {
    const routing = Array.from({ length: 64 }, () => zeros(1));
    const { shards } = plan(routing, 1, { experts: 1, placement: [[0, 1, 2, 3]] });
    expect(shards.map(({ recvRows }) => recvRows)).toEqual([16, 16, 16, 16, ...new Array(60).fill(0)]);
  });

  it('leaves rows on their rank if no rank is above what the busiest one has in any case', () => {
    // Expert 1 is on rank 1 only and fills it with 6 rows, so nothing is gained by moving rows of expert 0.
    const routing = [zeros(5), [[1], [1], [1], [1], [1], [1]]];
    const { shards } = plan(routing, 1, { experts: 2, placement: [[0, 1], 1] });
    expect(shards.map(({ recvRows }) => recvRows)).toEqual([5, 6]);
    expect([...shards[0]!.entryInstance]).toEqual([0, 0, 0, 0, 0]);
  });

  it('moves as many rows as the bound asks for, the last tokens first', () => {
    // 8 rows of expert 0 start on rank 0. The bound is 4: expert 0 keeps tokens 0 to 3 there and sends 4 to 7 to rank 1.
    const { shards } = plan([zeros(8), []], 1, { experts: 1, placement: [[0, 1]] });
    expect([...shards[0]!.entryInstance]).toEqual([0, 0, 0, 0, 1, 1, 1, 1]);
    expect([...shards[0]!.entrySlot]).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
  });

  it('moves rows along a chain of replicas', () => {
    // Rank 0 starts with 9 rows of expert 0, which rank 1 hosts too; rank 1 with 3 of expert 1, which rank 2 hosts too.
    // The bound is 4: rank 1 passes rows of its expert on to rank 2, so that it can take rows of rank 0.
    const routing = [zeros(9), [[1], [1], [1]], []];
    const made = plan(routing, 1, {
      experts: 2,
      ranksPerNode: 3,
      placement: [
        [0, 1],
        [1, 2],
      ],
    });
    // ceil(12 / 3) = 4, but half of expert 0, rounded up, is 5.
    expect(made.shards.map(({ recvRows }) => recvRows)).toEqual([5, 5, 2]);
    // Instances: 0 = r0e0, 1 = r1e0, 2 = r1e1, 3 = r2e1.
    expect(instancesOf(made)).toEqual([[0, 0, 0, 0, 0, 1, 1, 1, 1], [2, 3, 3], []]);
  });

  it('raises the bound to what a set of ranks cannot give away', () => {
    // Experts 0 and 1 are on ranks 0 and 1 only, 5 rows each; expert 2 has 2 rows on rank 2.
    const routing = [zeros(5), [[1], [1], [1], [1], [1]], [[2], [2]]];
    const { shards } = plan(routing, 1, { experts: 3, ranksPerNode: 1, placement: [[0, 1], [0, 1], 2] });
    // The mean is 4; ranks 0 and 1 hold 10 rows in any case. Both keep their own 5.
    expect(shards.map(({ recvRows }) => recvRows)).toEqual([5, 5, 2]);
    expect([...shards[0]!.entryInstance]).toEqual([0, 0, 0, 0, 0]);
  });

  it('prefers a move that brings no more rows to other nodes', () => {
    // Nodes {0,1} {2,3}. Rank 0 starts with 4 rows of expert 0, also on rank 2, and 4 of expert 1, also on rank 1. The
    // bound is 6, for expert 2. Two rows of expert 1 move to rank 1, none of expert 0 to the other node.
    const tokens = (expert: number, count: number) => Array.from({ length: count }, () => [expert]);
    const routing = [[...zeros(4), ...tokens(1, 4)], [], [], tokens(2, 6)];
    const made = plan(routing, 1, { experts: 3, ranksPerNode: 2, placement: [[0, 2], [0, 1], 3] });
    expect(made.shards.map(({ recvRows }) => recvRows)).toEqual([6, 2, 0, 6]);
  });

  it('gives every source its local rank first, then its node, then the rest, all in ascending order', () => {
    // Nodes {0,1} {2,3}; expert 0 on ranks 1 and 3. Rows: rank 0: 2, rank 1: 1, rank 2: 4, rank 3: 1.
    const routing = [zeros(2), zeros(1), zeros(4), zeros(1)];
    const made = plan(routing, 1, { experts: 1, ranksPerNode: 2, placement: [[1, 3]] });
    // Start: 3 and 5 rows, the bound is 4, so one row of node 1 crosses: of rank 2, as rank 3 comes first at its instance.
    expect(instancesOf(made)).toEqual([[0, 0], [0], [0, 1, 1, 1], [1]]);
  });

  it('counts masked entries nowhere and drops what exceeds the capacity of an instance', () => {
    const routing = [[[0], [-1], [0], [0], [0], [0]], []];
    const made = plan(routing, 1, { experts: 1, placement: [[0, 1]], capacity: 2 });
    // 5 rows: 3 for rank 0, of which one is dropped, and 2 for rank 1.
    expect([...made.shards[0]!.entryInstance]).toEqual([0, 2, 0, 0, 1, 1]);
    expect([...made.shards[0]!.entrySlot]).toEqual([0, -1, 1, -2, 0, 1]);
  });
});

describe('the rule in the options', () => {
  it('is quota-1 by default, and none without replicas', () => {
    const replicated = { ranks: 2, experts: 1, placement: [[0, 1]] };
    expect(resolveOptions(replicated, 1).replicas).toBe('quota-1');
    expect(resolveOptions({ ...replicated, replicas: 'local' }, 1).replicas).toBe('local');
    expect(resolveOptions({ ranks: 2, experts: 2, replicas: 'local' }, 1).replicas).toBe('none');
    expect(() => resolveOptions({ ...replicated, replicas: 'even' as never }, 1)).toThrow(
      'replicas even is not one of local, quota-1',
    );
  });

  it('is part of the plan id only where an expert has several instances', async () => {
    const routing = [zeros(4), zeros(2)];
    const idOf = async (options: Omit<PlanOptions, 'ranks' | 'experts'>) =>
      (await encodePlan(plan(routing, 1, { experts: 1, ...options }), nodeSha256)).planId;
    expect(await idOf({ replicas: 'local' })).toBe(await idOf({}));
    const placement = [[0, 1]];
    expect(await idOf({ placement, replicas: 'quota-1' })).toBe(await idOf({ placement }));
    expect(await idOf({ placement, replicas: 'local' })).not.toBe(await idOf({ placement }));
  });
});

describe('facts under quota-1', () => {
  it('are counts per expert, and contradictions name the expert', () => {
    const spec = resolveOptions({ ranks: 2, experts: 2, placement: [[0, 1], 0] }, 1);
    const routed = planner.routeRank(0, toTables([[[0], [1], [0]]], 1)[0]!, spec);
    expect([...routed.counts]).toEqual([2, 1]);
    const counts = Uint32Array.of(2, 3, 0, 0);
    expect(() => planner.planRank(routed, { counts }, spec)).toThrow(
      'rank 0 routes 1 rows to expert 1, the facts say 3',
    );
    expect(() => planner.planRank(routed, { counts: counts.slice(1) }, spec)).toThrow(
      '3 counts for 2 ranks x 2',
    );
  });
});

describe('verification', () => {
  // Three nodes of one rank; rank 2 takes the instances of expert 0 in turn under `local`, in order under `quota-1`.
  const routing = [[], [], zeros(4)];
  const options = { experts: 1, ranksPerNode: 1, placement: [[0, 1]] };
  const fileOf = async (replicas: 'local' | 'quota-1', subject: PlainRouting = routing) =>
    openFile((await encodePlan(plan(subject, 1, { ...options, replicas }), nodeSha256)).bytes);

  it('accepts both rules', async () => {
    for (const rule of ['local', 'quota-1'] as const) {
      const { plan: read } = await decodePlan(sealFile(await fileOf(rule)), nodeSha256);
      expect(verifyPlan(read)).toBe(read);
    }
  });

  it('refuses quotas that claim to be local', async () => {
    const file = await fileOf('quota-1');
    const core = { ...file.core, replicas: 'local' };
    const sorted = Object.fromEntries(Object.entries(core).sort(([a], [b]) => (a < b ? -1 : 1)));
    const error = await refusalOf(sealFile({ ...file, version: [1, 1], core: sorted }));
    expect(error.toString()).toBe('E_ENTRY /ranks/2/entries/1: instance 0, the rule local gives 1');
  });

  it('refuses instances that do not ascend', async () => {
    const { core, ...file } = await fileOf('local');
    const { replicas: _, ...quota } = core;
    const error = await refusalOf(sealFile({ ...file, version: [1, 0], core: quota }));
    expect(error.toString()).toBe('E_ENTRY /ranks/2/entries/2: instance 0 after instance 1 of expert 0');
  });

  it('refuses quotas that are not those of the counts', async () => {
    // All rows stay on rank 0, where quota-1 moves 2 of 4.
    const { core, ...file } = await fileOf('local', [zeros(4), [], []]);
    const { replicas: _, ...quota } = core;
    const error = await refusalOf(sealFile({ ...file, version: [1, 0], core: quota }));
    expect(error.toString()).toBe(
      'E_ENTRY /ranks/0/quotas/0: 4 entries for instance 0, the rule quota-1 gives 2',
    );
  });
});

describe('weight gradients', () => {
  it('of an expert are added from all its ranks, in ascending order', () => {
    expect(weightGradientRanks(makePlacement(4, 4, [[3, 0], 1, [2, 1, 0], 2]))).toEqual([
      [0, 3],
      [1],
      [0, 1, 2],
      [2],
    ]);
    expect(weightGradientRanks(makePlacement(4, 2))).toEqual([[0], [0], [1], [1]]);
  });
});
