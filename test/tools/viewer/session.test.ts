// What the viewer's worker does, run in Node: files, options, token paths.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { encodePlan, FuscoError, type PlanOptions } from '../../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../../planner/node.ts';
import type { Planner } from '../../../planner/planner.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import { addressOf, readAddress } from '../../../tools/viewer/page/address.ts';
import { tokenDiagram } from '../../../tools/viewer/page/diagram.ts';
import { Session } from '../../../tools/viewer/session.ts';
import { followToken } from '../../../tools/viewer/tokenPath.ts';
import { planOf } from '../../support/buffers.ts';
import { ROOT } from '../../support/cli.ts';
import { SAMPLE_NAMES, samplePlan } from '../../support/samplePlans.ts';

let planner: Planner;
let session: Session;
beforeEach(async () => {
  planner = await loadPlanner();
  session = new Session(planner, nodeSha256);
});

function npy(name: string, shape: number[], ...ids: number[]): { name: string; bytes: Uint8Array } {
  return { name, bytes: Buffer.concat(encodeNpy('i32', shape, Int32Array.from(ids))) };
}

describe('Session.open', () => {
  it('guesses experts from the ids, and takes ranks from the file where it says', async () => {
    const opened = await session.open('a', [npy('x.npy', [2, 2, 2], 0, 1, 5, -1, 2, 3, 4, 0)]);
    expect(opened).toMatchObject({ kind: 'routing', name: 'x.npy', topk: 2, tokens: 4, fileRanks: 2 });
    expect(opened.options).toMatchObject({ experts: 6, ranks: 2, ranksPerNode: 2, strategy: 'flat' });
  });

  it('cuts a table without an axis of ranks into as many blocks as are asked for', async () => {
    const opened = await session.open('a', [npy('x.npy', [5, 1], 0, 1, 2, 3, 0)]);
    expect(opened.fileRanks).toBeUndefined();
    const planned = await session.plan('a', { ...opened.options, ranks: 2, ranksPerNode: 1 });
    expect(planned).toMatchObject({ tokens: [3, 2], isResplit: false });
  });

  it('cuts a file with ranks anew for another number of ranks, and says so', async () => {
    const opened = await session.open('a', [npy('x.npy', [2, 2, 1], 0, 1, 2, 3)]);
    const planned = await session.plan('a', { ...opened.options, ranks: 4, ranksPerNode: 4 });
    expect(planned).toMatchObject({ tokens: [1, 1, 1, 1], isResplit: true });
  });

  it('opens the plan of every sample and makes the same plan again from its options', async () => {
    for (const name of SAMPLE_NAMES) {
      const { bytes, planId } = await encodePlan(samplePlan(planner, name), nodeSha256);
      const opened = await session.open('b', [{ name, bytes }]);
      expect(opened).toMatchObject({ kind: 'plan', planId });
      expect((await session.plan('b', opened.options)).planId).toBe(planId);
      expect(Buffer.compare(await session.save('b'), bytes)).toBe(0);
    }
  });

  it('packs experts by their rows, with replicas if requested', async () => {
    // Experts 0 and 1 have three rows each, 2 and 3 one; blocks put the first two on rank 0.
    const { options } = await session.open('a', [npy('x.npy', [2, 4, 1], 0, 0, 0, 1, 1, 1, 2, 3)]);
    const figures = async (changed: Partial<typeof options>) =>
      (await session.plan('a', { ...options, ...changed })).figures;
    expect(options).toMatchObject({ placement: 'blocks', extra: 0, replicas: 'quota-1' });
    expect((await figures({})).ranks.rows).toEqual([6, 2]);
    expect((await figures({ placement: 'packed' })).ranks.rows).toEqual([4, 4]);
    const replicated = await figures({ placement: 'packed', extra: 1 });
    expect(replicated.summary).toMatchObject({ instances: 5, replicas: 'quota-1' });
    const local = await figures({ placement: 'packed', extra: 1, replicas: 'local' });
    expect(local.summary).toMatchObject({ instances: 5, replicas: 'local' });
    await expect(session.plan('a', { ...options, placement: 'packed', extra: -1 })).rejects.toMatchObject({
      code: 'E_OPTION',
    });
  });

  it('refuses a plan that was changed', async () => {
    const { bytes } = await encodePlan(samplePlan(planner, 'plain'), nodeSha256);
    bytes[bytes.length - 50]! ^= 1;
    await expect(session.open('a', [{ name: 'x.fusco', bytes }])).rejects.toMatchObject({
      code: 'E_PLAN_DIGEST',
    });
  });

  it('has nothing to follow or to save before a plan, nor after one that failed', async () => {
    await expect(session.token('a', 0, 0)).rejects.toThrow(FuscoError);
    const opened = await session.open('a', [npy('x.npy', [1, 2, 1], 0, 1)]);
    await session.plan('a', opened.options);
    expect((await session.token('a', 0, 1)).token).toBe(1);
    await expect(session.plan('a', { ...opened.options, experts: 1 })).rejects.toMatchObject({
      code: 'E_ROUTING_ID',
    });
    await expect(session.save('a')).rejects.toMatchObject({ code: 'E_USAGE' });
  });

  it('plans the two sides independently', async () => {
    const real = readFileSync(join(ROOT, 'tools/demo/moe256-ep8x512-mixed-l3.idx.npy'));
    const files = [{ name: 'real.npy', bytes: new Uint8Array(real) }];
    const { options } = await session.open('a', files);
    await session.open('b', files);
    const flat = await session.plan('a', options);
    const hier = await session.plan('b', { ...options, strategy: 'hier', ranksPerNode: 2 });
    expect(hier.planId).not.toBe(flat.planId);
    expect((await session.token('a', 1, 2)).forwards).toEqual([]);
    expect((await session.token('b', 1, 2)).forwards.length).toBeGreaterThan(0);
  });
});

