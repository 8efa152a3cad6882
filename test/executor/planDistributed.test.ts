// Planning where every process knows its own routing alone: all ranks at once, over a gather in this process, against
// the planner that sees everything.

import { beforeAll, describe, expect, it } from 'vitest';
import {
  encodePlan,
  isVerified,
  loadPlanner,
  nodeSha256,
  type Planner,
  type PlanOptions,
  planId,
  type RoutingTable,
  type VerifiedPlan,
} from '../../executor/index.ts';
import { type Gather, planDistributed } from '../../executor/planDistributed.ts';
import { type Family, makeRouting, placementOf, toTables } from '../support/workloads.ts';

const EXPERTS = 24;
const TOPK = 3;

/** All ranks' parts of one gather. */
class Meeting {
  readonly #parts: Uint8Array[] = [];
  #come = 0;
  #resolve: (parts: Uint8Array[]) => void = () => {};
  readonly #done = new Promise<Uint8Array[]>((resolve) => {
    this.#resolve = resolve;
  });

  arrive(rank: number, part: Uint8Array, ranks: number): Promise<Uint8Array[]> {
    this.#parts[rank] = part;
    if (++this.#come === ranks) this.#resolve(this.#parts);
    return this.#done;
  }
}

/** A gather over ranks of this process, and what each call was for. */
function gathering(ranks: number): { gathers: Gather[]; whats: string[][] } {
  const whats: string[][] = Array.from({ length: ranks }, () => []);
  const meetings: Meeting[] = [];
  const gathers = whats.map(
    (names, rank): Gather =>
      async (what, own) => {
        const number = names.push(what) - 1;
        meetings[number] ??= new Meeting();
        const parts = await meetings[number].arrive(rank, own, ranks);
        // As from the wire: parts lie in one buffer, at no particular address.
        const room = Buffer.concat([new Uint8Array(1), ...parts]);
        let at = 1;
        return parts.map(({ length }) => room.subarray(at, (at += length)));
      },
  );
  return { gathers, whats };
}

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

type Chosen = Omit<PlanOptions, 'ranks' | 'experts'>;

