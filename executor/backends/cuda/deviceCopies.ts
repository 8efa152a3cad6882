// Buffers of JavaScript on their way through a device.

import { isExternal } from '../../callChecks.ts';
import type { CombineCall, DispatchCall, Memory, WeightGradientCall } from '../types.ts';
import type { Cuda, DeviceBuffer } from './context.ts';

/** Size of the smallest device copy. */
const MIN_BYTES = 4096;

/** Free device copies of a context, by rank and bytes. */
type FreeCopies = Map<string, DeviceBuffer[]>;

/**
 * Device copies that calls leave for later ones, so that the steady state allocates nothing. The context frees them when
 * it is closed.
 */
const pools = new WeakMap<Cuda, FreeCopies>();

function freeListOf(cuda: Cuda, rank: number, bytes: number): DeviceBuffer[] {
  const pool = pools.get(cuda) ?? new Map();
  pools.set(cuda, pool);
  const key = `${rank} ${bytes}`;
  const list = pool.get(key) ?? [];
  pool.set(key, list);
  return list;
}

/** A device copy of at least `bytes` bytes, rounded up to a power of two. */
function take(cuda: Cuda, rank: number, bytes: number): DeviceBuffer {
  const rounded = 2 ** Math.ceil(Math.log2(Math.max(bytes, MIN_BYTES)));
  return freeListOf(cuda, rank, rounded).pop() ?? cuda.alloc(rank, rounded);
}

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

  #stage(memory: Memory, rank: number): Memory | DeviceBuffer {
    if (isExternal(memory)) return memory;
    const whole = take(this.#cuda, rank, memory.byteLength);
    this.#owned.push(whole);
    // As long as the caller's, so that one that is too small is noticed.
    const buffer = { ...whole, bytes: memory.byteLength };
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

  /** The call with all of its buffers on the device; likewise the next two. */
  dispatch({ payloads, origins, scale }: DispatchCall): DispatchCall {
    return {
      payloads: payloads.map((payload) => ({
        ...payload,
        from: this.inputs(payload.from),
        to: this.outputs(payload.to),
      })),
      ...(origins === undefined ? {} : { origins: this.outputs(origins) }),
      ...(scale === undefined ? {} : { scale: this.inputs(scale) }),
    };
  }

  combine(call: CombineCall): CombineCall {
    const weights = call.weights === undefined ? {} : { weights: this.inputs(call.weights) };
    return { ...call, from: this.inputs(call.from), to: this.outputs(call.to), ...weights };
  }

  weightGradient(call: WeightGradientCall): WeightGradientCall {
    return {
      ...call,
      outputGradient: this.inputs(call.outputGradient),
      from: this.inputs(call.from),
      to: this.outputs(call.to),
    };
  }

  bringBack(): void {
    for (const [buffer, memory] of this.#outputs) {
      this.#cuda.copy(buffer.rank, memory, buffer, memory.byteLength);
    }
    this.#cuda.synchronize();
  }

  /** Hands the device copies back; what the device does with them must be done. */
  free(): void {
    for (const copy of this.#owned) freeListOf(this.#cuda, copy.rank, copy.bytes).push(copy);
  }
}
