import { beforeAll, describe, expect, it } from 'vitest';
import { gatherFacts } from '../../planner/facts.ts';
import type { Plan, Planner, PlanOptions } from '../../planner/index.ts';
import { encodePlan, optionsDigest, resolveOptions, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { coverageDefects, executeNaively } from '../support/execute.ts';
import { obviousPlan, type PlainRouting } from '../support/obviousPlan.ts';
import { type Case, pairwise } from '../support/pairwise.ts';
import { expectedShard, shardDifference } from '../support/shardParts.ts';
import {
  FAMILIES,
  ID_DTYPES,
  makeRouting,
  placementOf,
  toTables,
  type Workload,
} from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

const MATRIX = {
  tokens: [0, 1, 7, 128],
  hidden: [16, 1024, 7168],
  topk: [1, 2, 6, 8],
  experts: [8, 64, 256, 288],
  // [ranks, ranks a node]
  group: [
    [1, 1],
    [8, 8],
    [8, 4],
    [16, 4],
    [64, 8],
  ],
  dtype: ['f32', 'bf16', 'fp8'],
  masked: [0, 0.1, 1],
  align: [1, 16, 128],
  capacity: [0, 3, 40],
  family: FAMILIES,
  placement: ['blocks', 'scattered', 'replicas'],
  replicas: ['quota-1', 'local'],
  sliceBytes: [1, 65536, 1 << 20],
  tileTokens: [0, 1, 4, 32],
} as const;

interface Subject {
  name: string;
  options: PlanOptions;
  workload: Workload;
}

function subjectOf(values: Case<typeof MATRIX>, seed: number): Subject {
  const { tokens, topk, experts, masked, family, placement, group, ...rest } = values;
  const [ranks, ranksPerNode] = group;
  const name = Object.entries({ ...values, group: group.join('/') })
    .map(([key, value]) => `${key} ${value}`)
    .join(', ');
  const { hidden, dtype, align, capacity, sliceBytes, tileTokens, replicas } = rest;
  const options: PlanOptions = {
    experts,
    ranks,
    ranksPerNode,
    hidden,
    dtype,
    align,
    capacity,
    sliceBytes,
    tileTokens,
    replicas,
    placement: placementOf(placement, experts, ranks),
  };
  // 64 ranks multiply every size: fewer tokens a rank keep the case as telling and far cheaper.
  const few = ranks === 64 ? Math.min(tokens, 16) : tokens;
  return { name, options, workload: { family, seed, ranks, tokens: few, topk, experts, masked } };
}

const SUBJECTS = pairwise(MATRIX).map(subjectOf);

/** Plans with the planner and the obvious planner; returns the first difference of each rank that has one. */
function compare(routing: PlainRouting, topk: number, options: PlanOptions): { plan: Plan; found: string[] } {
  const plan = planner.planAll(toTables(routing, topk), options);
  const expected = obviousPlan(routing, { ...options, sliceRows: plan.spec.sliceRows } as never);
  const found = plan.shards.flatMap((shard, rank) => {
    const difference = shardDifference(
      shard.bytes,
      expectedShard(expected, rank, topk, plan.spec.tileTokens),
    );
    return difference === undefined ? [] : [`rank ${rank}: ${difference}`];
  });
  return { plan, found };
}

describe('a pairwise cover of the matrix', () => {
  it('covers every pair in few cases', () => {
    expect(SUBJECTS.length).toBeGreaterThanOrEqual(40);
    expect(SUBJECTS.length).toBeLessThan(120);
    expect(new Set(SUBJECTS.map(({ name }) => name)).size).toBe(SUBJECTS.length);
  });

  it.each(SUBJECTS)('$name', ({ options, workload }) => {
    const routing = makeRouting(workload);
    const { topk } = workload;
    const { plan, found } = compare(routing, topk, options);
    expect(found).toEqual([]);

    // The verifier takes a copy that nobody vouches for.
    const copy: Plan = { ...plan };
    expect(verifyPlan(copy)).toBe(copy);
    expect(coverageDefects(plan, executeNaively(plan))).toEqual([]);

    const tables = toTables(routing, topk);
    const spec = resolveOptions(options, topk);
    const routed = tables.map((table, rank) => planner.routeRank(rank, table, spec));
    const digest = new Uint8Array(32);
    const facts = gatherFacts(
      spec,
      routed.map(({ counts }) => ({ counts, optionsDigest: digest })),
    );
    routed.forEach((own, rank) => {
      expect(Buffer.compare(planner.planRank(own, facts, spec).bytes, plan.shards[rank]!.bytes)).toBe(0);
    });
  });
});

describe('corners', () => {
  const corners: (Workload & { options?: Partial<PlanOptions> })[] = [
    { family: 'balanced', seed: 1, ranks: 4, tokens: 1000, topk: 8, experts: 256 },
    { family: 'balanced', seed: 2, ranks: 1, tokens: 300, topk: 8, experts: 8, options: { align: 128 } },
    { family: 'raggedSources', seed: 3, ranks: 5, tokens: 100, topk: 2, experts: 7 },
    {
      family: 'raggedSources',
      seed: 4,
      ranks: 5,
      tokens: 100,
      topk: 5,
      experts: 16,
      options: { capacity: 1 },
    },
    { family: 'burst', seed: 5, step: 3, ranks: 7, tokens: 200, topk: 2, experts: 7 },
    { family: 'rotatingHotSpot', seed: 6, step: 9, ranks: 8, tokens: 64, topk: 6, experts: 64 },
    { family: 'balanced', seed: 7, ranks: 12, tokens: 9, topk: 3, experts: 5, options: { align: 4 } },
    { family: 'balanced', seed: 8, ranks: 64, tokens: 0, topk: 8, experts: 256 },
    { family: 'hotRank', seed: 9, ranks: 2, tokens: 65, topk: 64, experts: 64, masked: 0.5 },
    { family: 'balanced', seed: 10, ranks: 4, tokens: 20, topk: 256, experts: 300, options: { capacity: 7 } },
    { family: 'balanced', seed: 11, ranks: 3, tokens: 50, topk: 1, experts: 65535 },
  ];

  it.each(corners)('$family, seed $seed, $ranks ranks, $experts experts', ({ options, ...workload }) => {
    const { ranks, experts, topk } = workload;
    const { found } = compare(makeRouting(workload), topk, { ranks, experts, ...options });
    expect(found).toEqual([]);
  });

  it('uneven tokens of 4096 - rank, top-8 of 256', () => {
    const workload: Workload = {
      family: 'balanced',
      seed: 20,
      ranks: 8,
      tokens: 4096,
      topk: 8,
      experts: 256,
    };
    const routing = makeRouting(workload).map((tokens, rank) => tokens.slice(rank));
    const { plan, found } = compare(routing, 8, { ranks: 8, experts: 256, align: 128 });
    expect(found).toEqual([]);
    expect(plan.shards.map((shard) => shard.tokens)).toEqual([
      4096, 4095, 4094, 4093, 4092, 4091, 4090, 4089,
    ]);
  });
});

describe('determinism', () => {
  const workload: Workload = {
    family: 'hotExperts',
    seed: 30,
    ranks: 8,
    tokens: 64,
    topk: 4,
    experts: 96,
    masked: 0.1,
  };
  const options: PlanOptions = { ranks: 8, experts: 96, capacity: 20, align: 8 };

  it('ids of every integer dtype give the same file', async () => {
    const routing = makeRouting({ ...workload, masked: 0 });
    const files: string[] = [];
    for (const dtype of ID_DTYPES) {
      const { bytes } = await encodePlan(planner.planAll(toTables(routing, 4, dtype), options), nodeSha256);
      files.push(Buffer.from(bytes).toString('base64'));
    }
    expect(files).toHaveLength(8);
    expect(new Set(files).size).toBe(1);
  });

  it('masked ids of every signed dtype give the same file', async () => {
    const routing = makeRouting(workload);
    const ids = new Set<string>();
    for (const dtype of ['i8', 'i16', 'i32', 'i64'] as const) {
      ids.add((await encodePlan(planner.planAll(toTables(routing, 4, dtype), options), nodeSha256)).planId);
    }
    expect(ids.size).toBe(1);
  });

  it('a used planner and a fresh one give the same bytes, whatever was planned before', async () => {
    const tables = toTables(makeRouting(workload), 4);
    const first = await encodePlan(planner.planAll(tables, options), nodeSha256);
    // Leaves the arena full of other numbers, then a refused routing half way.
    planner.planAll(toTables(makeRouting({ ...workload, seed: 31, tokens: 500 }), 4), {
      ranks: 8,
      experts: 96,
    });
    expect(() => planner.planAll(toTables([[[0, 0]]], 2), { ranks: 1, experts: 2 })).toThrow();
    const second = await encodePlan(planner.planAll(tables, options), nodeSha256);
    const third = await encodePlan((await loadPlanner()).planAll(tables, options), nodeSha256);
    expect(Buffer.compare(first.bytes, second.bytes)).toBe(0);
    expect(Buffer.compare(first.bytes, third.bytes)).toBe(0);
  });

  it('options that differ give other digests, equal ones the same', async () => {
    const digests = new Set<string>();
    const variants: Partial<PlanOptions>[] = [
      {},
      { align: 2 },
      { capacity: 1 },
      { hidden: 64 },
      { dtype: 'f32' },
      { ranksPerNode: 4 },
      { sliceBytes: 20000 },
      { placement: Array.from({ length: 96 }, (_, e) => e % 8) },
    ];
    for (const variant of variants) {
      const spec = resolveOptions({ ranks: 8, experts: 96, ...variant }, 4);
      digests.add(Buffer.from(await optionsDigest(spec, nodeSha256)).toString('hex'));
    }
    expect(digests.size).toBe(variants.length);
    // Contiguous blocks are the same plan whether they are spelled out or left to the default.
    const blocks = Array.from({ length: 96 }, (_, e) => Math.floor(e / 12));
    const spelled = resolveOptions({ ranks: 8, experts: 96, placement: blocks }, 4);
    digests.add(Buffer.from(await optionsDigest(spelled, nodeSha256)).toString('hex'));
    expect(digests.size).toBe(variants.length);
  });
});