/** Every rank's own plan, all planned at once. */
async function planEverywhere(
  tables: readonly RoutingTable[],
  options: (rank: number) => Chosen,
): Promise<{ results: PromiseSettledResult<VerifiedPlan>[]; whats: string[][] }> {
  const ranks = tables.length;
  const { gathers, whats } = gathering(ranks);
  const results = await Promise.allSettled(
    tables.map((table, rank) => {
      const asked = { experts: EXPERTS, ...options(rank), ranks };
      return planDistributed(planner, gathers[rank]!, rank, table, asked);
    }),
  );
  return { results, whats };
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

interface Case {
  name: string;
  ranks?: number;
  tokens?: number;
  family?: Family;
  masked?: number;
  options: Chosen;
  gathers: number;
}

const CASES: Case[] = [
  { name: 'flat', options: { ranksPerNode: 2 }, gathers: 1 },
  { name: 'flat, one rank', ranks: 1, options: {}, gathers: 1 },
  { name: 'flat, capacity and alignment', options: { capacity: 5, align: 8 }, gathers: 1 },
  { name: 'hierarchical', options: { strategy: 'hier', ranksPerNode: 2 }, gathers: 1 },
  { name: 'hierarchical, one rank a node', options: { strategy: 'hier', ranksPerNode: 1 }, gathers: 1 },
  {
    name: 'hierarchical, float32 sums',
    options: { strategy: 'hier', ranksPerNode: 4, partial: 'f32' },
    gathers: 1,
  },
  {
    name: 'hierarchical, capacity',
    options: { strategy: 'hier', ranksPerNode: 2, capacity: 4 },
    gathers: 2,
  },
  { name: 'auto', options: { strategy: 'auto', ranksPerNode: 4 }, gathers: 1 },
  { name: 'auto, capacity', options: { strategy: 'auto', ranksPerNode: 4, capacity: 6 }, gathers: 2 },
  { name: 'masked entries', masked: 0.4, options: { strategy: 'hier', ranksPerNode: 2 }, gathers: 1 },
  { name: 'nothing but masked entries', masked: 1, options: {}, gathers: 1 },
  {
    name: 'a rank without tokens',
    family: 'rankWithoutRows',
    options: { strategy: 'hier', ranksPerNode: 2 },
    gathers: 1,
  },
  { name: 'no tokens at all', tokens: 0, options: { strategy: 'auto', ranksPerNode: 2 }, gathers: 1 },
  { name: 'one token here and many there', family: 'burst', options: { ranksPerNode: 2 }, gathers: 1 },
  {
    name: 'replicas',
    options: { placement: placementOf('replicated', EXPERTS, 8), ranksPerNode: 2 },
    gathers: 1,
  },
  {
    name: 'replicas, hierarchical, capacity',
    family: 'hotExperts',
    options: {
      placement: placementOf('replicated', EXPERTS, 8),
      strategy: 'hier',
      ranksPerNode: 2,
      capacity: 9,
    },
    gathers: 2,
  },
  { name: 'an order of stores', options: { tileTokens: 8, ranksPerNode: 2 }, gathers: 1 },
];

const tablesOf = ({ ranks = 8, tokens = 20, family = 'balanced', masked = 0 }: Partial<Case>, seed = 5) =>
  toTables(makeRouting({ family, seed, ranks, tokens, topk: TOPK, experts: EXPERTS, masked }), TOPK);

describe('ranks that plan for themselves', () => {
  it.each(CASES)('make the shards of the whole plan: $name', async (one) => {
    const tables = tablesOf(one);
    const whole = planner.planAll(tables, { experts: EXPERTS, ...one.options, ranks: tables.length });
    const { results, whats } = await planEverywhere(tables, () => one.options);
    for (const [rank, result] of results.entries()) {
      if (result.status === 'rejected') throw result.reason;
      const plan = result.value;
      expect(isVerified(plan)).toBe(true);
      expect(plan.spec).toEqual(whole.spec);
      expect(plan.decision).toEqual(whole.decision);
      expect(plan.shards).toHaveLength(tables.length);
      expect(Object.keys(plan.shards)).toEqual([String(rank)]);
      expect(hex(plan.shards[rank]!.bytes)).toBe(hex(whole.shards[rank]!.bytes));
    }
    // Every rank was in the same gathers, named after the same options.
    expect(new Set(whats.map((names) => names.join())).size).toBe(1);
    expect(whats[0]).toHaveLength(one.gathers);
  });

  it('have 4 tokens in one step and 1 in the next', async () => {
    for (const tokens of [4, 1]) {
      const tables = tablesOf({ tokens, ranks: 4 }, tokens);
      const whole = planner.planAll(tables, {
        experts: EXPERTS,
        ranks: 4,
        strategy: 'hier',
        ranksPerNode: 2,
      });
      const { results } = await planEverywhere(tables, () => ({ strategy: 'hier', ranksPerNode: 2 }));
      const shards = results.map(
        (one, rank) => (one as PromiseFulfilledResult<VerifiedPlan>).value.shards[rank]!,
      );
      expect(shards.map(({ bytes }) => hex(bytes))).toEqual(whole.shards.map(({ bytes }) => hex(bytes)));
    }
  });
});

describe('ranks that plan with different options', () => {
  it.each<[string, Chosen & { experts?: number }]>([
    ['an alignment', { align: 8 }],
    ['a capacity', { capacity: 3 }],
    ['a strategy', { strategy: 'hier' }],
    ['a row size', { hidden: 64 }],
    ['a number of experts, and so of counts', { experts: 2 * EXPERTS }],
    ['a placement with replicas', { placement: placementOf('replicated', EXPERTS, 4) }],
  ])('%s get the same error on every rank', async (_, other) => {
    const tables = tablesOf({ ranks: 4 });
    const { results } = await planEverywhere(tables, (rank) => (rank === 2 ? other : {}));
    for (const result of results) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: {
          code: 'E_FACTS',
          message: 'ranks 2 plan with other options than rank 0',
          details: { rank: 2 },
        },
      });
    }
  });

  it('ask for another gather, so that one which compares names never mixes their counts', async () => {
    const { whats } = await planEverywhere(tablesOf({ ranks: 2 }), (rank) => ({ align: 1 + rank }));
    expect(whats[0]![0]).toMatch(/^facts [0-9a-f]{64}$/);
    expect(whats[1]![0]).not.toBe(whats[0]![0]);
  });
});

