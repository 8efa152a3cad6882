// Hierarchical plans worked out by hand. Every number follows from the rules in a comment beside it, not from a run.

import { beforeAll, describe, expect, it } from 'vitest';
import { Shard } from '../../planner/format/shard.ts';
import type { Plan, Planner, PlanOptions } from '../../planner/index.ts';
import { verifyPlan } from '../../planner/index.ts';
import { loadPlanner } from '../../planner/node.ts';
import { coverageDefects, executeNaively } from '../support/execute.ts';
import { TWO_BY_TWO } from '../support/honest.ts';
import { obviousHier } from '../support/obviousHier.ts';
import { obviousPlan, type PlainRouting } from '../support/obviousPlan.ts';
import { expectedShard, parseShard, SECTION, WORD } from '../support/shardParts.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

function planOf(routing: PlainRouting, topk: number, options: PlanOptions): Plan {
  const plan = planner.planAll(toTables(routing, topk), options);
  expect(verifyPlan({ ...plan })).toBeDefined();
  expect(coverageDefects(plan, executeNaively(plan))).toEqual([]);
  return plan;
}

/** One rank's shard in the words of planner/format/layout.ts, without what says only who it is. */
function descriptors(bytes: Uint8Array) {
  const { words, sections } = parseShard(bytes);
  const named = Object.entries(SECTION).map(([name, section]) => [name, sections[section]!] as const);
  return {
    recvRows: words[WORD.recvRows],
    kept: words[WORD.kept],
    masked: words[WORD.masked],
    dropped: words[WORD.dropped],
    segments: Shard.open(bytes, words[WORD.rank]!).segments,
    stageRowsInAll: words[WORD.stageRows],
    staged: words[WORD.staged],
    ...Object.fromEntries(named.filter(([, list]) => list.length > 0)),
  };
}

/** The sections that say how rows cross between nodes. */
function crossing(bytes: Uint8Array) {
  const { words, sections } = parseShard(bytes);
  return {
    token: sections[SECTION.forwardToken],
    target: sections[SECTION.forwardTarget],
    firstStage: sections[SECTION.forwardRow],
    rows: sections[SECTION.forwardRows],
    offset: sections[SECTION.distributeOffset],
    entry: sections[SECTION.distributeEntry],
    slice: sections[SECTION.forwardSlice],
    sourceRow: sections[SECTION.stageRow],
    sourceRows: sections[SECTION.stageRows],
    stage: words[WORD.stageRows],
    staged: words[WORD.staged],
  };
}

