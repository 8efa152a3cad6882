// Cases worked out by hand. Every number below follows from the rules in a comment beside it, not from a run.

import { beforeAll, describe, expect, it } from 'vitest';
import type { Planner, PlanOptions, Shard } from '../../planner/index.ts';
import { loadPlanner } from '../../planner/node.ts';
import { hostsOf, obviousPlan, type PlainRouting } from '../support/obviousPlan.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

function plan(routing: PlainRouting, topk: number, options: PlanOptions): readonly Shard[] {
  return planner.planAll(toTables(routing, topk), options).shards;
}

const slots = (shards: readonly Shard[]) => shards.map((shard) => [...shard.entrySlot]);
const offsets = (shards: readonly Shard[]) => shards.map((shard) => [...shard.expertOffset]);
const counts = (shards: readonly Shard[]) => shards.map((shard) => [...shard.expertRows]);

describe('4 ranks, 8 experts, align 4', () => {
  // Experts 0,1 live on rank 0; 2,3 on rank 1; 4,5 on rank 2; 6,7 on rank 3.
  const options: PlanOptions = { ranks: 4, experts: 8, align: 4 };

  it('top-1: each rank sends token t to expert t', () => {
    // Every expert gets one row from every rank, 4 rows: full blocks of 4, so each rank holds 8 rows.
    // Row of (rank r, token t) = block of expert t (0 or 4) + r.
    const routing = Array.from({ length: 4 }, () => Array.from({ length: 8 }, (_, token) => [token]));
    const shards = plan(routing, 1, options);
    expect(slots(shards)).toEqual([
      [0, 4, 0, 4, 0, 4, 0, 4],
      [1, 5, 1, 5, 1, 5, 1, 5],
      [2, 6, 2, 6, 2, 6, 2, 6],
      [3, 7, 3, 7, 3, 7, 3, 7],
    ]);
    expect(offsets(shards)).toEqual([
      [0, 4, 8],
      [0, 4, 8],
      [0, 4, 8],
      [0, 4, 8],
    ]);
    expect(counts(shards)).toEqual([
      [4, 4],
      [4, 4],
      [4, 4],
      [4, 4],
    ]);
    expect([...shards[2]!.entryInstance]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it('top-2: token t of rank r goes to experts r + t and r + t + 1', () => {
    // Tokens 0 and 1 of ranks 0..3 choose:
    //   rank 0: (0,1) (1,2)   rank 1: (1,2) (2,3)   rank 2: (2,3) (3,4)   rank 3: (3,4) (4,5)
    // Rows by (source rank, token, k):
    //   expert 0 (rank 0): r0t0                           -> row 0
    //   expert 1 (rank 0): r0t0 r0t1 r1t0                 -> rows 4 5 6
    //   expert 2 (rank 1): r0t1 r1t0 r1t1 r2t0            -> rows 0 1 2 3
    //   expert 3 (rank 1): r1t1 r2t0 r2t1 r3t0            -> rows 4 5 6 7
    //   expert 4 (rank 2): r2t1 r3t0 r3t1                 -> rows 0 1 2
    //   expert 5 (rank 2): r3t1                           -> row 4
    //   experts 6, 7 (rank 3): nothing
    const routing = Array.from({ length: 4 }, (_, r) => [
      [r, r + 1],
      [r + 1, r + 2],
    ]);
    const shards = plan(routing, 2, options);
    expect(slots(shards)).toEqual([
      [0, 4, 5, 0],
      [6, 1, 2, 4],
      [3, 5, 6, 0],
      [7, 1, 2, 4],
    ]);
    expect(counts(shards)).toEqual([
      [1, 3],
      [4, 4],
      [3, 1],
      [0, 0],
    ]);
    // Blocks of 1, 3 and 4 rows all end at the next multiple of 4; empty blocks take no rows.
    expect(offsets(shards)).toEqual([
      [0, 4, 8],
      [0, 4, 8],
      [0, 4, 8],
      [0, 0, 0],
    ]);
    // Rank 1's runs, expert 2 then 3, from source ranks 0..3: base row and length.
    expect([...shards[1]!.runRow]).toEqual([0, 1, 3, 4, 4, 4, 5, 7]);
    expect([...shards[1]!.runRows]).toEqual([1, 2, 1, 0, 0, 1, 2, 1]);
    // Rank 1 sends one row to expert 1, two to expert 2 (tokens 0, 1), one to expert 3.
    expect([...shards[1]!.sendRows]).toEqual([0, 1, 2, 1, 0, 0, 0, 0]);
    // Its stream by expert: expert 1 <- entry 0; expert 2 <- entry 1 (t0 k1), entry 2 (t1 k0); expert 3 <- entry 3.
    expect([...shards[1]!.sendEntry]).toEqual([0, 1, 2, 3]);
    // Entries 1 and 2 are tokens 0 and 1 in rows 1 and 2: one segment. So three in all.
    expect(shards[1]!.segments).toBe(3);
    // Rank 1 starts with itself (stream rows 1..3, experts 2 and 3), then 2 and 3 (nothing), then rank 0 (row 0).
    expect([...shards[1]!.slices]).toEqual([1, 1, 3, 0, 0, 1]);
  });
});

describe('uneven, empty and masked', () => {
  it('orders rows by source rank, token, k whatever the token counts', () => {
    // 3 ranks with 2, 0 and 3 tokens; 3 experts, one a rank, top-2.
    //   rank 0: (1,0) (0,2)          rank 2: (2,1) (-1,1) (-1,-1)
    // expert 0: r0t0k1 r0t1k0 -> 0 1; expert 1: r0t0k0 r2t0k1 r2t1k1 -> 0 1 2; expert 2: r0t1k1 r2t0k0 -> 0 1
    const shards = plan(
      [
        [
          [1, 0],
          [0, 2],
        ],
        [],
        [
          [2, 1],
          [-1, 1],
          [-1, -1],
        ],
      ],
      2,
      { ranks: 3, experts: 3 },
    );
    expect(slots(shards)).toEqual([[0, 0, 1, 0], [], [1, 1, -1, 2, -1, -1]]);
    expect([...shards[2]!.entryInstance]).toEqual([2, 1, 3, 1, 3, 3]);
    expect(counts(shards)).toEqual([[2], [3], [2]]);
    expect(shards.map(({ masked }) => masked)).toEqual([0, 0, 3]);
    expect(shards.map(({ kept }) => kept)).toEqual([4, 0, 3]);
    expect(shards.map(({ tokens }) => tokens)).toEqual([2, 0, 3]);
    // Rank 1 sends nothing: no slices, yet it receives three rows.
    expect([...shards[1]!.slices]).toEqual([]);
    expect(shards[1]!.recvRows).toBe(3);
  });

  it('plans a group without a single token', () => {
    const shards = plan([[], []], 4, { ranks: 2, experts: 6, align: 128 });
    expect(slots(shards)).toEqual([[], []]);
    expect(offsets(shards)).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    expect(shards.map(({ recvRows }) => recvRows)).toEqual([0, 0]);
  });

  it('plans a group in which every entry is masked', () => {
    const shards = plan([[[-1, -1]], [[-1, -1]]], 2, { ranks: 2, experts: 2 });
    expect(slots(shards)).toEqual([
      [-1, -1],
      [-1, -1],
    ]);
    expect(shards.map(({ masked, recvRows }) => [masked, recvRows])).toEqual([
      [2, 0],
      [2, 0],
    ]);
  });
});

describe('capacity', () => {
  it('drops rows beyond it in the order of rows, not of ranks that plan', () => {
    // 2 ranks, 2 experts, top-1, capacity 3. Expert 0 is wanted by r0: t0 t1, r1: t0 t1 t3; expert 1 by r1: t2.
    // Rows of expert 0: r0t0 r0t1 r1t0, then r1t1 and r1t3 are dropped.
    const shards = plan(
      [
        [[0], [0]],
        [[0], [0], [1], [0]],
      ],
      1,
      { ranks: 2, experts: 2, capacity: 3 },
    );
    expect(slots(shards)).toEqual([
      [0, 1],
      [2, -2, 0, -2],
    ]);
    // A dropped entry still names its expert; a masked one would not.
    expect([...shards[1]!.entryInstance]).toEqual([0, 0, 1, 0]);
    expect(shards.map(({ dropped }) => dropped)).toEqual([0, 2]);
    expect(counts(shards)).toEqual([[3], [1]]);
    expect([...shards[0]!.runRows]).toEqual([2, 1]);
    expect([...shards[1]!.sendEntry]).toEqual([0, 2]);
  });

  it('leaves later ranks an empty run at the end of a full block, and pads after dropping', () => {
    // 3 ranks, 1 expert on rank 0, capacity 2, align 4; every rank sends 2 tokens. Only rank 0's rows stay.
    const shards = plan(
      [
        [[0], [0]],
        [[0], [0]],
        [[0], [0]],
      ],
      1,
      {
        ranks: 3,
        experts: 1,
        capacity: 2,
        align: 4,
      },
    );
    expect(slots(shards)).toEqual([
      [0, 1],
      [-2, -2],
      [-2, -2],
    ]);
    expect([...shards[0]!.runRow]).toEqual([0, 2, 2]);
    expect([...shards[0]!.runRows]).toEqual([2, 0, 0]);
    expect([...shards[0]!.expertOffset]).toEqual([0, 4]);
    expect([...shards[0]!.expertRows]).toEqual([2]);
  });
});

describe('placement', () => {
  it('gives rank floor(e * ranks / experts) by default, also with uneven blocks', () => {
    // 7 experts on 3 ranks: e*3/7 = 0 .43 .86 1.29 1.71 2.14 2.57, so 3, 2 and 2 experts.
    const shards = plan([[], [], []], 1, { ranks: 3, experts: 7 });
    expect(shards.map(({ localInstances }) => localInstances)).toEqual([3, 2, 2]);
    expect(shards.map(({ firstInstance }) => firstInstance)).toEqual([0, 3, 5]);
  });

  it('follows an explicit map, experts of a rank in ascending id', () => {
    // Expert -> rank: 0->1, 1->0, 2->1, 3->0. Rank 0 holds experts 1,3 (instances 0,1), rank 1 holds 0,2 (2,3).
    const shards = plan(
      [
        [
          [0, 1],
          [2, 3],
        ],
        [[3, 0]],
      ],
      2,
      { ranks: 2, experts: 4, placement: [1, 0, 1, 0] },
    );
    expect([...shards[0]!.entryInstance]).toEqual([2, 0, 3, 1]);
    expect([...shards[1]!.entryInstance]).toEqual([1, 2]);
    // expert 1: r0t0 -> 0; expert 3: r0t1 -> 1, r1t0 -> 2 on rank 0. expert 0: r0t0 -> 0, r1t0 -> 1; expert 2: 2.
    expect(slots(shards)).toEqual([
      [0, 0, 2, 1],
      [2, 1],
    ]);
    // Rank 0's stream by instance: expert 1 (entry 1), 3 (entry 3), 0 (entry 0), 2 (entry 2).
    expect([...shards[0]!.sendEntry]).toEqual([1, 3, 0, 2]);
  });

  it('works with more ranks than experts, and with a rank that the map leaves empty', () => {
    // 2 experts on 4 ranks: floor(e * 4 / 2) = 0 and 2. Ranks 1 and 3 host nothing.
    const shards = plan([[[1]], [[0]], [[1]], [[0]]], 1, { ranks: 4, experts: 2, align: 2 });
    expect(offsets(shards)).toEqual([[0, 2], [0], [0, 2], [0]]);
    expect(slots(shards)).toEqual([[0], [0], [1], [1]]);
    const mapped = plan([[[0, 1]], [[1, -1]]], 2, { ranks: 2, experts: 2, placement: [1, 1] });
    expect(mapped[0]!.recvRows).toBe(0);
    expect(slots(mapped)).toEqual([
      [0, 1],
      [2, -1],
    ]);
  });
});

describe('slices', () => {
  it('cuts each stream at the slice size and starts every rank on another peer', () => {
    // 3 ranks, 3 experts, every rank sends 3, 1, 2 rows to experts 0, 1, 2; a slice holds 2 rows (2 x 4 bytes).
    const tokens = [[0], [0], [0], [1], [2], [2]];
    const shards = plan([tokens, tokens, tokens], 1, {
      ranks: 3,
      experts: 3,
      hidden: 4,
      dtype: 'fp8',
      sliceBytes: 8,
    });
    // Streams: rows 0-2 to rank 0, row 3 to rank 1, rows 4-5 to rank 2. Second round: rank 0's third row.
    expect([...shards[0]!.slices]).toEqual([0, 0, 2, 1, 3, 1, 2, 4, 2, 0, 2, 1]);
    expect([...shards[1]!.slices]).toEqual([1, 3, 1, 2, 4, 2, 0, 0, 2, 0, 2, 1]);
    expect([...shards[2]!.slices]).toEqual([2, 4, 2, 0, 0, 2, 1, 3, 1, 0, 2, 1]);
  });
});

describe('the obvious planner itself', () => {
  it('agrees with the hand-worked top-2 case', () => {
    const routing = Array.from({ length: 4 }, (_, r) => [
      [r, r + 1],
      [r + 1, r + 2],
    ]);
    const fates = obviousPlan(routing, { ranks: 4, experts: 8, align: 4 }).map((rank) =>
      rank.fates.flat().map((fate) => (fate.kind === 'kept' ? fate.row : fate.kind)),
    );
    expect(fates).toEqual([
      [0, 4, 5, 0],
      [6, 1, 2, 4],
      [3, 5, 6, 0],
      [7, 1, 2, 4],
    ]);
    expect(hostsOf(3, { experts: 7, ranks: 3 })).toEqual([1]);
  });
});