describe('what a rank gathers', () => {
  it.each<[string, (bytes: Uint8Array) => Uint8Array, string]>([
    ['less', (bytes) => bytes.subarray(0, -4), 'rank 1 counts 23 instances, not 24'],
    ['more', (bytes) => Buffer.concat([bytes, new Uint8Array(4)]), 'rank 1 counts 25 instances, not 24'],
    ['half a word', (bytes) => bytes.subarray(0, -2), 'rank 1 counts 0 instances, not 24'],
  ])('is refused with %s than its options say', async (_, change, message) => {
    const [table] = tablesOf({ ranks: 2 });
    const gather: Gather = async (_what, own) => [own, change(own)];
    await expect(
      planDistributed(planner, gather, 0, table!, { experts: EXPERTS, ranks: 2 }),
    ).rejects.toMatchObject({ code: 'E_FACTS', message, details: { rank: 1 } });
  });

  it('is refused where nodes are missing', async () => {
    const [table] = tablesOf({ ranks: 2 });
    const gather: Gather = async (_what, own) => [own, own.subarray(0, -4)];
    const options = { experts: EXPERTS, ranks: 2, strategy: 'hier', ranksPerNode: 1 } as const;
    await expect(planDistributed(planner, gather, 0, table!, options)).rejects.toMatchObject({
      code: 'E_FACTS',
      message: 'rank 1 counts 1 nodes, not 2',
    });
  });

  it('is nothing where its own routing is wrong: it is refused before the others hear of it', async () => {
    const { gathers, whats } = gathering(2);
    const table = { ids: Int32Array.of(0, 1, EXPERTS), tokens: 1, topk: TOPK };
    await expect(
      planDistributed(planner, gathers[1]!, 1, table, { experts: EXPERTS, ranks: 2 }),
    ).rejects.toMatchObject({ code: 'E_ROUTING_ID', details: { rank: 1, token: 0, k: 2 } });
    expect(whats[1]).toEqual([]);
  });
});

describe('a plan with the shard of one rank', () => {
  it('has no id and makes no file', async () => {
    const { results } = await planEverywhere(tablesOf({ ranks: 3 }), () => ({}));
    for (const [rank, result] of results.entries()) {
      const plan = (result as PromiseFulfilledResult<VerifiedPlan>).value;
      const missing = rank === 0 ? 1 : 0;
      const refusal = {
        code: 'E_RANKS',
        message: `the plan has no shard of rank ${missing}: another process made it`,
        details: { rank: missing },
      };
      await expect(planId(plan, nodeSha256)).rejects.toMatchObject(refusal);
      await expect(encodePlan(plan, nodeSha256)).rejects.toMatchObject(refusal);
    }
  });

  it('has both where there is no other rank', async () => {
    const tables = tablesOf({ ranks: 1 });
    const { results } = await planEverywhere(tables, () => ({}));
    const plan = (results[0] as PromiseFulfilledResult<VerifiedPlan>).value;
    const whole = planner.planAll(tables, { experts: EXPERTS, ranks: 1 });
    expect(await planId(plan, nodeSha256)).toBe(await planId(whole, nodeSha256));
  });
});
