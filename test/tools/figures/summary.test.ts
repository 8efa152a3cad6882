// The figures of a plan, worked out by hand; `fusco inspect --json` is compared with the obvious plan elsewhere.

import { describe, expect, it } from 'vitest';
import { rowMatrix } from '../../../planner/traffic.ts';
import { maxOverMean, summarize } from '../../../tools/figures/summary.ts';
import { planOf } from '../../support/buffers.ts';

describe('maxOverMean', () => {
  it('is 1 for a balanced load, the number of values where one has it all, 0 for nothing', () => {
    expect(maxOverMean([3, 3, 3])).toBe(1);
    expect(maxOverMean([0, 8, 0, 0])).toBe(4);
    expect(maxOverMean([1, 2, 3])).toBe(1.5);
    expect(maxOverMean([0, 0])).toBe(0);
  });
});

describe('summarize', () => {
  // Four ranks, two a node, one expert each; rows of 8 bytes; blocks of 2 rows; at most 3 rows an expert.
  //   rank 0: (0,1) (0,2)   rank 1: (3,-1)   rank 2: (0,2)   rank 3: (0,-1)
  //   expert 0: r0t0 r0t1 r2t0, r3t0 dropped -> 3 rows + 1; expert 1: r0t0; expert 2: r0t1 r2t0; expert 3: r1t0
  const options = { experts: 4, ranksPerNode: 2, hidden: 4, dtype: 'bf16', align: 2, capacity: 3 } as const;
  const routing = [
    [
      [0, 1],
      [0, 2],
    ],
    [[3, -1]],
    [[0, 2]],
    [[0, -1]],
  ];

  it('counts rows, padding and what was left out', async () => {
    expect(summarize(await planOf(routing, 2, options))).toMatchObject({
      ranks: 4,
      ranksPerNode: 2,
      experts: 4,
      instances: 4,
      topk: 2,
      dtype: 'bf16',
      hidden: 4,
      rowBytes: 8,
      align: 2,
      capacity: 3,
      tokens: [2, 1, 1, 1],
      recvRows: [4, 2, 2, 2],
      expertCounts: [[3], [1], [2], [1]],
      keptRows: [4, 1, 2, 0],
      maskedEntries: 2,
      droppedEntries: 1,
      paddingRows: 3,
      // rank 0: tokens 0, 1 to expert 0; then one run each to experts 1 and 2. rank 1: one. rank 2: two.
      segments: 3 + 1 + 2,
      imbalance: { expertMaxOverMean: 3 / (7 / 4), rankMaxOverMean: 3 / (7 / 4) },
      copiesPerToken: { flat: 7 / 5, sent: 7 / 5 },
    });
  });

  it('splits traffic into what stays on a node and what leaves it', async () => {
    const plan = await planOf(routing, 2, options);
    expect(rowMatrix(plan)).toEqual([
      [2, 1, 1, 0],
      [0, 0, 0, 1],
      [1, 0, 1, 0],
      [0, 0, 0, 0],
    ]);
    expect(summarize(plan).traffic).toEqual({
      intraNodeBytes: [
        [16, 8, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 8, 0],
        [0, 0, 0, 0],
      ],
      interNodeBytes: [
        [0, 0, 8, 0],
        [0, 0, 0, 8],
        [8, 0, 0, 0],
        [0, 0, 0, 0],
      ],
    });
  });

  it('counts the rows of replicas as their own instances', async () => {
    const plan = await planOf([[[0]], [[0]]], 1, { experts: 2, placement: [[0, 1], 1] });
    expect(summarize(plan)).toMatchObject({ instances: 3, expertCounts: [[1], [1, 0]] });
  });
});