describe('2 nodes of 2 ranks, 8 experts, top-2, align 4, capacity 3', () => {
  // Experts 0 1 | 2 3 | 4 5 | 6 7 on ranks 0 | 1 | 2 | 3; nodes {0, 1} and {2, 3}. r0t1k0 is rank 0, token 1, k 0.
  //   rank 0: (4,0) (6,7) (5,6) (-1,2)   rank 1: (6,4) (3,-1)   rank 2: (0,2) (5,4) (1,0)   rank 3: (2,3) (0,7) (1,7)
  // Rows by (source rank, token, k); blocks start at multiples of 4:
  //   expert 0: r0t0k1 r2t0k0 r2t2k1 -> 0 1 2, then r3t1k0 is dropped    expert 1: r2t2k0 r3t2k0        -> 4 5
  //   expert 2: r0t3k1 r2t0k1 r3t0k0 -> 0 1 2                            expert 3: r1t1k0 r3t0k1        -> 4 5
  //   expert 4: r0t0k0 r1t0k1 r2t1k1 -> 0 1 2                            expert 5: r0t2k0 r2t1k0        -> 4 5
  //   expert 6: r0t1k0 r0t2k1 r1t0k0 -> 0 1 2                            expert 7: r0t1k1 r3t1k1 r3t2k1 -> 4 5 6
  const { routing, options } = TWO_BY_TWO;

  it('static: ranks 0 and 2 forward for each other, and ranks 1 and 3', () => {
    const plan = planOf(routing, 2, { ...options, balance: 'static' });
    expect(plan.decision).toEqual({
      strategy: 'hier',
      rule: 'static',
      groups: Uint16Array.of(0, 1, 0, 1),
      reason: '',
    });
    const [r0, r1, r2, r3] = plan.shards.map(({ bytes }) => descriptors(bytes));
    // Token 0 lands at rank 2 in expert 4's row 0. Token 1 has nothing at rank 2: staging row 1. Token 2 lands in
    // expert 5's row 4. Token 3 stays on its node. Rank 0 stages for rank 2, which sends it tokens 0 and 2.
    expect(r0).toEqual({
      recvRows: 8,
      kept: 7,
      masked: 1,
      dropped: 0,
      segments: 2,
      stageRowsInAll: 2,
      staged: 1,
      expertOffset: [0, 4, 8],
      expertRows: [3, 2],
      runRow: [0, 1, 1, 3, 4, 4, 4, 5],
      runRows: [1, 0, 2, 0, 0, 0, 1, 1],
      sendRow: [0, 4, 0, 4, 0, 4, 0, 4],
      sendRows: [1, 0, 1, 0, 1, 1, 2, 1],
      slice: [0, 0, 1, 1, 1, 1],
      entrySlot: [0, 0, 0, 4, 4, 1, -1, 0],
      entryInstance: [4, 0, 6, 7, 5, 6, 8, 2],
      sendEntry: [1, 7],
      forwardRow: [0, 0],
      forwardRows: [0, 3],
      forwardToken: [0, 1, 2],
      forwardTarget: [0, -2, 4],
      distributeOffset: [0, 1, 3, 5],
      distributeEntry: [0, 2, 3, 4, 5],
      forwardSlice: [1, 0, 3],
      stageRow: [0, 0, 0, 0],
      stageRows: [0, 0, 2, 0],
    });
    // Token 0 lands at rank 3 in expert 6's row 2; its second entry goes on to rank 2. Token 1 is direct or masked.
    expect(r1).toEqual({
      recvRows: 8,
      kept: 3,
      masked: 1,
      dropped: 0,
      segments: 1,
      stageRowsInAll: 2,
      staged: 0,
      expertOffset: [0, 4, 8],
      expertRows: [3, 2],
      runRow: [0, 1, 1, 2, 4, 4, 5, 5],
      runRows: [1, 0, 1, 1, 0, 1, 0, 1],
      sendRow: [1, 4, 1, 4, 1, 5, 2, 5],
      sendRows: [0, 0, 0, 1, 1, 0, 1, 0],
      slice: [1, 0, 1],
      entrySlot: [2, 1, 4, -1],
      entryInstance: [6, 4, 3, 8],
      sendEntry: [2],
      forwardRow: [0, 0],
      forwardRows: [0, 1],
      forwardToken: [0],
      forwardTarget: [2],
      distributeOffset: [0, 2],
      distributeEntry: [0, 1],
      forwardSlice: [1, 0, 1],
      stageRow: [0, 0, 0, 0],
      stageRows: [0, 0, 0, 2],
    });
    // Token 0 lands in expert 0's row 1. Token 2 has two rows at rank 0, 4 and 2: it lands in the lower one.
    expect(r2).toEqual({
      recvRows: 8,
      kept: 6,
      masked: 0,
      dropped: 0,
      segments: 2,
      stageRowsInAll: 3,
      staged: 0,
      expertOffset: [0, 4, 8],
      expertRows: [3, 2],
      runRow: [0, 1, 2, 3, 4, 5, 5, 6],
      runRows: [1, 1, 1, 0, 1, 0, 1, 0],
      sendRow: [1, 4, 1, 5, 2, 5, 3, 5],
      sendRows: [2, 1, 1, 0, 1, 1, 0, 0],
      slice: [2, 0, 2],
      entrySlot: [1, 1, 5, 2, 4, 2],
      entryInstance: [0, 2, 5, 4, 1, 0],
      sendEntry: [3, 2],
      forwardRow: [0, 0],
      forwardRows: [2, 0],
      forwardToken: [0, 2],
      forwardTarget: [1, 2],
      distributeOffset: [0, 2, 4],
      distributeEntry: [0, 1, 4, 5],
      forwardSlice: [0, 0, 2],
      stageRow: [0, 0, 0, 0],
      stageRows: [3, 0, 0, 0],
    });
    // Token 1's only remote entry is dropped, so it does not cross. Token 2 has nothing at rank 1: staging row 1, the
    // second of rank 3's rows there, though the first lands in a slot. Tokens 1 and 2 lie in rows 5 and 6 of expert 7.
    expect(r3).toEqual({
      recvRows: 8,
      kept: 5,
      masked: 0,
      dropped: 1,
      segments: 1,
      stageRowsInAll: 1,
      staged: 1,
      expertOffset: [0, 4, 8],
      expertRows: [3, 3],
      runRow: [0, 2, 3, 3, 4, 5, 5, 5],
      runRows: [2, 1, 0, 0, 1, 0, 0, 2],
      sendRow: [3, 5, 2, 5, 3, 6, 3, 5],
      sendRows: [0, 1, 1, 1, 0, 0, 0, 2],
      slice: [3, 0, 2],
      entrySlot: [2, 5, -2, 5, 5, 6],
      entryInstance: [2, 3, 0, 7, 1, 7],
      sendEntry: [3, 5],
      forwardRow: [0, 0],
      forwardRows: [2, 0],
      forwardToken: [0, 2],
      forwardTarget: [2, -2],
      distributeOffset: [0, 2, 3],
      distributeEntry: [0, 1, 4],
      forwardSlice: [0, 0, 2],
      stageRow: [0, 0, 0, 0],
      stageRows: [0, 1, 0, 0],
    });
  });

  it('rotate: ranks 0 and 3 forward for each other, and ranks 1 and 2', () => {
    // Ranks send 3, 1, 2 and 2 rows to the other node. Node 0 by load: 0, 1 -> groups 0, 1. Node 1 by load: 2, 3 (a
    // tie goes to the lower rank), rotated by one -> groups 1, 0.
    const plan = planOf(routing, 2, { ...options, balance: 'rotate' });
    expect(plan.decision.groups).toEqual(Uint16Array.of(0, 1, 1, 0));
    const crossings = plan.shards.map(({ bytes }) => crossing(bytes));
    // What crosses is the same as above; where it lands is not.
    const same = { firstStage: [0, 0], sourceRow: [0, 0, 0, 0] };
    expect(crossings).toEqual([
      {
        ...same,
        // At rank 3: token 0 has nothing there (staging row 0), token 1 experts 6 and 7 (0 < 4), token 2 expert 6.
        token: [0, 1, 2],
        target: [-1, 0, 1],
        rows: [0, 3],
        offset: [0, 1, 3, 5],
        entry: [0, 2, 3, 4, 5],
        slice: [1, 0, 3],
        sourceRows: [0, 0, 0, 2],
        stage: 2,
        staged: 1,
      },
      {
        ...same,
        // At rank 2: expert 4's row 1, though the token's first entry is expert 6 at rank 3.
        token: [0],
        target: [1],
        rows: [0, 1],
        offset: [0, 2],
        entry: [0, 1],
        slice: [1, 0, 1],
        sourceRows: [0, 0, 2, 0],
        stage: 2,
        staged: 0,
      },
      {
        ...same,
        // At rank 1: token 0 has expert 2's row 1, token 2 nothing (staging row 1).
        token: [0, 2],
        target: [1, -2],
        rows: [2, 0],
        offset: [0, 2, 4],
        entry: [0, 1, 4, 5],
        slice: [0, 0, 2],
        sourceRows: [0, 1, 0, 0],
        stage: 1,
        staged: 1,
      },
      {
        ...same,
        // At rank 0: token 0 has nothing (staging row 0), token 2 expert 1's row 5.
        token: [0, 2],
        target: [-1, 5],
        rows: [2, 0],
        offset: [0, 2, 3],
        entry: [0, 1, 4],
        slice: [0, 0, 2],
        sourceRows: [3, 0, 0, 0],
        stage: 3,
        staged: 1,
      },
    ]);
  });

  it('lpt joins the heaviest rank of node 1 to the lightest group', () => {
    // Groups hold 3 and 1 rows after node 0; of node 1's ranks, both with 2 rows, the lower one joins group 1.
    const plan = planOf(routing, 2, { ...options, balance: 'lpt' });
    expect(plan.decision).toMatchObject({ rule: 'lpt', groups: Uint16Array.of(0, 1, 1, 0) });
  });

  it('lists every section and word that the obvious hierarchical plan expects', () => {
    const flat = obviousPlan(routing, { ranks: 4, experts: 8, ranksPerNode: 2, align: 4, capacity: 3 });
    const obvious = obviousHier(flat, { ranksPerNode: 2, groups: [0, 1, 1, 0] });
    const { words, sections } = expectedShard(obvious, 3, 2);
    expect(sections[SECTION.forwardTarget]).toEqual([-1, 5]);
    expect(sections[SECTION.distributeEntry]).toEqual([0, 1, 4]);
    expect(sections[SECTION.sendEntry]).toEqual([3, 5]);
    expect(words.slice(WORD.kept, WORD.staged + 1)).toEqual([5, 0, 1, 0, 3, 1]);
  });
});

