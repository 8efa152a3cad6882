// Device copies: temporary buffers on the device for the buffers of a call that are in host memory.

import { isExternal } from '../../memory.ts';
import type {
  CombineCall,
  CombineGradientCall,
  DeviceIds,
  DispatchCall,
  ExchangeCalls,
  ExchangeKind,
  Memory,
  WeightGradientCall,
} from '../types.ts';
import type { Cuda, DeviceBuffer } from './context.ts';

/** Size of the smallest device copy. */
const MIN_BYTES = 4096;

/** Free device copies of a context, by rank and bytes. */
type FreeCopies = Map<string, DeviceBuffer[]>;

/**
 * Device copies that calls leave for later calls, so that the steady state allocates nothing. The context frees them when
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

/** Names of the properties of a call that hold lists of buffers, one per rank. */
type BufferLists<Call> = {
  [Name in keyof Call]-?: readonly Memory[] extends Call[Name] ? Name : never;
}[keyof Call];

/** Device copies of the buffers of a call that are in host memory, for the duration of the call. */
export class DeviceCopies {
  readonly #cuda: Cuda;
  readonly #owned: DeviceBuffer[] = [];
  readonly #outputs: [DeviceBuffer, ArrayBufferView][] = [];

  constructor(cuda: Cuda) {
    this.#cuda = cuda;
  }

  /** Whether the call has buffers in host memory. */
  get isUsed(): boolean {
    return this.#owned.length > 0;
  }

  #copy(memory: Memory, rank: number, isOutput: boolean): Memory {
    if (isExternal(memory)) return memory;
    const whole = take(this.#cuda, rank, memory.byteLength);
    this.#owned.push(whole);
    // With the length of the caller's buffer, so that native checks detect a buffer that is too small.
    const buffer = { ...whole, bytes: memory.byteLength };
    // Outputs as well: bytes that the exchange does not write must keep their values.
    this.#cuda.copy(rank, buffer, memory, memory.byteLength);
    if (isOutput) this.#outputs.push([buffer, memory]);
    return buffer;
  }

  /** The call with the listed buffers on the device. Outputs are copied back by copyBack. */
  of<Call>(
    call: Call,
    { inputs, outputs }: { inputs: readonly BufferLists<Call>[]; outputs: readonly BufferLists<Call>[] },
  ): Call {
    const onDevice = { ...call } as Record<keyof Call, unknown>;
    for (const name of [...inputs, ...outputs]) {
      const memories = call[name] as readonly Memory[] | undefined;
      if (memories === undefined) continue;
      onDevice[name] = memories.map((memory, rank) => this.#copy(memory, rank, outputs.includes(name)));
    }
    return onDevice as Call;
  }

  /** Ids on the device. */
  ids(ids: readonly DeviceIds[]): DeviceIds[] {
    return ids.map((own, rank) => ({ ...own, ids: this.#copy(own.ids, rank, false) }));
  }

  /** The call of an exchange with all of its buffers on the device. */
  exchange<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): ExchangeCalls[Kind];
  exchange(kind: ExchangeKind, call: ExchangeCalls[ExchangeKind]): ExchangeCalls[ExchangeKind] {
    if (kind === 'combine') {
      return this.of(call as CombineCall, { inputs: ['from', 'weights'], outputs: ['to'] });
    }
    if (kind === 'weightGradient') {
      return this.of(call as WeightGradientCall, { inputs: ['outputGradient', 'from'], outputs: ['to'] });
    }
    if (kind === 'combineGradient') {
      return this.of(call as CombineGradientCall, {
        inputs: ['outputGradient', 'from', 'weights'],
        outputs: ['to', 'weightsGradient', 'origins'],
      });
    }
    const dispatch = call as DispatchCall;
    const payloads = dispatch.payloads.map((payload) =>
      this.of(payload, { inputs: ['from'], outputs: ['to'] }),
    );
    return { ...this.of(dispatch, { inputs: ['scale'], outputs: ['origins'] }), payloads };
  }

  /** Copies the outputs to the caller's buffers and waits for the device. */
  copyBack(): void {
    for (const [buffer, memory] of this.#outputs) {
      this.#cuda.copy(buffer.rank, memory, buffer, memory.byteLength);
    }
    this.#cuda.synchronize();
  }

  /** Releases the copies for later calls. The device must no longer use them. */
  release(): void {
    for (const copy of this.#owned) freeListOf(this.#cuda, copy.rank, copy.bytes).push(copy);
  }
}
