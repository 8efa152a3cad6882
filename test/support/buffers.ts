// Buffers for executor tests: as float32 or bytes, prefilled so that a byte that nobody wrote shows.

import type { BackendName, Memory } from '../../executor/backends/types.ts';
import { createGroup, type Exchange } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import type { PlainRouting } from './obviousPlan.ts';
import { toTables } from './workloads.ts';

export const POISON = 0xaa;

/** Plans with the code under test's planner; its results are tested in test/planner. */
export async function planOf(
  routing: PlainRouting,
  topk: number,
  options: Omit<PlanOptions, 'ranks'>,
): Promise<VerifiedPlan> {
  const planner = await loadPlanner();
  return planner.planAll(toTables(routing, topk), { ...options, ranks: routing.length });
}

/** A prepared exchange, of the reference backend unless another is named. */
export async function prepare(plan: VerifiedPlan, backend: BackendName = 'reference'): Promise<Exchange> {
  const group = await createGroup({ ranks: plan.spec.ranks, backend });
  return group.prepare(plan);
}

/** One poisoned buffer per rank, with `tail` bytes more than needed. */
export function poisoned(sizes: readonly number[], tail = 0): Uint8Array[] {
  return sizes.map((size) => new Uint8Array(size + tail).fill(POISON));
}

export function bytesOf(memory: ArrayBufferView): number[] {
  return [...new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength)];
}

/** Little-endian float32 bytes. */
export function f32(...values: number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** Little-endian words. */
export function u16(...values: number[]): Uint8Array {
  return new Uint8Array(Uint16Array.from(values).buffer);
}

export function u32(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** 32-bit words of a buffer, whatever its address. */
export function words(bytes: Uint8Array): number[] {
  return [...new Uint32Array(bytes.slice().buffer)];
}

export function halves(bytes: Uint8Array): number[] {
  return [...new Uint16Array(bytes.slice().buffer)];
}

export function floats(bytes: Uint8Array): number[] {
  return [...new Float32Array(bytes.slice().buffer)];
}

/** i32 values of a buffer. */
export function ints(bytes: Uint8Array): number[] {
  return [...new Int32Array(bytes.slice().buffer)];
}

/** Rows of values that the dtype holds exactly: zeros and normal numbers. */
export function encode(dtype: FloatDtype, values: readonly number[]): Uint8Array {
  if (dtype === 'f32') return f32(...values);
  const bits = words(f32(...values));
  if (dtype === 'bf16') return u16(...bits.map((word) => word >>> 16));
  // Float32 to float16 of values that need no rounding: another bias, a shorter fraction.
  return u16(
    ...bits.map((word) => {
      const sign = (word >>> 16) & 0x8000;
      const exponent = (word >>> 23) & 0xff;
      return exponent === 0 ? sign : sign | ((exponent - 112) << 10) | ((word >>> 13) & 0x3ff);
    }),
  );
}

/** Combines into fresh poisoned buffers and gives them back. */
export async function combined(
  plan: VerifiedPlan,
  dtype: 'f32' | 'f16' | 'bf16',
  rowBytes: number,
  from: readonly Memory[],
  weights?: readonly Memory[],
  backend?: BackendName,
): Promise<Uint8Array[]> {
  const to = poisoned(plan.shards.map((shard) => shard.tokens * rowBytes));
  const exchange = await prepare(plan, backend);
  const call = { dtype, rowBytes, from, to };
  await exchange.combine(weights === undefined ? call : { ...call, weights });
  return to;
}
