import { describe, expect, it } from 'vitest';
import { diffPlans } from '../../../tools/diff/diffPlans.ts';
import { causeLines, consequenceLines } from '../../../tools/diff/render.ts';
import { planOf } from '../../support/buffers.ts';
import { makeRouting } from '../../support/workloads.ts';

const ROUTING = makeRouting({ family: 'balanced', seed: 8, ranks: 4, tokens: 6, topk: 2, experts: 8 });
const base = () => planOf(ROUTING, 2, { experts: 8 });

describe('levels', () => {
  it('identical: the same plan, planned twice', async () => {
    const diff = diffPlans(await base(), await base());
    expect(diff).toMatchObject({
      level: 'identical',
      changed: false,
      options: [],
      movedEntries: 0,
      moves: [],
      metadata: [],
    });
  });

  it('movement: other nodes, the same slots', async () => {
    const diff = diffPlans(await base(), await planOf(ROUTING, 2, { experts: 8, ranksPerNode: 1 }));
    expect(diff).toMatchObject({ level: 'movement', changed: true, movedEntries: 0 });
    expect(diff.options).toEqual([{ option: 'ranksPerNode', from: 4, to: 1 }]);
  });

  it('order: other slices, the same slots', async () => {
    const diff = diffPlans(await base(), await planOf(ROUTING, 2, { experts: 8, sliceBytes: 14336 }));
    expect(diff).toMatchObject({ level: 'order', changed: true, movedEntries: 0 });
    expect(diff.options.map(({ option }) => option)).toEqual(['sliceRows']);
  });

  it.each([
    ['align', { align: 16 }],
    ['capacity', { capacity: 100 }],
    ['dtype', { dtype: 'f32' }],
    ['placement', { placement: [3, 2, 1, 0, 3, 2, 1, 0] }],
  ] as const)('result: another %s', async (option, change) => {
    const diff = diffPlans(await base(), await planOf(ROUTING, 2, { experts: 8, ...change }));
    expect(diff).toMatchObject({ level: 'result', changed: true });
    expect(diff.options.map((delta) => delta.option)).toContain(option);
  });
});

describe('deltas', () => {
  it('sort by the size of the change, and read alike in both directions', async () => {
    const from = await planOf([[[0], [0], [0], [1]], [[2]]], 1, { experts: 4 });
    const to = await planOf([[[2], [3], [3], [1]], []], 1, { experts: 4 });
    const diff = diffPlans(from, to);
    expect(diff.experts).toEqual([
      { index: 0, from: 3, to: 0 },
      { index: 3, from: 0, to: 2 },
    ]);
    expect(diff.ranks).toEqual({
      tokens: [{ index: 1, from: 1, to: 0 }],
      recvRows: [
        { index: 0, from: 4, to: 1 },
        { index: 1, from: 1, to: 3 },
      ],
      keptRows: [{ index: 1, from: 1, to: 0 }],
      nicBytes: [],
    });
    // Rank 0: tokens 0, 1, 2 go elsewhere, token 3 moves up; rank 1's token is gone.
    expect(diff.movedEntries).toBe(5);
    expect(diff.moves).toEqual([
      {
        rank: 0,
        token: 0,
        k: 0,
        from: 'expert 0 on rank 0, row 0',
        to: 'expert 2 on rank 1, row 0',
        why: 'id',
      },
      {
        rank: 0,
        token: 1,
        k: 0,
        from: 'expert 0 on rank 0, row 1',
        to: 'expert 3 on rank 1, row 1',
        why: 'id',
      },
      {
        rank: 0,
        token: 2,
        k: 0,
        from: 'expert 0 on rank 0, row 2',
        to: 'expert 3 on rank 1, row 2',
        why: 'id',
      },
      { rank: 1, token: 0, k: 0, from: 'expert 2 on rank 1, row 0', to: 'absent', why: 'absent' },
      // It only moved because the others did, so it comes last.
      {
        rank: 0,
        token: 3,
        k: 0,
        from: 'expert 1 on rank 0, row 3',
        to: 'expert 1 on rank 0, row 0',
        why: 'shift',
      },
    ]);
    expect(consequenceLines(diff)).toContain('rows of expert 0: 3 -> 0 (-3)');
    expect(causeLines(diff)).toContain('5 entries moved: 3 id, 1 absent, 1 shift');
    const back = diffPlans(to, from);
    expect(back.movedEntries).toBe(5);
    expect(back.experts[0]).toEqual({ index: 0, from: 0, to: 3 });
  });

  it('tell masked from dropped', async () => {
    const options = { experts: 1, capacity: 1 };
    const full = await planOf([[[0], [0]]], 1, options);
    const masked = await planOf([[[0], [-1]]], 1, options);
    expect(diffPlans(full, masked).moves).toEqual([
      { rank: 0, token: 1, k: 0, from: 'expert 0 on rank 0, dropped', to: 'masked', why: 'id' },
    ]);
  });

  it('names at most ten moves but counts all', async () => {
    const all = (expert: number) => planOf([Array.from({ length: 25 }, () => [expert])], 1, { experts: 2 });
    const diff = diffPlans(await all(0), await all(1));
    expect([diff.movedEntries, diff.moves.length]).toEqual([25, 10]);
  });

  it('compare plans of other sizes', async () => {
    const small = await planOf([[[0], [1]]], 1, { experts: 2 });
    const large = await planOf([[[0, 1]], [[1, 0]]], 2, { experts: 2 });
    const diff = diffPlans(small, large);
    // Token 0's first expert stays where it is; its second is new, as is rank 1; token 1 is gone.
    expect(diff).toMatchObject({ level: 'result', movedEntries: 4 });
    expect(diff.moves.slice(0, 2)).toEqual([
      { rank: 0, token: 0, k: 1, from: 'absent', to: 'expert 1 on rank 1, row 0', why: 'absent' },
      { rank: 0, token: 1, k: 0, from: 'expert 1 on rank 0, row 1', to: 'absent', why: 'absent' },
    ]);
    expect(diff.options).toEqual(
      expect.arrayContaining([
        { option: 'ranks', from: 1, to: 2 },
        { option: 'topk', from: 1, to: 2 },
      ]),
    );
  });
});
