// Hierarchical plans over a pairwise cover of the matrix, against the obvious planner and the flat plan.

import { beforeAll, describe, expect, it } from 'vitest';
import type { Facts } from '../../planner/facts.ts';
import { gatherFacts } from '../../planner/facts.ts';
import type { Plan, Planner, PlanOptions, Shard } from '../../planner/index.ts';
import { decodePlan, encodePlan, planId, resolveOptions, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { coverageDefects, executeNaively } from '../support/execute.ts';
import { obviousHier } from '../support/obviousHier.ts';
import { type ObviousRank, obviousPlan, type PlainRouting } from '../support/obviousPlan.ts';
import { type Case, pairwise } from '../support/pairwise.ts';
import { expectedShard, parseShard, SECTION, shardDifference, WORD } from '../support/shardParts.ts';
import { FAMILIES, makeRouting, placementOf, toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

const MATRIX = {
  tokens: [0, 1, 7, 33, 127],
  topk: [1, 2, 6, 8],
  experts: [8, 64, 256, 288],
  // [ranks, ranks a node]: 1, 2, 4 and 8 nodes, 3 for good measure, and de-duplication per rank
  group: [
    [4, 4],
    [8, 4],
    [4, 2],
    [16, 4],
    [64, 8],
    [6, 2],
    [8, 1],
  ],
  masked: [0, 0.1, 1],
  align: [1, 16, 128],
  capacity: [0, 3, 40],
  family: FAMILIES,
  placement: ['blocks', 'scattered', 'replicas'],
  replicas: ['quota-1', 'local'],
  sliceBytes: [1, 65536, 1 << 20],
  balance: ['static', 'rotate', 'lpt', 'best'],
  partial: ['payload', 'f32'],
} as const;

interface Subject {
  name: string;
  options: PlanOptions;
  routing: PlainRouting;
  topk: number;
}

function subjectOf(values: Case<typeof MATRIX>, seed: number): Subject {
  const { tokens, topk, experts, masked, family, placement, group, ...rest } = values;
  const [ranks, ranksPerNode] = group;
  const name = Object.entries({ ...values, group: group.join('/') })
    .map(([key, value]) => `${key} ${value}`)
    .join(', ');
  const options: PlanOptions = {
    ...rest,
    experts,
    ranks,
    ranksPerNode,
    strategy: 'hier',
    placement: placementOf(placement, experts, ranks),
  };
  // 64 ranks multiply every size: fewer tokens a rank keep the case as telling and far cheaper.
  const few = ranks === 64 ? Math.min(tokens, 11) : tokens;
  const routing = makeRouting({ family, seed, ranks, tokens: few, topk, experts, masked });
  return { name, options, routing, topk };
}

const SUBJECTS = pairwise(MATRIX).map(subjectOf);

/** The obvious plan without forwarding. */
function obviousFlat({ routing, options }: Subject): ObviousRank[] {
  return obviousPlan(routing, options as never);
}

/** Differences of every shard from what the obvious planner makes of the same groups. */
function differences(plan: Plan, flat: readonly ObviousRank[], topk: number): string[] {
  const { ranksPerNode, sliceRows } = plan.spec;
  const expected = obviousHier(flat, { ranksPerNode, sliceRows, groups: [...plan.decision.groups] });
  return plan.shards.flatMap((shard, rank) => {
    const difference = shardDifference(shard.bytes, expectedShard(expected, rank, topk));
    return difference === undefined ? [] : [`rank ${rank}: ${difference}`];
  });
}

/** What is wrong with groups that should hold one rank of every node each. */
function badNodes({ spec, decision }: Plan): number[] {
  const wanted = Array.from({ length: spec.ranksPerNode }, (_, group) => group).join();
  return Array.from({ length: spec.nodes }, (_, node) => node).filter((node) => {
    const first = node * spec.ranksPerNode;
    const members = [...decision.groups.slice(first, first + spec.ranksPerNode)].sort((a, b) => a - b);
    return members.join() !== wanted;
  });
}

/** The receive side and the slots of a shard: what no strategy may change. */
function receiveSide(bytes: Uint8Array) {
  const { words, sections } = parseShard(bytes);
  const { expertOffset, expertRows, runRow, runRows, sendRow, sendRows, entrySlot, entryInstance } = SECTION;
  return [
    [WORD.recvRows, WORD.kept, WORD.masked, WORD.dropped].map((word) => words[word]),
    ...[expertOffset, expertRows, runRow, runRows, sendRow, sendRows, entrySlot, entryInstance].map(
      (section) => sections[section],
    ),
  ];
}

/** `token>node` of every row that some kept entry needs at a remote node, and how many rows stay on their node. */
function needed(flat: readonly ObviousRank[], rank: number, ranksPerNode: number) {
  const own = Math.floor(rank / ranksPerNode);
  const crossing = new Set<string>();
  let near = 0;
  flat[rank]!.fates.forEach((ids, token) => {
    for (const fate of ids) {
      if (fate.kind !== 'kept') continue;
      const node = Math.floor(fate.rank / ranksPerNode);
      if (node === own) near++;
      else crossing.add(`${token}>${node}`);
    }
  });
  return { crossing, near };
}

/** `token>node` of every row of a shard's forwarding stream, in its order. */
function crossingsOf({ forwardRows, forwardToken }: Shard): string[] {
  const nodeOfRow = [...forwardRows].flatMap((rows, node) => new Array<number>(rows).fill(node));
  return nodeOfRow.map((node, row) => `${forwardToken[row]}>${node}`);
}

/** Plans every rank by itself, as at run time: counts first, rows per node then, all gathered. */
function planApart({ routing, topk, options }: Subject) {
  const spec = resolveOptions(options, topk);
  const routed = toTables(routing, topk).map((table, rank) => planner.routeRank(rank, table, spec));
  const optionsDigest = new Uint8Array(32);
  const { counts } = gatherFacts(
    spec,
    routed.map((own) => ({ counts: own.counts, optionsDigest })),
  );
  const nodeRows = new Uint32Array(spec.ranks * spec.nodes);
  routed.forEach((own, rank) => {
    // Without a capacity and quotas the rows per node are known before anybody's counts are.
    expect(own.nodeRows !== undefined).toBe(spec.capacity === 0 && spec.replicas !== 'quota-1');
    nodeRows.set(planner.nodeRows(own, counts, spec), rank * spec.nodes);
  });
  const facts: Facts = { counts, nodeRows };
  return { facts, shards: routed.map((own) => planner.planRank(own, facts, spec)) };
}

function expectSameShards(actual: Plan['shards'], expected: Plan['shards']): void {
  const unequal = actual.flatMap((shard, rank) =>
    Buffer.compare(shard.bytes, expected[rank]!.bytes) === 0 ? [] : [rank],
  );
  expect(unequal).toEqual([]);
}

describe('a pairwise cover of the matrix', () => {
  it('covers every pair in few cases', () => {
    expect(SUBJECTS.length).toBeGreaterThanOrEqual(56);
    expect(SUBJECTS.length).toBeLessThan(120);
    expect(new Set(SUBJECTS.map(({ name }) => name)).size).toBe(SUBJECTS.length);
  });

  it.each(SUBJECTS)('$name', async (subject) => {
    const { routing, topk, options } = subject;
    const tables = toTables(routing, topk);
    const plan = planner.planAll(tables, options);
    const { ranksPerNode, nodes, ranks } = plan.spec;
    expect(badNodes(plan)).toEqual([]);

    const obvious = obviousFlat(subject);
    expect(differences(plan, obvious, topk)).toEqual([]);
    const flat = planner.planAll(tables, { ...options, strategy: 'flat' });
    expect(plan.shards.map(({ bytes }) => receiveSide(bytes))).toEqual(
      flat.shards.map(({ bytes }) => receiveSide(bytes)),
    );

    // Each row that a node needs crosses to it once, and nothing else crosses.
    let sent = 0;
    let received = 0;
    plan.shards.forEach((shard, rank) => {
      const crossed = crossingsOf(shard);
      const { crossing, near } = needed(obvious, rank, ranksPerNode);
      expect(new Set(crossed)).toEqual(crossing);
      expect(crossed.length).toBe(crossing.size);
      expect(shard.sendEntry.length).toBe(near);
      expect(shard.sendEntry.length + shard.distributeEntry.length).toBe(shard.kept);
      sent += crossed.length;
      received += shard.stageRows;
    });
    expect(received).toBe(sent);
    if (nodes === 1) expect(sent).toBe(0);
    if (ranksPerNode === 1) expect(plan.shards.map(({ staged }) => staged)).toEqual(new Array(ranks).fill(0));

    const arrived = executeNaively(plan);
    expect(coverageDefects(plan, arrived)).toEqual([]);
    expect(arrived).toEqual(executeNaively(flat));

    expectSameShards(planApart(subject).shards, plan.shards);
    const decoded = await decodePlan((await encodePlan(plan, nodeSha256)).bytes, nodeSha256);
    expect(verifyPlan(decoded.plan)).toBe(decoded.plan);
    expect(decoded.plan.decision).toEqual(plan.decision);
  });
});

describe('auto', () => {
  it.each(SUBJECTS)('$name', async (subject) => {
    const { routing, topk, options } = subject;
    const tables = toTables(routing, topk);
    const auto = planner.planAll(tables, { ...options, strategy: 'auto' });
    const { strategy, reason } = auto.decision;
    expect(auto.spec.strategy).toBe(strategy);
    expect(reason).toMatch(/^busiest rank: flat \d+ rows between nodes and \d+ inside, hier \d+ rows /);
    const asked = planner.planAll(tables, { ...options, strategy });
    expect(asked.decision.reason).toBe('');
    expect(await planId(auto, nodeSha256)).toBe(await planId(asked, nodeSha256));
    expectSameShards(auto.shards, asked.shards);
    expectSameShards(
      planApart({ ...subject, options: { ...options, strategy: 'auto' } }).shards,
      auto.shards,
    );
    // The reason travels in the file beside the plan id.
    const { bytes } = await encodePlan(auto, nodeSha256);
    expect((await decodePlan(bytes, nodeSha256)).plan.decision).toEqual(auto.decision);
  });

  it('chooses each strategy where it must', () => {
    const chosen = SUBJECTS.map(({ routing, topk, options }) => {
      const { spec } = planner.planAll(toTables(routing, topk), { ...options, strategy: 'auto' });
      return `${spec.nodes === 1 ? 'one node ' : ''}${spec.strategy}`;
    });
    expect(new Set(chosen)).toEqual(new Set(['one node flat', 'flat', 'hier']));
  });

  it('states the busiest ranks of a case worked out by hand', () => {
    // 2 nodes of 2 ranks, one expert a rank. Rank 0 sends 3 tokens to both experts of node 1: 6 rows flat, 3 rows to
    // rank 2 hierarchically, of which rank 2 passes 3 on to rank 3. Of ranks that are equally busy the first is named.
    const routing = [
      [
        [2, 3],
        [3, 2],
        [2, 3],
      ],
      [],
      [],
      [],
    ];
    const options: PlanOptions = {
      ranks: 4,
      experts: 4,
      ranksPerNode: 2,
      strategy: 'auto',
      balance: 'static',
    };
    const { decision } = planner.planAll(toTables(routing, 2), options);
    expect(decision).toEqual({
      strategy: 'hier',
      rule: 'static',
      groups: Uint16Array.of(0, 1, 0, 1),
      reason: 'busiest rank: flat 6 rows between nodes and 0 inside, hier 3 rows between nodes and 0 inside',
    });
  });

  it('stays flat where nothing is saved', () => {
    // One expert a token: a hierarchical plan sends as many rows and passes some on.
    const routing = [
      [[2], [3]],
      [[3], [2]],
      [[0], [1]],
      [[1], [0]],
    ];
    const options: PlanOptions = { ranks: 4, experts: 4, ranksPerNode: 2, strategy: 'auto' };
    const { decision } = planner.planAll(toTables(routing, 1), options);
    expect(decision).toMatchObject({ strategy: 'flat', rule: 'none', groups: new Uint16Array(0) });
  });
});

describe('facts', () => {
  const subject: Subject = {
    name: 'ragged',
    routing: makeRouting({ family: 'raggedSources', seed: 5, ranks: 8, tokens: 21, topk: 3, experts: 24 }),
    topk: 3,
    options: { ranks: 8, experts: 24, ranksPerNode: 2, strategy: 'hier', capacity: 9 },
  };

  it.each([0, 9])('announce the rows that each rank then forwards, capacity %d', (capacity) => {
    const options = { ...subject.options, capacity };
    const { facts, shards } = planApart({ ...subject, options });
    const rows = shards.flatMap(({ forwardRows }) => [...forwardRows]);
    expect([...facts.nodeRows!]).toEqual(rows);
  });

  it.each(['hier', 'auto'] as const)('%s: facts that contradict the own routing are refused', (strategy) => {
    const spec = resolveOptions({ ...subject.options, strategy }, 3);
    const { facts } = planApart({ ...subject, options: { ...subject.options, strategy: 'hier' } });
    const routed = planner.routeRank(3, toTables(subject.routing, 3)[3]!, spec);
    const nodeRows = facts.nodeRows!.slice();
    nodeRows[3 * spec.nodes]! += 1;
    expect(() => planner.planRank(routed, { ...facts, nodeRows }, spec)).toThrow(
      expect.objectContaining({ code: 'E_FACTS' }),
    );
    expect(() => planner.planRank(routed, { counts: facts.counts }, spec)).toThrow(
      expect.objectContaining({ code: 'E_FACTS' }),
    );
    expect(() => planner.planRank(routed, { ...facts, nodeRows: nodeRows.slice(1) }, spec)).toThrow(
      expect.objectContaining({ code: 'E_FACTS' }),
    );
  });
});
