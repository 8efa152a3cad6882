// The reference backend: DESIGN's semantics in the plainest TypeScript, and the oracle of every other backend.

import { FuscoError } from '../planner/errors.ts';
import type { Plan, VerifiedPlan } from '../planner/plan.ts';
import type { Shard } from '../planner/shard.ts';
import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  Memory,
  Payload,
  PreparedPlan,
  WeightGradientCall,
} from './backend.ts';
import { isExternal } from './calls.ts';
import { rowCodec } from './numeric.ts';

/** Lanes of the weight gradient's dot product. */
const LANES = 32;

function bytesOf(memory: Memory): Uint8Array {
  if (!isExternal(memory)) return new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength);
  throw new FuscoError('E_BUFFER', 'the reference backend cannot reach memory by its address');
}

/** Throws E_BUFFER before anything is written where a buffer is only an address. */
function refuseExternal(lists: readonly (readonly Memory[] | undefined)[]): void {
  for (const memories of lists) memories?.forEach(bytesOf);
}

function dataView(memory: Memory): DataView {
  const bytes = bytesOf(memory);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** One kept (token, k) of a source rank. */
interface Copy {
  readonly source: number;
  readonly token: number;
  readonly k: number;
  readonly entry: number;
  /** Destination rank and row. */
  readonly rank: number;
  readonly slot: number;
}

/** The kept entries of a rank, in the order (token, k). */
function* copiesOf(plan: Plan, shard: Shard): Generator<Copy> {
  const { entrySlot, entryInstance, tokens, topk, rank: source } = shard;
  const { instanceRank } = plan.spec.placement;
  for (let token = 0; token < tokens; token++) {
    for (let k = 0; k < topk; k++) {
      const entry = token * topk + k;
      const slot = entrySlot[entry]!;
      if (slot >= 0) yield { source, token, k, entry, rank: instanceRank[entryInstance[entry]!]!, slot };
    }
  }
}

function dispatchPayload(plan: Plan, payload: Payload, scale: readonly Memory[] | undefined): void {
  const { rowBytes, from, to, per } = payload;
  for (const shard of plan.shards) bytesOf(to[shard.rank]!).fill(0, 0, shard.recvRows * rowBytes);
  for (const shard of plan.shards) {
    const source = bytesOf(from[shard.rank]!);
    for (const { token, entry, rank, slot } of copiesOf(plan, shard)) {
      const row = per === 'entry' ? entry : token;
      bytesOf(to[rank]!).set(source.subarray(row * rowBytes, (row + 1) * rowBytes), slot * rowBytes);
    }
    if (scale !== undefined && per !== 'entry')
      scaleCopies(plan, shard, payload, dataView(scale[shard.rank]!));
  }
}

/** Multiplies the copies of a rank's rows in place, each by its entry's weight. */
function scaleCopies(plan: Plan, shard: Shard, { rowBytes, dtype, to }: Payload, weights: DataView): void {
  const codec = rowCodec(dtype ?? 'bytes', rowBytes);
  const values = new Float32Array(codec.elements);
  for (const { entry, rank, slot } of copiesOf(plan, shard)) {
    const weight = weights.getFloat32(4 * entry, true);
    codec.load(bytesOf(to[rank]!), slot, values);
    for (let i = 0; i < values.length; i++) values[i]! *= weight;
    codec.store(values, bytesOf(to[rank]!), slot);
  }
}

function writeOrigins(plan: Plan, origins: readonly Memory[]): void {
  for (const shard of plan.shards) bytesOf(origins[shard.rank]!).fill(0xff, 0, 12 * shard.recvRows);
  for (const shard of plan.shards) {
    for (const { source, token, k, rank, slot } of copiesOf(plan, shard)) {
      const view = dataView(origins[rank]!);
      view.setInt32(12 * slot, source, true);
      view.setInt32(12 * slot + 4, token, true);
      view.setInt32(12 * slot + 8, k, true);
    }
  }
}

function combineRank(plan: Plan, shard: Shard, call: CombineCall): void {
  const codec = rowCodec(call.dtype, call.rowBytes);
  const sum = new Float32Array(codec.elements);
  const row = new Float32Array(codec.elements);
  const to = bytesOf(call.to[shard.rank]!);
  const weights = call.weights === undefined ? undefined : dataView(call.weights[shard.rank]!);
  const finish = (token: number) => {
    codec.store(sum, to, token);
    sum.fill(0);
  };
  let open = 0;
  for (const { token, entry, rank, slot } of copiesOf(plan, shard)) {
    while (open < token) finish(open++);
    codec.load(bytesOf(call.from[rank]!), slot, row);
    if (weights === undefined) {
      for (let i = 0; i < sum.length; i++) sum[i]! += row[i]!;
    } else {
      const weight = weights.getFloat32(4 * entry, true);
      // Multiply, round, add, round: never one fused operation.
      for (let i = 0; i < sum.length; i++) sum[i]! += Math.fround(weight * row[i]!);
    }
  }
  while (open < shard.tokens) finish(open++);
}

/** Lane j adds elements j, j + 32, …; then lanes are added at distance 16, 8, 4, 2, 1. */
export function laneDot(a: Float32Array, b: Float32Array): number {
  const lanes = new Float32Array(LANES);
  for (let i = 0; i < a.length; i++) lanes[i % LANES]! += Math.fround(a[i]! * b[i]!);
  for (let distance = LANES / 2; distance >= 1; distance /= 2) {
    for (let lane = 0; lane < distance; lane++) lanes[lane]! += lanes[lane + distance]!;
  }
  return lanes[0]!;
}

function weightGradientRank(plan: Plan, shard: Shard, call: WeightGradientCall): void {
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

/** Bytes of an exchange: each source row read once, each slot written once. */
export function movedBytes(plan: Plan, rowBytes: number): { rows: number; slots: number } {
  let rows = 0;
  let slots = 0;
  for (const shard of plan.shards) {
    rows += shard.tokens * rowBytes;
    slots += shard.kept * rowBytes;
  }
  return { rows, slots };
}

class ReferencePlan implements PreparedPlan {
  readonly #plan: VerifiedPlan;

  constructor(plan: VerifiedPlan) {
    this.#plan = plan;
  }

  async #timed(
    buffers: readonly (readonly Memory[] | undefined)[],
    bytesRead: number,
    bytesWritten: number,
    work: () => void,
  ): Promise<ExchangeReport> {
    refuseExternal(buffers);
    const start = performance.now();
    work();
    return {
      backend: 'reference',
      strategy: this.#plan.spec.strategy,
      nanoseconds: Math.round((performance.now() - start) * 1e6),
      bytesRead,
      bytesWritten,
    };
  }

  dispatch(call: DispatchCall): Promise<ExchangeReport> {
    const rowBytes = call.payloads.reduce((sum, payload) => sum + payload.rowBytes, 0);
    const { rows, slots } = movedBytes(this.#plan, rowBytes);
    const buffers = [...call.payloads.flatMap(({ from, to }) => [from, to]), call.origins, call.scale];
    return this.#timed(buffers, rows, slots, () => {
      for (const payload of call.payloads) dispatchPayload(this.#plan, payload, call.scale);
      if (call.origins !== undefined) writeOrigins(this.#plan, call.origins);
    });
  }

  combine(call: CombineCall): Promise<ExchangeReport> {
    const { rows, slots } = movedBytes(this.#plan, call.rowBytes);
    return this.#timed([call.from, call.to, call.weights], slots, rows, () => {
      for (const shard of this.#plan.shards) combineRank(this.#plan, shard, call);
    });
  }

  weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    const { rows, slots } = movedBytes(this.#plan, call.rowBytes);
    const written = this.#plan.shards.reduce((sum, shard) => sum + 4 * shard.entries, 0);
    return this.#timed([call.outputGradient, call.from, call.to], rows + slots, written, () => {
      for (const shard of this.#plan.shards) weightGradientRank(this.#plan, shard, call);
    });
  }

  close(): void {}
}

/** All ranks of the group in this process, in plain TypeScript. */
export function referenceBackend(): Backend {
  return {
    name: 'reference',
    prepare: async (plan) => new ReferencePlan(plan),
    close: () => {},
  };
}
