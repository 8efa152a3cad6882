// Why an entry moved, one cause at a time, and what each level promises.

import { describe, expect, it } from 'vitest';
import { decodePlan } from '../../../planner/format/decode.ts';
import { encodePlan } from '../../../planner/format/encode.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import { diffFiles, diffPlans } from '../../../tools/diff/diffPlans.ts';
import { planOf } from '../../support/buffers.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting } from '../../support/workloads.ts';

const NONE = { id: 0, placement: 0, capacity: 0, alignment: 0, absent: 0, shift: 0 };

interface Side {
  routing?: PlainRouting;
  options?: Partial<PlanOptions>;
}

async function causesOf(routing: PlainRouting, experts: number, from: Side, to: Side) {
  const topk = routing[0]![0]!.length;
  const make = (side: Side) => planOf(side.routing ?? routing, topk, { experts, ...side.options });
  return diffPlans(await make(from), await make(to)).causes;
}

describe('causes', () => {
  it('id: another expert; the rows behind it only shift', async () => {
    const causes = await causesOf([[[0], [0], [0]]], 2, {}, { routing: [[[1], [0], [0]]] });
    expect(causes).toEqual({ ...NONE, id: 1, shift: 2 });
  });

  it('placement: the same expert on another rank', async () => {
    const causes = await causesOf([[[0], [1]], [[0]]], 2, {}, { options: { placement: [1, 0] } });
    expect(causes).toEqual({ ...NONE, placement: 3 });
  });

  it('capacity: a row that is dropped now', async () => {
    const causes = await causesOf([[[0], [0]]], 1, {}, { options: { capacity: 1 } });
    expect(causes).toEqual({ ...NONE, capacity: 1 });
  });

  it('alignment: the same place in a block that starts elsewhere', async () => {
    const causes = await causesOf([[[0], [1], [1]]], 2, {}, { options: { align: 4 } });
    // Expert 0's block starts at 0 with and without alignment.
    expect(causes).toEqual({ ...NONE, alignment: 2 });
  });

  it('absent: a token that only one plan has', async () => {
    const causes = await causesOf([[[0]], [[1]]], 2, {}, { routing: [[[0]], [[1], [1]]] });
    expect(causes).toEqual({ ...NONE, absent: 1 });
  });
});

describe('levels of hierarchical plans', () => {
  const routing = makeRouting({ family: 'balanced', seed: 2, ranks: 4, tokens: 30, topk: 3, experts: 8 });
  const plan = (options: Partial<PlanOptions>) =>
    planOf(routing, 3, { experts: 8, ranksPerNode: 2, ...options });

  it('movement: flat and hierarchical plans fill the same receive buffers', async () => {
    const diff = diffPlans(await plan({}), await plan({ strategy: 'hier' }));
    expect(diff).toMatchObject({ level: 'movement', movedEntries: 0 });
    const busiest = diff.metrics.find(({ name }) => name === 'busiestNicBytes')!;
    expect(busiest.to).toBeLessThan(busiest.from);
    // Fewer bytes between nodes, on links that are named with the largest change first.
    expect(diff.links.length).toBeGreaterThan(0);
    const sizes = diff.links.map(({ from, to }) => Math.abs(to - from));
    expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
  });

  it('movement: another order of sums', async () => {
    const [from, to] = [await plan({ strategy: 'hier' }), await plan({ strategy: 'hier', sum: 'token' })];
    const diff = diffPlans(from, to);
    expect(diff).toMatchObject({ level: 'movement', movedEntries: 0, links: [] });
    expect(diff.options).toEqual([{ option: 'sum', from: 'node', to: 'token' }]);
  });

  it('movement: another balancer forwards through other ranks', async () => {
    const [from, to] = [
      await plan({ strategy: 'hier', balance: 'static' }),
      await plan({ strategy: 'hier', balance: 'rotate' }),
    ];
    expect(diffPlans(from, to)).toMatchObject({ level: 'movement', movedEntries: 0 });
  });

  it('metadata: a file of another minor version, by another producer, is the same plan', async () => {
    const made = await plan({ strategy: 'hier' });
    const file = await decodePlan((await encodePlan(made, nodeSha256)).bytes, nodeSha256);
    const later = { ...file, version: [1, 1] as const, producer: 'fusco 9.9.9' };
    expect(diffFiles(file, later)).toMatchObject({
      level: 'metadata',
      changed: true,
      movedEntries: 0,
      metadata: ['format: 1.0 -> 1.1', 'producer: fusco 0.1.0 -> fusco 9.9.9'],
    });
    expect(diffFiles(file, file)).toMatchObject({ level: 'identical', changed: false, metadata: [] });
  });
});
