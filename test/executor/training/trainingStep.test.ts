// A whole step of a layer as a training loop runs it: gate, plan, dispatch, experts, combine, and all of it backwards.

import { describe, expect, it } from 'vitest';
import type { BackendName } from '../../../executor/backends/types.ts';
import type { GroupPlanOptions } from '../../../executor/group.ts';
import { createGroup } from '../../../executor/group.ts';
import { findAddon } from '../../../executor/native/addon.ts';
import type { GateOptions } from '../../../executor/training/gating.ts';
import { ExpertLayer } from '../../../executor/training/layer.ts';
import { drawn } from '../../support/rowWork.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];

interface Layout {
  /** Tokens of each rank. */
  tokens: readonly number[];
  hidden: number;
  gate: GateOptions;
  plan?: Omit<GroupPlanOptions, 'experts' | 'hidden' | 'dtype'>;
}

/** What the step starts from, all ranks' one after the other. */
interface Start {
  tokens: Float32Array;
  logits: Float32Array;
  outputGradient: Float32Array;
}

function startOf({ tokens, hidden, gate }: Layout): Start {
  const count = tokens.reduce((sum, each) => sum + each, 0);
  return {
    tokens: drawn(1, count * hidden, 2),
    logits: drawn(2, count * gate.experts, 4),
    outputGradient: drawn(3, count * hidden, 2),
  };
}

/** Cuts rows of all ranks into those of each. */
function cut(values: Float32Array, tokens: readonly number[], width: number): Float32Array[] {
  let at = 0;
  return tokens.map((count) => values.slice(at * width, (at += count) * width));
}

function join(parts: readonly ArrayBufferView[]): Buffer {
  return Buffer.concat(
    parts.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)),
  );
}

/** Runs the step; the expert of a row squares it. Buffers are as long as they must be and dirty. */
async function runStep(backend: BackendName, layout: Layout, start: Start) {
  const { tokens: counts, hidden, gate } = layout;
  const { experts, topk } = gate;
  using group = await createGroup({ ranks: counts.length, backend });
  const dirty = (sizes: readonly number[], width: number) =>
    sizes.map((count) => new Float32Array(count * width).fill(9));
  const logits = cut(start.logits, counts, experts);
  const tokens = cut(start.tokens, counts, hidden);
  const outputGradient = cut(start.outputGradient, counts, hidden);
  const ids = counts.map((count) => new Int32Array(count * topk).fill(9));
  const weights = dirty(counts, topk);
  const scores = dirty(counts, experts);
  await group.gate({ options: gate, tokens: counts, logits, ids, weights, scores });
  const tables = counts.map((count, rank) => ({ ids: ids[rank]!, tokens: count, topk }));
  const plan = await group.planLocal(tables, { ...layout.plan, experts, hidden, dtype: 'f32' });
  const exchange = await group.prepare(plan);
  const layer = new ExpertLayer(exchange, { hidden, dtype: 'f32' });

  const rows = dirty(exchange.recvRows, hidden);
  await layer.dispatch({ tokens, rows });
  const squares = rows.map((values) => values.map((value) => value * value));
  const output = dirty(counts, hidden);
  await layer.combine({ rows: squares, tokens: output, weights });

  const squaresGradient = dirty(exchange.recvRows, hidden);
  const weightsGradient = dirty(counts, topk);
  await layer.combineBackward({
    tokensGradient: outputGradient,
    rowsGradient: squaresGradient,
    weights,
    rows: squares,
    weightsGradient,
  });
  const rowsGradient = squaresGradient.map((values, i) => values.map((value, j) => 2 * rows[i]![j]! * value));
  const tokensGradient = dirty(counts, hidden);
  await layer.dispatchBackward({ rowsGradient, tokensGradient });
  const logitsGradient = dirty(counts, experts);
  await group.gateBackward({ options: gate, tokens: counts, ids, scores, weightsGradient, logitsGradient });
  const joined = {
    ids: join(ids),
    weights: join(weights),
    rows: join(rows),
    output: join(output),
    squaresGradient: join(squaresGradient),
    weightsGradient: join(weightsGradient),
    tokensGradient: join(tokensGradient),
    logitsGradient: join(logitsGradient),
  };
  const floats = (bytes: Buffer) => new Float32Array(new Uint8Array(bytes).buffer);
  /** The loss: what combine returns, times the gradient that the step starts back from. */
  const loss = floats(joined.output).reduce((sum, value, i) => sum + value * start.outputGradient[i]!, 0);
  return { joined, loss, floats };
}

const GATES: [string, GateOptions][] = [
  ['softmax, normalised', { experts: 8, topk: 2, normalize: true }],
  ['sigmoid, groups, scaled', { experts: 8, topk: 3, score: 'sigmoid', groups: 4, groupTopk: 2, scale: 1.5 }],
];

describe.each(BACKENDS)('a step on %s', (backend) => {
  it.each(GATES)('has the gradients of finite differences, of tokens and of logits: %s', async (_, gate) => {
    // One rank has no tokens; experts have room for four rows, so that some are dropped.
    const layout: Layout = { tokens: [2, 0, 1, 3], hidden: 3, gate, plan: { capacity: 4, align: 2 } };
    const start = startOf(layout);
    const { joined, floats } = await runStep(backend, layout, start);
    const step = 1 / 128;
    let steep = 0;
    for (const [name, gradient] of [
      ['tokens', floats(joined.tokensGradient)],
      ['logits', floats(joined.logitsGradient)],
    ] as const) {
      for (let i = 0; i < gradient.length; i++) {
        const losses: number[] = [];
        for (const sign of [1, -1]) {
          const moved = start[name].slice();
          moved[i]! += sign * step;
          const there = await runStep(backend, layout, { ...start, [name]: moved });
          // Where a token goes does not depend on such a step, so the loss is smooth.
          expect(there.joined.ids.equals(joined.ids)).toBe(true);
          losses.push(there.loss);
        }
        const difference = (losses[0]! - losses[1]!) / (2 * step);
        expect(Math.abs(gradient[i]! - difference), `${name}, element ${i}`).toBeLessThan(1e-3);
        if (Math.abs(difference) > 1e-2) steep++;
      }
    }
    expect(steep).toBeGreaterThan(10);
  });
});

describe('a step has the same bits', () => {
  const parts = (run: Awaited<ReturnType<typeof runStep>>) =>
    Object.fromEntries(Object.entries(run.joined).map(([name, bytes]) => [name, bytes.toString('hex')]));

  it.each(GATES)('on every backend, and when it runs again: %s', async (_, gate) => {
    for (const plan of [{}, { strategy: 'hier', ranksPerNode: 2 }, { capacity: 6, align: 4 }] as const) {
      const layout: Layout = { tokens: [5, 9, 0, 7], hidden: 37, gate, plan };
      const start = startOf(layout);
      const wanted = parts(await runStep('reference', layout, start));
      for (const backend of [...BACKENDS, ...BACKENDS]) {
        expect(parts(await runStep(backend, layout, start)), backend).toEqual(wanted);
      }
    }
  });

  it.each(BACKENDS)('on 1, 2 and 4 ranks, one of them without tokens: %s', async (backend) => {
    const [, gate] = GATES[0]!;
    const start = startOf({ tokens: [21], hidden: 37, gate });
    const runs = [];
    for (const tokens of [[21], [14, 7], [5, 9, 0, 7]]) {
      runs.push(parts(await runStep(backend, { tokens, hidden: 37, gate, plan: { capacity: 6 } }, start)));
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).toEqual(runs[0]);
  });
});
