// Planning where every rank knows only the routing of its tokens: the shards are those of planning with everything.

import { beforeAll, describe, expect, it } from 'vitest';
import { type Gather, planDistributed } from '../../executor/planDistributed.ts';
import { encodePlan, planId } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { pairwise } from '../support/pairwise.ts';
import { makeRouting, placementOf, toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

/** An all-gather between promises of one process; as on the wire, `what` and the sizes must agree. */
class Exchange {
  readonly #ranks: number;
  readonly #calls: { what: string; parts: Uint8Array[]; give: ((parts: Uint8Array[]) => void)[] }[] = [];
  readonly #next: number[];

  constructor(ranks: number) {
    this.#ranks = ranks;
    this.#next = new Array(ranks).fill(0);
  }

  of(rank: number): Gather {
    return (what, own) => {
      const number = this.#next[rank]!++;
      this.#calls[number] ??= { what, parts: [], give: [] };
      const call = this.#calls[number];
      if (call.what !== what) return Promise.reject(new Error(`rank ${rank} gathers something else`));
      call.parts[rank] = own;
      const all = new Promise<Uint8Array[]>((resolve) => call.give.push(resolve));
      if (call.give.length === this.#ranks) for (const give of call.give) give(call.parts);
      return all;
    };
  }

  get calls(): number {
    return this.#calls.length;
  }
}

async function planApart(tables: readonly RoutingTable[], options: PlanOptions) {
  const exchange = new Exchange(tables.length);
  // One planner for each rank, as between processes.
  const plans = await Promise.all(
    tables.map(async (table, rank) =>
      planDistributed(await loadPlanner(), exchange.of(rank), rank, table, options),
    ),
  );
  return { plans, gathers: exchange.calls };
}

const FACTORS = {
  shape: ['1 1', '4 1', '4 2', '6 3', '8 4'],
  strategy: ['flat', 'hier', 'auto'],
  capacity: [0, 3],
  masked: [0, 0.3, 1],
  family: ['balanced', 'hotExperts', 'raggedSources', 'rankWithoutRows'],
  placement: ['blocks', 'scattered', 'replicated'],
  replicas: ['quota-1', 'local'],
  tokens: [0, 5, 40],
} as const;

describe('a rank that plans from gathered facts', () => {
  it.each(pairwise(FACTORS).map((f) => [Object.values(f).join(', '), f] as const))(
    'makes the shard that planning with everything makes: %s',
    async (_, f) => {
      const [ranks, ranksPerNode] = f.shape.split(' ').map(Number) as [number, number];
      const { family, tokens, masked, strategy, capacity, replicas } = f;
      const routing = makeRouting({ family, seed: tokens, ranks, tokens, topk: 3, experts: 24, masked });
      const tables = toTables(routing, 3);
      const placement = placementOf(f.placement, 24, ranks);
      const options = {
        ranks,
        ranksPerNode,
        experts: 24,
        strategy,
        capacity,
        placement,
        replicas,
        hidden: 64,
      };
      const whole = planner.planAll(tables, options);
      const { plans, gathers } = await planApart(tables, options);
      for (const [rank, plan] of plans.entries()) {
        expect(Buffer.compare(plan.shards[rank]!.bytes, whole.shards[rank]!.bytes)).toBe(0);
        expect(plan.decision).toEqual(whole.decision);
        expect(plan.shards.length).toBe(ranks);
      }
      // Rows per node depend on everyone's counts where there are a capacity or quotas: a second gather.
      const needsCounts = capacity > 0 || whole.spec.replicas === 'quota-1';
      expect(gathers).toBe(strategy !== 'flat' && needsCounts ? 2 : 1);
    },
  );

  it('is told before any fact is used that another rank has other options', async () => {
    const tables = toTables(
      makeRouting({ family: 'balanced', seed: 1, ranks: 2, tokens: 4, topk: 2, experts: 8 }),
      2,
    );
    const exchange = new Exchange(2);
    const plan = (rank: number, align: number) =>
      planDistributed(planner, exchange.of(rank), rank, tables[rank]!, { ranks: 2, experts: 8, align });
    const first = plan(0, 1);
    await expect(plan(1, 2)).rejects.toThrow('rank 1 gathers something else');
    void first.catch(() => {});
  });

  it.each<[string, Partial<PlanOptions>]>([
    ['an alignment', { align: 8 }],
    ['a strategy', { strategy: 'hier' }],
    ['the ranks of a machine', { ranksPerHost: 1 }],
    ['a number of experts, and so of counts', { experts: 16 }],
    ['a placement with replicas', { placement: placementOf('replicated', 8, 3) }],
  ])('gets one error on every rank, whatever carried the facts: %s of rank 2 differs', async (_, other) => {
    const routing = makeRouting({ family: 'balanced', seed: 1, ranks: 3, tokens: 4, topk: 2, experts: 8 });
    const meeting = new Exchange(3);
    const plans = toTables(routing, 2).map((table, rank) => {
      const careless: Gather = (_what, own) => meeting.of(rank)('facts', own);
      return planDistributed(planner, careless, rank, table, {
        ranks: 3,
        ranksPerNode: 1,
        experts: 8,
        strategy: 'auto',
        ranksPerHost: 3,
        ...(rank === 2 ? other : {}),
      });
    });
    for (const result of await Promise.allSettled(plans)) {
      expect(result).toMatchObject({
        reason: {
          code: 'E_FACTS',
          message: 'ranks 2 plan with options that differ from those of rank 0',
          details: { rank: 2 },
        },
      });
    }
  });

  it.each<[string, Partial<PlanOptions>, (own: Uint8Array) => Uint8Array, string]>([
    ['too little', {}, (own) => own.subarray(0, -4), 'rank 1 counts 7 instances, not 8'],
    ['too much', {}, (own) => Buffer.concat([own, Buffer.alloc(4)]), 'rank 1 counts 9 instances, not 8'],
    ['half a word', {}, (own) => own.subarray(0, -2), 'rank 1 counts 0 instances, not 8'],
    ['a node less', { strategy: 'hier' }, (own) => own.subarray(0, -4), 'rank 1 counts 1 nodes, not 2'],
    [
      'a rank less',
      { strategy: 'auto', ranksPerNode: 2 },
      (own) => own.subarray(0, -4),
      'rank 1 counts 1 ranks, not 2',
    ],
  ])('refuses facts of another size: %s', async (_, options, change, message) => {
    const [table] = toTables(
      makeRouting({ family: 'balanced', seed: 1, ranks: 2, tokens: 4, topk: 2, experts: 8 }),
      2,
    );
    const asked = { ranks: 2, ranksPerNode: 1, experts: 8, ...options };
    const made = planDistributed(planner, async (_what, own) => [own, change(own)], 0, table!, asked);
    await expect(made).rejects.toMatchObject({ code: 'E_FACTS', message, details: { rank: 1 } });
  });

  it('takes facts at any address of any memory, a Buffer of a pool among them', async () => {
    const [table] = toTables(
      makeRouting({ family: 'balanced', seed: 1, ranks: 1, tokens: 4, topk: 2, experts: 8 }),
      2,
    );
    const options = { ranks: 1, experts: 8 };
    const pooled: Gather = async (_what, own) => [Buffer.concat([Buffer.alloc(1), own]).subarray(1)];
    const plan = await planDistributed(planner, pooled, 0, table!, options);
    const whole = planner.planAll([table!], options);
    expect(Buffer.compare(plan.shards[0]!.bytes, whole.shards[0]!.bytes)).toBe(0);
  });

  it('refuses facts that contradict the routing of the rank', async () => {
    const [table] = toTables(
      makeRouting({ family: 'balanced', seed: 1, ranks: 1, tokens: 4, topk: 2, experts: 8 }),
      2,
    );
    const forge: Gather = async (_, own) => {
      const bytes = own.slice();
      bytes[32]! += 1;
      return [bytes];
    };
    const made = planDistributed(planner, forge, 0, table!, { ranks: 1, experts: 8 });
    await expect(made).rejects.toMatchObject({ code: 'E_FACTS' });
  });

  it('has no plan to write to a file: other ranks have the other shards', async () => {
    const tables = toTables(
      makeRouting({ family: 'balanced', seed: 1, ranks: 3, tokens: 4, topk: 2, experts: 9 }),
      2,
    );
    const { plans } = await planApart(tables, { ranks: 3, experts: 9 });
    const second = plans[1] as VerifiedPlan;
    const refusal = { code: 'E_RANKS', message: expect.stringContaining('no shard of rank 0') };
    await expect(planId(second, nodeSha256)).rejects.toMatchObject(refusal);
    await expect(encodePlan(second, nodeSha256)).rejects.toMatchObject(refusal);
  });
});