describe('followToken', () => {
  // Four ranks, two a node, one expert each; capacity 1 drops the second row of expert 3.
  const routing = [
    [
      [2, 3, 0],
      [3, -1, 1],
    ],
    [],
    [],
    [],
  ];
  const options: Omit<PlanOptions, 'ranks'> = {
    experts: 4,
    ranksPerNode: 2,
    capacity: 1,
    strategy: 'hier',
    balance: 'static',
  };

  it('finds the forwarder, the slots, and what was masked or dropped', async () => {
    const plan = await planOf(routing, 3, options);
    // Rank 0's forwarder on node 1 has the same local index: rank 2, which hosts expert 2.
    expect(followToken(plan, 0, 0)).toMatchObject({
      node: 0,
      addsByNode: true,
      partial: 'bf16',
      forwards: [{ node: 1, rank: 2, lands: 'slot', row: 0, ks: [0, 1] }],
      entries: [
        { k: 0, state: 'delivered', expert: 2, rank: 2, node: 1, slot: 0, forward: 0 },
        { k: 1, state: 'delivered', expert: 3, rank: 3, node: 1, slot: 0, forward: 0 },
        { k: 2, state: 'delivered', expert: 0, rank: 0, node: 0, slot: 0 },
      ],
    });
    const second = followToken(plan, 0, 1);
    expect(second.forwards).toEqual([]);
    expect(second.entries).toEqual([
      { k: 0, state: 'dropped', expert: 3, rank: 3, node: 1 },
      { k: 1, state: 'masked' },
      { k: 2, state: 'delivered', expert: 1, rank: 1, node: 0, slot: 0 },
    ]);
  });

  it('returns single rows where the plan adds by token', async () => {
    const path = followToken(await planOf(routing, 3, { ...options, sum: 'token' }), 0, 0);
    expect(path.addsByNode).toBe(false);
    expect(path.forwards).toHaveLength(1);
    const drawing = tokenDiagram(path).text;
    expect(drawing).toContain('straight to its rank');
    expect(drawing).not.toContain('partial sum');
    const byNode = tokenDiagram(followToken(await planOf(routing, 3, options), 0, 0)).text;
    expect(byNode).toContain('into the sum on rank 2');
    expect(byNode).toContain('partial sum');
  });

  it('finds the staging row of a forwarder that hosts none of the experts', async () => {
    const plan = await planOf([[[3]], [], [], []], 1, { ...options, capacity: 0 });
    expect(followToken(plan, 0, 0).forwards).toEqual([
      { node: 1, rank: 2, lands: 'staging', row: 0, ks: [0] },
    ]);
  });

  it('knows no way through a flat plan but the direct one', async () => {
    const plan = await planOf(routing, 3, { ...options, strategy: 'flat' });
    expect(followToken(plan, 0, 0).forwards).toEqual([]);
    expect(followToken(plan, 0, 0).entries.map(({ slot }) => slot)).toEqual([0, 0, 0]);
  });

  it('refuses ranks and tokens that the plan does not have', async () => {
    const plan = await planOf(routing, 3, options);
    for (const [rank, token] of [
      [4, 0],
      [0, 2],
      [1, 0],
      [0, -1],
      [0, 0.5],
      [-1, 0],
    ] as const) {
      expect(() => followToken(plan, rank, token)).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
    }
  });
});

