// A layer over GPUs on device memory: forward, backward, fp8 with scales, gating before it. All results have the
// reference's bits.

import assert from 'node:assert/strict';
import type { DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import type { Memory } from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group } from '../../executor/group.ts';
import { dequantizeRows, quantizeRows, scaleBlocks } from '../../executor/training/fp8.ts';
import { ExpertLayer } from '../../executor/training/layer.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import {
  drawInputs,
  type Pass,
  type Place,
  ragged,
  runPass,
  runPassIn,
  SIZE,
  toRows,
} from '../support/layerPass.ts';
import { drawn, wantedGate } from '../support/rowWork.ts';
import { makeRouting, type Workload } from '../support/workloads.ts';
import { assertSame, type Buffers, type GpuCase, openGpu, planOf } from './support.ts';

const RANKS = 4;
const TOPK = 3;

function workload(change: Partial<Workload>): Workload {
  return { family: 'balanced', seed: 3, ranks: RANKS, tokens: 40, topk: TOPK, experts: 8, ...change };
}

const PLANS = [
  ['flat, dropped and aligned', workload({ masked: 0.1 }), { capacity: 50, align: 4 }],
  ['two nodes', workload({ family: 'hotExperts', masked: 0.1 }), { strategy: 'hier', ranksPerNode: 2 }],
  [
    'partial sums in f32',
    workload({ family: 'raggedSources' }),
    { strategy: 'hier', ranksPerNode: 1, partial: 'f32' },
  ],
] as const;

/** Device memory that `buffers` frees. */
function deviceOf(buffers: Buffers): Place {
  return {
    up: (rows) => buffers.up(rows),
    down: (memories) => buffers.down(memories as DeviceBuffer[]),
  };
}

/** Runs `work` with a layer's exchange on a GPU and on the reference, each with buffers of its own. */
async function onBoth<T>(
  plan: VerifiedPlan,
  work: (place: Place, exchange: Exchange, group: Group) => Promise<T>,
): Promise<{ actual: T; expected: T }> {
  using gpu = await openGpu(RANKS);
  const { group, buffers } = gpu;
  using exchange = await group.prepare(plan);
  const actual = await work(deviceOf(buffers), exchange, group);
  using oracle = await createGroup({ ranks: RANKS, backend: 'reference' });
  using plain = await oracle.prepare(plan);
  const here: Place = { up: (rows) => [...rows], down: (memories) => memories as Uint8Array[] };
  return { actual, expected: await work(here, plain, oracle) };
}

const passes: GpuCase[] = PLANS.flatMap(([name, work, options]) =>
  (['f32', 'f16', 'bf16'] as const).map((dtype) => ({
    name: `layer: forward and backward on device memory, ${dtype}, ${name}`,
    async run() {
      const routing = makeRouting(work);
      const plan = await planOf(routing, TOPK, { ...options, experts: work.experts });
      // No vector divides 37 elements; 512 elements take the TMA path.
      for (const hidden of [37, 512]) {
        const inputs = drawInputs(routing, TOPK, hidden, ragged(17));
        const expected = await runPass(plan, 'reference', dtype, hidden, inputs);
        using gpu = await openGpu(RANKS);
        const { group, buffers } = gpu;
        using exchange = await group.prepare(plan);
        const actual = await runPassIn(deviceOf(buffers), exchange, dtype, hidden, inputs);
        for (const part of Object.keys(expected) as (keyof Pass)[]) {
          assertSame(`${part}, hidden ${hidden}`, actual[part], expected[part], SIZE[dtype]);
        }
      }
    },
  })),
);

/** Tokens to fp8, dispatch with scales, rows back to bf16, combine. */
async function fp8Forward(
  place: Place,
  exchange: Exchange,
  group: Group,
  hidden: number,
  x: readonly Uint8Array[],
  weights: readonly Float32Array[],
): Promise<Uint8Array[][]> {
  const layer = new ExpertLayer(exchange, { hidden, dtype: 'bf16', fp8: true });
  const { recvRows, tokens } = exchange;
  const sized = (counts: readonly number[], bytes: number): Memory[] =>
    place.up(counts.map((count) => new Uint8Array(count * bytes).fill(0xaa)));
  const scaleBytes = 4 * scaleBlocks(hidden);
  const codes = sized(tokens, hidden);
  const scales = sized(tokens, scaleBytes);
  const shape = { dtype: 'bf16', hidden } as const;
  await group.quantize({ ...shape, rows: tokens, values: place.up(x), codes, scales });
  const rows = sized(recvRows, hidden);
  const rowScales = sized(recvRows, scaleBytes);
  const origins = sized(recvRows, 12);
  await layer.dispatch({ tokens: codes, rows, scales, rowScales, origins });
  const y = sized(recvRows, layer.rowBytes);
  await group.dequantize({ ...shape, rows: recvRows, values: y, codes: rows, scales: rowScales });
  const out = sized(tokens, layer.rowBytes);
  const weightBytes = weights.map(({ buffer }) => new Uint8Array(buffer as ArrayBuffer));
  await layer.combine({ rows: y, tokens: out, weights: place.up(weightBytes) });
  assert.ok(layer.times.dispatch > 0 && layer.times.combine > 0);
  return [codes, scales, rows, rowScales, origins, y, out].map((list) => place.down(list));
}

