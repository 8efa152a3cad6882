import type { Shard } from '../../../planner/format/shard.ts';
import type { Plan } from '../../../planner/plan.ts';
import { sumsByNode } from '../../../planner/spec.ts';
import { dataView, laneSum, type RowCodec, rowCodec } from '../../numeric.ts';
import type { CombineCall, WeightGradientCall } from '../types.ts';
import { bytesOf, type Copy, copiesOf } from './rows.ts';

/** Adds the rows of one token's entries, in the order given, onto `sum`. */
type AddRows = (copies: readonly Copy[], sum: Float32Array) => void;

function makeAddRows(shard: Shard, call: CombineCall, codec: RowCodec): AddRows {
  const row = new Float32Array(codec.elements);
  const weights = call.weights === undefined ? undefined : dataView(bytesOf(call.weights[shard.rank]!));
  return (copies, sum) => {
    for (const { rank, slot, entry } of copies) {
      codec.load(bytesOf(call.from[rank]!), slot, row);
      if (weights === undefined) {
        for (let i = 0; i < sum.length; i++) sum[i]! += row[i]!;
        continue;
      }
      const weight = weights.getFloat32(4 * entry, true);
      // Multiply, round, add, round: never one fused operation.
      for (let i = 0; i < sum.length; i++) sum[i]! += Math.fround(weight * row[i]!);
    }
  };
}

/**
 * Adds node by node: each node's partial sum starts from +0 and is rounded to the partial dtype, the local node's too;
 * partials are then added in ascending node order. A node without entries contributes nothing.
 */
function addByNode(
  copies: readonly Copy[],
  sum: Float32Array,
  addRows: AddRows,
  round: (partial: Float32Array) => void,
) {
  const partial = new Float32Array(sum.length);
  const nodes = [...new Set(copies.map((copy) => copy.node))].sort((a, b) => a - b);
  for (const node of nodes) {
    partial.fill(0);
    addRows(
      copies.filter((copy) => copy.node === node),
      partial,
    );
    round(partial);
    for (let i = 0; i < sum.length; i++) sum[i]! += partial[i]!;
  }
}

/** The combined rows of one rank's tokens. */
export function combineRank(plan: Plan, shard: Shard, call: CombineCall): void {
  const codec = rowCodec(call.dtype, call.rowBytes);
  const sum = new Float32Array(codec.elements);
  const to = bytesOf(call.to[shard.rank]!);
  const addRows = makeAddRows(shard, call, codec);
  const scratch = new Uint8Array(call.rowBytes);
  const round = (partial: Float32Array) => {
    if (plan.spec.partial === 'f32') return;
    codec.store(partial, scratch, 0);
    codec.load(scratch, 0, partial);
  };
  const byToken: Copy[][] = Array.from({ length: shard.tokens }, () => []);
  for (const copy of copiesOf(plan, shard)) byToken[copy.token]!.push(copy);
  for (const [token, copies] of byToken.entries()) {
    sum.fill(0);
    if (sumsByNode(plan.spec)) addByNode(copies, sum, addRows, round);
    else addRows(copies, sum);
    codec.store(sum, to, token);
  }
}

/** The dot product of two float32 vectors: each product is rounded, then added as laneSum adds. */
function laneDot(a: Float32Array, b: Float32Array): number {
  return laneSum(a.map((value, i) => value * b[i]!));
}

/** The gradient of a rank's top-k weights; 0 for masked and dropped entries. */
export function weightGradientRank(plan: Plan, shard: Shard, call: WeightGradientCall): void {
  const codec = rowCodec(call.dtype, call.rowBytes);
  const upstream = new Float32Array(codec.elements);
  const row = new Float32Array(codec.elements);
  bytesOf(call.to[shard.rank]!).fill(0, 0, 4 * shard.entries);
  const gradient = rowCodec('f32', 4);
  const result = new Float32Array(1);
  for (const { token, entry, rank, slot } of copiesOf(plan, shard)) {
    codec.load(bytesOf(call.outputGradient[shard.rank]!), token, upstream);
    codec.load(bytesOf(call.from[rank]!), slot, row);
    result[0] = laneDot(upstream, row);
    gradient.store(result, bytesOf(call.to[shard.rank]!), entry);
  }
}
