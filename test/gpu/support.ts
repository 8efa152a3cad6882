// What the GPU cases share. They run under vitest and, on a machine without npm, under a plain Node runner: they use
// nothing but node:assert.

import assert from 'node:assert/strict';
import { type Cuda, cudaDevices, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import type { Payload } from '../../executor/backends/types.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import { findBenchAddon, requireBenchAddon } from '../../executor/internal.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { POISON, planOf } from '../support/buffers.ts';
import { makeRouting, randomFrom, type Workload } from '../support/workloads.ts';

export { POISON, planOf };

// Before anything is opened: `spin` needs the addon of the benches, and objects of two addons cannot be mixed.
findBenchAddon();

export interface GpuCase {
  readonly name: string;
  run(): Promise<void> | void;
}

/** Why the cases cannot run here; undefined if they can. */
export function missingGpu(): string | undefined {
  const { devices, reason } = cudaDevices();
  return devices.length > 0 ? undefined : (reason ?? 'there is no GPU');
}

let calls = 0;

/** Runs something in which small plans are made as others are, by a kernel for each pass. Calls may be nested. */
export async function withoutSmallPlans(run: () => Promise<void> | void): Promise<void> {
  const { cudaSmallPlans } = requireBenchAddon();
  calls++;
  cudaSmallPlans(0);
  try {
    await run();
  } finally {
    calls--;
    if (calls === 0) cudaSmallPlans(1);
  }
}

/** The plan of a workload's routing. */
export function planFor(
  workload: Workload,
  options: Omit<PlanOptions, 'ranks' | 'experts'> = {},
): Promise<VerifiedPlan> {
  const { topk, experts } = workload;
  return planOf(makeRouting(workload), topk, { ...options, experts });
}

/** Bytes of the random block that rows are made of: no multiple of a row, so that rows differ. */
const BLOCK_BYTES = 65_512;

/** Rows that differ from one another; as numbers they are finite, small and of both signs. */
export function randomRows(seed: number, bytes: number, dtype: FloatDtype | 'bytes'): Uint8Array {
  const random = randomFrom(seed);
  const result = new Uint8Array(bytes);
  const block = Math.min(bytes, BLOCK_BYTES);
  const size = dtype === 'bytes' ? 1 : dtype === 'f32' ? 4 : 2;
  const view = new DataView(result.buffer);
  for (let at = 0; at + size <= block; at += size) {
    const value = Math.fround(random() * 4 - 2);
    if (size === 1) result[at] = Math.floor(random() * 256);
    else if (size === 4) view.setFloat32(at, value, true);
    else if (dtype === 'bf16') view.setUint16(at, floatBits(value) >>> 16, true);
    else view.setUint16(at, 0x3000 + Math.floor(random() * 0x0fff) + (value < 0 ? 0x8000 : 0), true);
  }
  for (let at = block; at < bytes; at += block) result.copyWithin(at, 0, Math.min(block, bytes - at));
  return result;
}

function floatBits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}

/** Device buffers of a test, freed together. */
export class Buffers implements Disposable {
  readonly cuda: Cuda;
  readonly #owned: DeviceBuffer[] = [];

  constructor(cuda: Cuda) {
    this.cuda = cuda;
  }

  /** One buffer per rank that holds these bytes, `offset` bytes after an aligned address. */
  up(rows: readonly ArrayBufferView[], offset = 0): DeviceBuffer[] {
    return rows.map((bytes, rank) => {
      const buffer = this.#part(rank, bytes.byteLength, offset);
      this.cuda.copy(rank, buffer, bytes, bytes.byteLength);
      return buffer;
    });
  }

  /** One poisoned buffer per rank. */
  poisoned(sizes: readonly number[], offset = 0): DeviceBuffer[] {
    return sizes.map((bytes, rank) => {
      const buffer = this.#part(rank, bytes, offset);
      this.cuda.fill(buffer, POISON);
      return buffer;
    });
  }

  #part(rank: number, bytes: number, offset: number): DeviceBuffer {
    const whole = this.cuda.alloc(rank, bytes + offset);
    this.#owned.push(whole);
    return { rank, bytes, address: whole.address + BigInt(offset) };
  }

  /** Waits and reads buffers back. */
  down(buffers: readonly DeviceBuffer[]): Uint8Array[] {
    const read = buffers.map((buffer) => {
      const bytes = new Uint8Array(buffer.bytes);
      this.cuda.copy(buffer.rank, bytes, buffer, buffer.bytes);
      return bytes;
    });
    this.cuda.synchronize();
    return read;
  }

  [Symbol.dispose](): void {
    this.cuda.synchronize();
    for (const { rank, address, bytes } of this.#owned) this.cuda.free({ rank, address, bytes });
  }
}

/** A context with a group of the cuda backend over it, and buffers. They are closed together. */
export interface Gpu extends Disposable {
  readonly cuda: Cuda;
  readonly group: Group;
  readonly buffers: Buffers;
}

/** @param devices device of every rank; default: blocks of ranks over all devices */
export async function openGpu(ranks: number, devices?: readonly number[]): Promise<Gpu> {
  const cuda = openCuda(ranks, devices);
  const group = await createGroup({ ranks, backend: 'cuda', cuda });
  const buffers = new Buffers(cuda);
  const dispose = () => {
    buffers[Symbol.dispose]();
    group[Symbol.dispose]();
    cuda[Symbol.dispose]();
  };
  return { cuda, group, buffers, [Symbol.dispose]: dispose };
}

const NOTHING_THROWN = 'nothing was thrown';

function codeOfError(error: unknown): string {
  if (error instanceof FuscoError) return error.code;
  throw error;
}

/** The code of the error that `work` throws. */
export function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return codeOfError(error);
  }
  return NOTHING_THROWN;
}

/** The code that a promise is rejected with. */
export function rejection(work: Promise<unknown>): Promise<string> {
  return work.then(() => NOTHING_THROWN, codeOfError);
}

/** What was thrown first, where a disposal behind it threw as well. */
export function firstError(thrown: unknown): unknown {
  let first = thrown;
  while (first instanceof Error && first.name === 'SuppressedError') {
    first = (first as SuppressedError).suppressed;
  }
  return first;
}

/** Fails with the place of the first byte that differs. */
export function assertSame(
  what: string,
  actual: readonly Uint8Array[],
  expected: readonly Uint8Array[],
  rowBytes: number,
): void {
  assert.equal(actual.length, expected.length, what);
  for (const [rank, bytes] of actual.entries()) {
    const wanted = expected[rank]!;
    if (Buffer.compare(bytes, wanted) === 0) continue;
    const at = bytes.findIndex((byte, i) => byte !== wanted[i]);
    const row = Math.floor(at / rowBytes);
    assert.fail(`${what}: rank ${rank} row ${row} byte ${at % rowBytes} is ${bytes[at]}, not ${wanted[at]}`);
  }
}

/** Dispatches one payload of rows from and to the device. */
export function rowsPayload(
  rowBytes: number,
  from: readonly DeviceBuffer[],
  to: readonly DeviceBuffer[],
): Payload {
  return { rowBytes, from, to };
}

export function receivedSizes(plan: VerifiedPlan, rowBytes: number): number[] {
  return plan.shards.map((shard) => shard.recvRows * rowBytes);
}

export function tokenSizes(plan: VerifiedPlan, rowBytes: number): number[] {
  return plan.shards.map((shard) => shard.tokens * rowBytes);
}

export function entrySizes(plan: VerifiedPlan, rowBytes: number): number[] {
  return plan.shards.map((shard) => shard.entries * rowBytes);
}
