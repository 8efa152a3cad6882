// What the benches on a GPU share: random rows, and times on the device.

import type { Cuda, DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import type { Timed } from './measure.ts';

/** Longer than it takes to enqueue any candidate. */
const ENQUEUE_NS = 1e6;

/** Random bf16 rows, finite and of many exponents: zeros would flatter the GPU. */
function randomBlock(bytes: number): Uint8Array {
  const words = new Uint16Array(bytes / 2);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = ((state >>> 16) & 0x807f) | ((120 + ((state >>> 8) & 7)) << 7);
  }
  return new Uint8Array(words.buffer);
}

/** Fills device memory with random bf16 rows, which are good float32 numbers, too. */
export function fillRandom(cuda: Cuda, buffers: readonly DeviceBuffer[]): void {
  const block = randomBlock(8 << 20);
  for (const { rank, address, bytes } of buffers) {
    for (let at = 0; at < bytes; at += block.length) {
      const part = Math.min(block.length, bytes - at);
      cuda.copy(rank, { address: address + BigInt(at), bytes: part }, block, part);
    }
  }
  cuda.synchronize();
}

/** Two events around work on the device. */
export class DeviceClock implements Disposable {
  readonly #cuda: Cuda;
  readonly #start;
  readonly #end;

  constructor(cuda: Cuda) {
    this.#cuda = cuda;
    this.#start = cuda.event(0);
    this.#end = cuda.event(0);
  }

  /**
   * Nanoseconds on the device of what `work` enqueues. All ranks' streams are idle at the start, and the end follows
   * the last writer. The GPU is busy for `busyNs` in front of it, so that enqueueing does not count.
   */
  timed(work: () => void, busyNs = ENQUEUE_NS): Timed {
    return () => {
      this.#cuda.synchronize();
      if (busyNs > 0) this.#cuda.spin(0, busyNs);
      this.#start.record();
      work();
      this.#end.record();
      this.#cuda.synchronize();
      return this.#end.since(this.#start) * 1e6;
    };
  }

  [Symbol.dispose](): void {
    this.#start.close();
    this.#end.close();
  }
}