describe('1 rank a node', () => {
  it('sends one row a token and rank, which always lands in a slot', () => {
    // 3 ranks, 6 experts, top-3: experts 0 1 | 2 3 | 4 5.
    //   rank 0: (2,3,4) (0,3,-1)      rank 1: (0,1,5)      rank 2: (3,2,1) (4,5,2)
    //   expert 0: r0t1k0 r1t0k0 -> 0 1          expert 1: r1t0k1 r2t0k2        -> 2 3
    //   expert 2: r0t0k0 r2t0k1 r2t1k2 -> 0 1 2 expert 3: r0t0k1 r0t1k1 r2t0k0 -> 3 4 5
    //   expert 4: r0t0k2 r2t1k0 -> 0 1          expert 5: r1t0k2 r2t1k1        -> 2 3
    const routing = [
      [
        [2, 3, 4],
        [0, 3, -1],
      ],
      [[0, 1, 5]],
      [
        [3, 2, 1],
        [4, 5, 2],
      ],
    ];
    const plan = planOf(routing, 3, { ranks: 3, experts: 6, ranksPerNode: 1, strategy: 'hier' });
    expect([...plan.decision.groups]).toEqual([0, 0, 0]);
    expect(plan.shards.map(({ bytes }) => crossing(bytes))).toEqual([
      {
        // To rank 1 tokens 0 (rows 0 and 3) and 1, to rank 2 token 0; first in both forwarders' staging.
        token: [0, 1, 0],
        target: [0, 4, 0],
        firstStage: [0, 0, 0],
        rows: [0, 2, 1],
        offset: [0, 2, 3, 4],
        entry: [0, 1, 4, 2],
        slice: [1, 0, 2, 2, 2, 1],
        sourceRow: [0, 0, 1],
        sourceRows: [0, 1, 1],
        stage: 2,
        staged: 0,
      },
      {
        // Rank 1 starts with node 2, then node 0. At rank 2 rank 0's one row comes first.
        token: [0, 0],
        target: [1, 2],
        firstStage: [0, 0, 1],
        rows: [1, 0, 1],
        offset: [0, 2, 3],
        entry: [0, 1, 2],
        slice: [2, 1, 1, 0, 0, 1],
        sourceRow: [0, 0, 2],
        sourceRows: [2, 0, 2],
        stage: 4,
        staged: 0,
      },
      {
        // Token 0's entries at rank 1 are k 0 (row 5) and k 1 (row 1): by k in the list, landing in row 1.
        token: [0, 0, 1],
        target: [3, 1, 2],
        firstStage: [1, 2, 0],
        rows: [1, 2, 0],
        offset: [0, 1, 3, 4],
        entry: [2, 0, 1, 5],
        slice: [0, 0, 1, 1, 1, 2],
        sourceRow: [0, 1, 0],
        sourceRows: [1, 1, 0],
        stage: 2,
        staged: 0,
      },
    ]);
    // Direct is only what stays on the rank.
    expect(plan.shards.map((shard) => [...shard.sendEntry])).toEqual([[3], [], [3, 4]]);
    expect(plan.shards.map((shard) => [...shard.slices])).toEqual([[0, 0, 1], [], [2, 0, 2]]);
  });
});

