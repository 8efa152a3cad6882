// One forward and backward pass of a layer whose experts square their rows, with every buffer poisoned beforehand.

import type { BackendName, Memory } from '../../executor/backends/types.ts';
import type { Exchange } from '../../executor/group.ts';
import { type FloatDtype, rowCodec } from '../../executor/numeric.ts';
import { ExpertLayer } from '../../executor/training/layer.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { poisoned, prepare } from './buffers.ts';
import type { PlainRouting } from './obviousPlan.ts';
import { randomFrom } from './workloads.ts';

export const SIZE: Record<FloatDtype, number> = { f32: 4, f16: 2, bf16: 2 };

/** Rounds float32 values to rows of a dtype. */
export function toRows(dtype: FloatDtype, values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length * SIZE[dtype]);
  rowCodec(dtype, bytes.length).store(values, bytes, 0);
  return bytes;
}

export function fromRows(dtype: FloatDtype, bytes: Uint8Array): Float32Array {
  const values = new Float32Array(bytes.length / SIZE[dtype]);
  rowCodec(dtype, bytes.length).load(bytes, 0, values);
  return values;
}

/** A layer's inputs, per rank: tokens, top-k weights and the gradient of what combine returns. */
export interface Inputs {
  x: Float32Array[];
  weights: Float32Array[];
  outGradient: Float32Array[];
}

/** Values drawn by `draw`, for every element. */
export function drawInputs(routing: PlainRouting, topk: number, hidden: number, draw: () => number): Inputs {
  const fill = (size: number) => Float32Array.from({ length: size }, draw);
  return {
    x: routing.map((tokens) => fill(tokens.length * hidden)),
    weights: routing.map((tokens) => fill(tokens.length * topk)),
    outGradient: routing.map((tokens) => fill(tokens.length * hidden)),
  };
}

/** Normal floats with full fractions, so that every rounding shows. */
export function ragged(seed: number): () => number {
  const random = randomFrom(seed);
  return () => (random() - 0.5) * 2 ** Math.floor(6 * random());
}

/** Multiples of 1/4 from -1 to 1: sums and products of a few are exact in float32. */
export function quarters(seed: number): () => number {
  const random = randomFrom(seed);
  return () => (Math.floor(random() * 9) - 4) / 4;
}

export interface Pass {
  rows: Uint8Array[];
  rowWeights: Uint8Array[];
  out: Uint8Array[];
  rowsGradient: Uint8Array[];
  weightsGradient: Uint8Array[];
  xGradient: Uint8Array[];
}

/** Where the buffers of a pass lie. */
export interface Place {
  /** Memory with these bytes, one for each rank. */
  up(buffers: readonly Uint8Array[]): Memory[];
  down(memories: readonly Memory[]): Uint8Array[];
}

const HERE: Place = { up: (buffers) => [...buffers], down: (memories) => memories as Uint8Array[] };

/** A pass with buffers of JavaScript. */
export async function runPass(
  plan: VerifiedPlan,
  backend: BackendName,
  dtype: FloatDtype,
  hidden: number,
  inputs: Inputs,
): Promise<Pass> {
  return runPassIn(HERE, await prepare(plan, backend), dtype, hidden, inputs);
}

/** The whole pass. Experts compute y = row^2 and its gradient 2 row dy, rounded to the dtype. */
export async function runPassIn(
  place: Place,
  exchange: Exchange,
  dtype: FloatDtype,
  hidden: number,
  inputs: Inputs,
): Promise<Pass> {
  const layer = new ExpertLayer(exchange, { hidden, dtype });
  const { recvRows, tokens } = exchange;
  const entries = exchange.plan.shards.map((shard) => shard.entries);
  const sized = (counts: readonly number[], bytes: number) =>
    place.up(poisoned(counts.map((count) => count * bytes)));
  const upRows = (parts: readonly Float32Array[]) => place.up(parts.map((values) => toRows(dtype, values)));
  const rows = sized(recvRows, layer.rowBytes);
  const rowWeights = sized(recvRows, 4);
  const weights = place.up(inputs.weights.map(({ buffer }) => new Uint8Array(buffer)));
  await layer.dispatch({ tokens: upRows(inputs.x), rows, weights, rowWeights });
  const received = place.down(rows).map((bytes) => fromRows(dtype, bytes));
  const y = upRows(received.map((row) => row.map((value) => value * value)));
  const out = sized(tokens, layer.rowBytes);
  await layer.combine({ rows: y, tokens: out, weights });
  const rowsGradient = sized(recvRows, layer.rowBytes);
  const weightsGradient = sized(entries, 4);
  const tokensGradient = upRows(inputs.outGradient);
  await layer.combineBackward({ tokensGradient, rowsGradient, weights, rows: y, weightsGradient });
  const inputGradient = upRows(
    place.down(rowsGradient).map((bytes, i) => {
      const row = received[i]!;
      return fromRows(dtype, bytes).map((value, j) => 2 * row[j]! * value);
    }),
  );
  const xGradient = sized(tokens, layer.rowBytes);
  await layer.dispatchBackward({ rowsGradient: inputGradient, tokensGradient: xGradient });
  return {
    rows: place.down(rows),
    rowWeights: place.down(rowWeights),
    out: place.down(out),
    rowsGradient: place.down(rowsGradient),
    weightsGradient: place.down(weightsGradient),
    xGradient: place.down(xGradient),
  };
}