const fp8: GpuCase[] = PLANS.map(([name, work, options]) => ({
  name: `layer: fp8 with scales as a second payload, on device memory, ${name}`,
  async run() {
    const routing = makeRouting(work);
    const plan = await planOf(routing, TOPK, { ...options, experts: work.experts });
    for (const hidden of [300, 2048]) {
      const { x, weights } = drawInputs(routing, TOPK, hidden, ragged(29));
      const values = x.map((part) => toRows('bf16', part));
      const { actual, expected } = await onBoth(plan, (place, exchange, group) =>
        fp8Forward(place, exchange, group, hidden, values, weights),
      );
      ['codes', 'scales', 'rows', 'row scales', 'origins', 'y', 'out'].forEach((part, i) => {
        assertSame(`${part}, hidden ${hidden}`, actual[i]!, expected[i]!, 4);
      });
      // The reference's own path is fp8.ts: once more by hand, for one rank.
      const [codes, scales, back] = [expected[0]![0]!, expected[1]![0]!, new Uint8Array(values[0]!.length)];
      const shape = { dtype: 'bf16', rows: plan.shards[0]!.tokens, hidden } as const;
      const again = [new Uint8Array(codes.length), new Uint8Array(scales.length)] as const;
      quantizeRows(shape, values[0]!, ...again);
      dequantizeRows(shape, codes, scales, back);
      assertSame('by hand', [actual[0]![0]!, actual[1]![0]!], [...again], 1);
    }
  },
}));

const gated: GpuCase = {
  name: 'layer: ids of a gate on the device plan a step whose weights never leave the device',
  async run() {
    const experts = 16;
    const hidden = 64;
    const tokens = [9, 0, 14, 5];
    const options = { experts, topk: TOPK, score: 'sigmoid', normalize: true } as const;
    const logits = tokens.map((count, rank) => drawn(60 + rank, count * experts, 6));
    const noGradient = tokens.map((count) => new Float32Array(count * TOPK));
    const wanted = tokens.map((count, i) =>
      wantedGate(options, count, logits[i]!, undefined, noGradient[i]!),
    );
    const x = tokens.map((count, rank) => toRows('bf16', drawn(70 + rank, count * hidden, 2)));
    using gpu = await openGpu(RANKS);
    const { group, buffers } = gpu;
    const ids = buffers.poisoned(tokens.map((count) => 4 * count * TOPK));
    const weights = buffers.poisoned(tokens.map((count) => 4 * count * TOPK));
    const scores = buffers.poisoned(tokens.map((count) => 4 * count * experts));
    await group.gate({ options, tokens, logits: buffers.up(logits), ids, weights, scores });
    const read = buffers.down(ids);
    assertSame(
      'ids',
      read,
      wanted.map((one) => one.ids),
      4 * TOPK,
    );
    const routing = read.map((bytes, i) => ({
      ids: new Int32Array(bytes.buffer),
      tokens: tokens[i]!,
      topk: TOPK,
    }));
    const plan = group.plan(routing, { experts, hidden });
    using exchange = await group.prepare(plan);
    const layer = new ExpertLayer(exchange, { hidden, dtype: 'bf16' });
    const rows = buffers.poisoned(exchange.recvRows.map((count) => count * layer.rowBytes));
    const out = buffers.poisoned(tokens.map((count) => count * layer.rowBytes));
    await layer.dispatch({ tokens: buffers.up(x), rows });
    await layer.combine({ rows, tokens: out, weights });
    using oracle = await createGroup({ ranks: RANKS, backend: 'reference' });
    using plain = await oracle.prepare(plan);
    const expectedRows = exchange.recvRows.map((count) => new Uint8Array(count * layer.rowBytes));
    const expected = tokens.map((count) => new Uint8Array(count * layer.rowBytes));
    const slow = new ExpertLayer(plain, { hidden, dtype: 'bf16' });
    await slow.dispatch({ tokens: x, rows: expectedRows });
    await slow.combine({ rows: expectedRows, tokens: expected, weights: wanted.map((one) => one.weights) });
    assertSame('out', buffers.down(out), expected, layer.rowBytes);
  },
};

export const layerCases: GpuCase[] = [...passes, ...fp8, gated];