describe('lopsided groups', () => {
  it('3 nodes of 2 ranks, all tokens to one rank: two nodes get nothing, staging rows add up by source', () => {
    // One expert a rank; ranks send 2, 1, 1, 2, 1 and 0 tokens to expert 5 at rank 5, in rows 0 .. 6.
    const routing = [2, 1, 1, 2, 1, 0].map((tokens) => Array.from({ length: tokens }, () => [5]));
    const plan = planOf(routing, 1, {
      ranks: 6,
      experts: 6,
      ranksPerNode: 2,
      strategy: 'hier',
      balance: 'static',
    });
    // Rank 4 forwards for ranks 0 and 2 and hosts nothing; rank 5 forwards for ranks 1 and 3 and hosts expert 5.
    const crossings = plan.shards.map(({ bytes }) => crossing(bytes));
    expect(crossings.map(({ target }) => target)).toEqual([[-1, -2], [2], [-3], [4, 5], [], []]);
    expect(crossings.map(({ firstStage }) => firstStage)).toEqual([
      [0, 0, 0],
      [0, 0, 0],
      [0, 0, 2],
      [0, 0, 1],
      [0, 0, 0],
      [0, 0, 0],
    ]);
    expect(crossings.map(({ rows }) => rows)).toEqual([
      [0, 0, 2],
      [0, 0, 1],
      [0, 0, 1],
      [0, 0, 2],
      [0, 0, 0],
      [0, 0, 0],
    ]);
    expect(crossings.map(({ stage, staged }) => [stage, staged])).toEqual([
      [0, 2],
      [0, 0],
      [0, 1],
      [0, 0],
      [3, 0],
      [3, 0],
    ]);
    expect(crossings[4]).toMatchObject({ sourceRow: [0, 0, 2, 0, 0, 0], sourceRows: [2, 0, 1, 0, 0, 0] });
    expect(crossings[5]).toMatchObject({ sourceRow: [0, 0, 0, 1, 0, 0], sourceRows: [0, 1, 0, 2, 0, 0] });
    expect(crossings.map(({ slice }) => slice)).toEqual([[2, 0, 2], [2, 0, 1], [2, 0, 1], [2, 0, 2], [], []]);
    // Rank 4 reaches its neighbour directly: row 6.
    expect([...plan.shards[4]!.slices]).toEqual([5, 0, 1]);
    expect(executeNaively(plan)[5]).toEqual(['0/0/0', '0/1/0', '1/0/0', '2/0/0', '3/0/0', '3/1/0', '4/0/0']);
  });

  it('cuts forwarding streams at the slice size, nodes staggered', () => {
    // 3 nodes of 1 rank; rank 0 sends 3 tokens to rank 1 and 1 to rank 2; a slice holds 2 rows of 4 bytes.
    const plan = planOf([[[1], [2], [1], [1]], [], []], 1, {
      ranks: 3,
      experts: 3,
      ranksPerNode: 1,
      hidden: 4,
      dtype: 'fp8',
      sliceBytes: 8,
      strategy: 'hier',
    });
    expect([...plan.shards[0]!.forwardToken]).toEqual([0, 2, 3, 1]);
    expect([...plan.shards[0]!.forwardSlices]).toEqual([1, 0, 2, 2, 3, 1, 1, 2, 1]);
  });

  it.each([
    ['without a token', [[], [], [], []]],
    ['with every entry masked', [[[-1, -1]], [[-1, -1]], [[-1, -1]], [[-1, -1]]]],
    ['that keeps every row on its node', [[[0, 1]], [[1, 0]], [[2, 3]], [[3, 2]]]],
  ])('a group %s forwards nothing', (_, routing) => {
    const plan = planOf(routing, 2, { ranks: 4, experts: 4, ranksPerNode: 2, strategy: 'hier' });
    for (const { bytes } of plan.shards) {
      expect(crossing(bytes)).toEqual({
        token: [],
        target: [],
        firstStage: [0, 0],
        rows: [0, 0],
        offset: [0],
        entry: [],
        slice: [],
        sourceRow: [0, 0, 0, 0],
        sourceRows: [0, 0, 0, 0],
        stage: 0,
        staged: 0,
      });
    }
  });

  it('a group of one node forwards nothing and sends the flat plan directly', () => {
    const routing = [[[0, 3]], [[2, 1]]];
    const options: PlanOptions = { ranks: 2, experts: 4, ranksPerNode: 2 };
    const hier = planOf(routing, 2, { ...options, strategy: 'hier' });
    const flat = planOf(routing, 2, options);
    expect(hier.shards.map(({ sendEntry }) => sendEntry)).toEqual(
      flat.shards.map(({ sendEntry }) => sendEntry),
    );
    expect(hier.shards.map(({ slices }) => slices)).toEqual(flat.shards.map(({ slices }) => slices));
  });
});
