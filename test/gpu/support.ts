// What the GPU cases share. They run under vitest and, on a machine that has no npm, under a plain Node runner, so
// that they use nothing but node:assert.

import assert from 'node:assert/strict';
import {
  type Cuda,
  cudaDevices,
  type DeviceBuffer,
  type DevicePlan,
} from '../../executor/backends/cuda/context.ts';
import type { Payload } from '../../executor/backends/types.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { randomFrom } from '../support/workloads.ts';

export interface GpuCase {
  readonly name: string;
  run(): Promise<void> | void;
}

/** Why the cases cannot run here; undefined where they can. */
export function missingGpu(): string | undefined {
  const { devices, reason } = cudaDevices();
  return devices.length > 0 ? undefined : (reason ?? 'there is no GPU');
}

export { planOf } from '../support/buffers.ts';

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

  /** One buffer per rank that holds these bytes, `offset` bytes behind an aligned address. */
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
      this.cuda.fill(buffer, 0xaa);
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

/** The code that a promise is rejected with. */
export async function rejection(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof FuscoError) return error.code;
    throw error;
  }
  return 'nothing was thrown';
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

export function receivedSizes(slot: DevicePlan | VerifiedPlan, rowBytes: number): number[] {
  const plan = 'plan' in slot ? slot.plan : slot;
  return plan.shards.map((shard) => shard.recvRows * rowBytes);
}

export function tokenSizes(plan: VerifiedPlan, rowBytes: number): number[] {
  return plan.shards.map((shard) => shard.tokens * rowBytes);
}

export function entrySizes(plan: VerifiedPlan, rowBytes: number): number[] {
  return plan.shards.map((shard) => shard.entries * rowBytes);
}