describe('what the page asks after planning', () => {
  // Rank 0: two tokens with experts on both ranks; rank 1: one token.
  const file = () => npy('x.npy', [2, 2, 2], 0, 2, 1, 3, 2, 3, -1, -1);

  it('strategies: every way to exchange, on the machine that the options name', async () => {
    const { options } = await session.open('a', [file()]);
    await session.plan('a', { ...options, ranks: 2, ranksPerNode: 2 });
    const found = await session.strategies('a');
    expect(found.machine).toBe('h100-nvl8');
    expect(found.rows.map(({ name, isOwn }) => [name, isOwn])).toEqual([
      ['unfused', false],
      ['flat fused', true],
      ['once per rank', false],
    ]);
    expect(found.rows.filter(({ isBest }) => isBest)).toHaveLength(1);
    await session.plan('a', { ...options, topology: 'gb200-nvl72' });
    expect(await session.strategies('a')).toMatchObject({ machine: 'gb200-nvl72', memoryGB: 186 });
    await expect(session.plan('a', { ...options, topology: 'h300' })).rejects.toMatchObject({
      code: 'E_OPTION',
    });
    await expect(session.strategies('a')).rejects.toMatchObject({ code: 'E_USAGE' });
  });

  it('difference: a sentence, the causes, and the figures that changed', async () => {
    const a = await session.open('a', [file()]);
    await session.plan('a', a.options);
    const b = await session.open('b', [npy('y.npy', [2, 2, 2], 0, 2, 1, 0, 2, 3, -1, -1)]);
    await session.plan('b', { ...b.options, experts: a.options.experts });
    const found = await session.difference();
    expect(found.headline).toMatch(/^1 choice changed \(rank 0 token 1: expert 3 -> 0\); /);
    expect(found.causes).toContain(
      'rank 0 token 1 k 1: expert 3 on rank 1, row 2 -> expert 0 on rank 0, row 1 (id)',
    );
    const figures = found.figures.map(([what]) => what);
    expect(figures).toContain('real rows of the busiest rank divided by the mean');
  });

  it('detail: where the rows of an expert come from, and what a pair of ranks exchanges', async () => {
    const { options } = await session.open('a', [file()]);
    await session.plan('a', options);
    // Four experts on two ranks: instance 2 is expert 2 on rank 1, chosen by token 0 of both ranks.
    expect(await session.detail('a', { expert: 2 })).toEqual({
      title: 'Expert 2 on rank 1: where its rows come from',
      lines: ['rank 0: 1 row', 'rank 1: 1 row', 'first tokens (rank:token): 0:0, 1:0'],
    });
    expect(await session.detail('a', { rank: 1 })).toEqual({
      title: 'Rank 1: which experts its rows are for, and where they come from',
      lines: [...['expert 2: 2 rows', 'expert 3: 2 rows'], ...['from rank 0: 2 rows', 'from rank 1: 2 rows']],
    });
    expect(await session.detail('a', { from: 0, to: 1 })).toEqual({
      title: 'Tokens of rank 0 whose experts are on rank 1',
      lines: ['expert 2: 1 row', 'expert 3: 1 row', '2 tokens; first: 0, 1'],
    });
  });
});

describe('the address of the page', () => {
  it('gives back what was put into it', () => {
    const all = {
      isExample: true,
      isCompared: true,
      options: { a: { strategy: 'hier', ranks: 8 }, b: { placement: [[0, 1], 1] } },
    } as const;
    expect(readAddress(addressOf(all))).toEqual(all);
  });

  it('ignores what it cannot read', () => {
    for (const hash of ['', '#', '#a={', '#a=[1]&b=7', '#zzz']) {
      expect(readAddress(hash)).toEqual({ isExample: false, isCompared: false, options: {} });
    }
  });
});
