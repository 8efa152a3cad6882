// Code that the GPU benchmarks share: device memory with random rows, the calls of an exchange, and times on the device.

import { type Cuda, cudaDevices, type DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import type { CombineCall, DispatchCall } from '../../executor/backends/types.ts';
import { findBenchAddon, requireBenchAddon, spin } from '../../executor/internal.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { ChainClock } from './exchangeFigures.ts';
import { congruential } from './ids.ts';
import type { Timed } from './measure.ts';

/** Longer than it takes to enqueue any candidate. */
const ENQUEUE_NS = 1e6;
/** Calls of exchanges that are enqueued in that time. */
const CALLS_PER_ENQUEUE_NS = 4;

/**
 * The GPUs of this machine. Call it before anything is opened: it loads the addon of the benches, and objects of two
 * addons cannot be mixed.
 *
 * @throws FuscoError E_BACKEND if there are fewer than `least` GPUs, or no addon of the benches
 */
export function requireDevices(least: number) {
  findBenchAddon();
  const { devices, reason } = cudaDevices();
  if (devices.length < least) {
    const wanted = least === 1 ? 'a GPU' : `${least} GPUs`;
    throw new FuscoError(
      'E_BACKEND',
      `this bench needs ${wanted}: ${reason ?? `this machine has ${devices.length}`}`,
    );
  }
  requireBenchAddon();
  return devices;
}

/**
 * Random bf16 rows, finite and with many exponents, because zeros would make the GPU look faster. They are valid float32
 * numbers as well.
 */
function randomBlock(bytes: number): Uint8Array {
  const next = congruential(1);
  const words = new Uint16Array(bytes / 2).map(() => {
    const bits = next();
    return ((bits >>> 16) & 0x807f) | ((120 + ((bits >>> 8) & 7)) << 7);
  });
  return new Uint8Array(words.buffer);
}

let madeBlock: Uint8Array | undefined;

/** Device memory of one workload, freed together. */
export class DeviceMemory implements Disposable {
  readonly #cuda: Cuda;
  readonly #owned: DeviceBuffer[] = [];

  constructor(cuda: Cuda) {
    this.#cuda = cuda;
  }

  alloc(rank: number, bytes: number): DeviceBuffer {
    const buffer = this.#cuda.alloc(rank, Math.max(1, bytes));
    this.#owned.push(buffer);
    return buffer;
  }

  /** A buffer of `bytes` that holds random bf16 rows. */
  random(rank: number, bytes: number): DeviceBuffer {
    const buffer = this.alloc(rank, bytes);
    const block = (madeBlock ??= randomBlock(8 << 20));
    for (let at = 0; at < bytes; at += block.length) {
      const part = Math.min(block.length, bytes - at);
      this.#cuda.copy(rank, { address: buffer.address + BigInt(at), bytes: part }, block, part);
    }
    this.#cuda.synchronize();
    return buffer;
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#owned) this.#cuda.free(buffer);
  }
}

/** Buffers of all local ranks, and the calls that use them. */
export interface ExchangeCalls {
  readonly from: DeviceBuffer[];
  readonly received: DeviceBuffer[];
  readonly combined: DeviceBuffer[];
  readonly weights: DeviceBuffer[];
  readonly dispatch: DispatchCall;
  readonly combine: CombineCall & { readonly weights: DeviceBuffer[] };
}

/** Memory for bf16 exchanges of the local ranks with these sizes in rows. */
export function exchangeCalls(
  cuda: Cuda,
  memory: DeviceMemory,
  sizes: readonly { readonly tokens: number; readonly recvRows: number; readonly entries: number }[],
  rowBytes: number,
): ExchangeCalls {
  const from = sizes.map(({ tokens }, rank) => memory.random(rank, tokens * rowBytes));
  const received = sizes.map(({ recvRows }, rank) => memory.alloc(rank, recvRows * rowBytes));
  const combined = sizes.map(({ tokens }, rank) => memory.alloc(rank, tokens * rowBytes));
  const weights = sizes.map(({ entries }, rank) => {
    const values = new Float32Array(entries).map((_, i) => (1 + (i % 7)) / 16);
    const buffer = memory.alloc(rank, values.byteLength);
    cuda.copy(rank, buffer, values, values.byteLength);
    return buffer;
  });
  cuda.synchronize();
  return {
    ...{ from, received, combined, weights },
    dispatch: { payloads: [{ rowBytes, dtype: 'bf16', from, to: received }] },
    combine: { dtype: 'bf16', rowBytes, from: received, to: combined, weights },
  };
}

/** Bytes of a row of e4m3 codes and of its float32 scales, one for every 128 elements. */
export function fp8RowBytes(hidden: number): { codes: number; scales: number } {
  return { codes: hidden, scales: 4 * Math.ceil(hidden / 128) };
}

/** A dispatch of e4m3 rows with their scales. The benchmark moves bytes; their values do not matter. */
export function fp8Dispatch(
  memory: DeviceMemory,
  sizes: readonly { readonly tokens: number; readonly recvRows: number }[],
  hidden: number,
): DispatchCall {
  const payloads = Object.values(fp8RowBytes(hidden)).map((rowBytes) => ({
    rowBytes,
    from: sizes.map(({ tokens }, rank) => memory.random(rank, tokens * rowBytes)),
    to: sizes.map(({ recvRows }, rank) => memory.alloc(rank, recvRows * rowBytes)),
  }));
  return { payloads };
}

/** Two events around work on a device. */
export class DeviceClock implements Disposable {
  readonly #cuda: Cuda;
  /** Of each rank that is timed. */
  readonly #events;

  /** @param ranks that take turns: each time that `timed` measures, it is the stream of the next of them */
  constructor(cuda: Cuda, ranks = 1) {
    this.#cuda = cuda;
    this.#events = Array.from({ length: ranks }, (_, rank) => ({
      start: cuda.event(rank),
      end: cuda.event(rank),
    }));
  }

  /**
   * Nanoseconds on the device of what `work` enqueues. All ranks' streams are idle at the start, and the end follows
   * the last row that the timed rank receives. The GPU is busy for `busyNs` before the start, so that enqueueing does
   * not count; the other ranks wait for it.
   */
  timed(work: () => unknown, busyNs = ENQUEUE_NS): Timed {
    let turn = 0;
    return async () => {
      const rank = turn++ % this.#events.length;
      const { start, end } = this.#events[rank]!;
      this.#cuda.synchronize();
      if (busyNs > 0) spin(this.#cuda, rank, busyNs);
      start.record();
      const enqueued = work();
      end.record();
      this.#cuda.synchronize();
      await enqueued;
      return end.since(start) * 1e6;
    };
  }

  /** Nanoseconds of all calls in turn, `times` times: each follows the one before it without the host. */
  readonly chained: ChainClock = (calls, times) =>
    this.timed(
      () => {
        for (let i = 0; i < times; i++) for (const call of calls) call();
      },
      ENQUEUE_NS * Math.max(1, (calls.length * times) / CALLS_PER_ENQUEUE_NS),
    );

  /**
   * Nanoseconds of all calls in turn, `times` times, between processes whose calls settle when they are enqueued. All
   * ranks make the first call once more before the start, which lets them begin together.
   *
   * @param meet resolves when all ranks are there
   */
  readonly between =
    (meet: () => Promise<void>): ChainClock =>
    (calls, times) =>
    async () => {
      this.#cuda.synchronize();
      await meet();
      spin(this.#cuda, 0, ENQUEUE_NS * (1 + (calls.length * times) / CALLS_PER_ENQUEUE_NS));
      await calls[0]!();
      const { start, end } = this.#events[0]!;
      start.record();
      for (let i = 0; i < times; i++) for (const call of calls) await call();
      end.record();
      this.#cuda.synchronize();
      return end.since(start) * 1e6;
    };

  [Symbol.dispose](): void {
    for (const { start, end } of this.#events) {
      start.close();
      end.close();
    }
  }
}
