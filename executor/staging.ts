// Buffers of JavaScript on their way through a device.

import type { Memory } from './backend.ts';
import { isExternal } from './calls.ts';
import type { Cuda, DeviceBuffer } from './cuda.ts';

/** Device copies of a call's JavaScript buffers, for the length of the call. */
export class Staging {
  readonly #cuda: Cuda;
  readonly #owned: DeviceBuffer[] = [];
  readonly #outputs: [DeviceBuffer, ArrayBufferView][] = [];

  constructor(cuda: Cuda) {
    this.#cuda = cuda;
  }

  get used(): boolean {
    return this.#owned.length > 0;
  }

  #stage(memory: Memory, rank: number): Memory {
    if (isExternal(memory)) return memory;
    const buffer = this.#cuda.alloc(rank, memory.byteLength);
    this.#owned.push(buffer);
    // Outputs too: what an exchange leaves alone stays as it is.
    this.#cuda.copy(rank, buffer, memory, memory.byteLength);
    return buffer;
  }

  inputs(memories: readonly Memory[]): Memory[] {
    return memories.map((memory, rank) => this.#stage(memory, rank));
  }

  outputs(memories: readonly Memory[]): Memory[] {
    return memories.map((memory, rank) => {
      const staged = this.#stage(memory, rank);
      if (!isExternal(memory)) this.#outputs.push([staged as DeviceBuffer, memory]);
      return staged;
    });
  }

  bringBack(): void {
    for (const [buffer, memory] of this.#outputs) {
      this.#cuda.copy(buffer.rank, memory, buffer, memory.byteLength);
    }
    this.#cuda.synchronize();
  }

  free(): void {
    for (const buffer of this.#owned) this.#cuda.free(buffer);
  }
}
