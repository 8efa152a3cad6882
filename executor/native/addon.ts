// Everything that the native addon exports, typed in one place; test/native/addon.test.ts compares this file with
// what the addon says of itself.

import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import type { PartialDtype, Strategy } from '../../planner/spec.ts';
import type { CombineCall, DispatchCall, Memory, WeightGradientCall } from '../backends/types.ts';
import type { Fp8Rows } from '../training/fp8.ts';
import type { GateSpec } from '../training/gating.ts';
import type { NativeNccl, NativeNcclGroup, NativeNcclPlan } from './addonNccl.ts';

/** What an exchange did. Bytes are those of payload rows: each source row once, each slot once, no padding. */
export interface NativeStats {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Slots written (dispatch) or read. */
  readonly rows: number;
  readonly nanoseconds: number;
  /** Nanoseconds on the clock of process.hrtime when it began; 0 where it is not known. */
  readonly started: number;
}

export interface NativeContextOptions {
  /** Threads of an exchange, 1..1024; 0, the default, is one for each processor that the process may use. */
  readonly threads?: number;
  /** Exchanges that write at least so many bytes bypass the caches; 0, the default, is the last-level cache's size. */
  readonly streamBytes?: number;
  /** `portable` is plain C++ with the same results; for tests. Default auto. */
  readonly kernels?: 'auto' | 'portable';
}

/** Owns the threads. Exchanges of one context run one after the other. */
export interface NativeContext {
  readonly threads: number;
  /** `avx2` or `portable`. */
  readonly kernels: string;
  readonly closed: boolean;
  /**
   * Idempotent. What is in flight finishes and settles; then the threads end and the context's plans are freed.
   * A context that is never closed is freed by the garbage collector, or with its environment.
   */
  close(): void;
}

export interface NativePlanDesc {
  readonly ranksPerNode: number;
  readonly strategy: Strategy;
  /** Partial sums of a hierarchical combine. Default payload. */
  readonly partial?: PartialDtype;
  /** One shard per rank. They are copied and checked; later changes of these bytes do not matter. */
  readonly shards: readonly Memory[];
}

/**
 * An uploaded plan. Calls of the asynchronous kind run in order on the context's own thread, never on libuv's; the
 * synchronous kind runs at once, on the calling thread, when the exchange in flight has ended.
 *
 * Arguments are checked before any buffer is touched. What concerns JavaScript values is thrown by both kinds;
 * what concerns sizes, overlap and dtypes is thrown by the synchronous kind and rejects the promise of the other.
 * Errors carry `code` and may carry `rank`, `path`, `value` and `limit`.
 *
 * Buffers stay referenced until the promise settles; until then they must be neither transferred nor written.
 */
export interface NativePlan {
  readonly closed: boolean;
  dispatch(call: DispatchCall): Promise<NativeStats>;
  dispatchSync(call: DispatchCall): NativeStats;
  combine(call: CombineCall): Promise<NativeStats>;
  combineSync(call: CombineCall): NativeStats;
  weightGradient(call: WeightGradientCall): Promise<NativeStats>;
  weightGradientSync(call: WeightGradientCall): NativeStats;
  /** Idempotent. What is in flight finishes and settles. */
  close(): void;
}

export interface NativeUnfusedOptions {
  /** Bytes of one row. */
  readonly rowBytes: number;
}

/** The pipeline that fusion replaces, with the same threads and copy routine. Its buffers are made once. */
export interface NativeUnfused {
  /** Pack by destination, exchange in blocks, unpack into expert order. One per-token payload's buffers. */
  dispatchSync(from: readonly Memory[], to: readonly Memory[]): NativeStats;
  /** Permute back, exchange back, add up at home. */
  combineSync(call: CombineCall): NativeStats;
  close(): void;
}

/** `fill` streams one cached block to the whole destination: writes alone. */
export type CopyVariant = 'memcpy' | 'stream' | 'fill';

export interface NativeCudaDevice {
  readonly name: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly multiprocessors: number;
  /** Compute capability, such as `9.0`. */
  readonly compute: string;
  /** CUDA versions as CUDA numbers them: 1000 x major + 10 x minor. */
  readonly driver: number;
  readonly runtime: number;
}

export interface NativeCudaDevices {
  /** Whether the addon was built with CUDA. */
  readonly built: boolean;
  readonly devices: readonly NativeCudaDevice[];
  /** Why there are no devices. */
  readonly reason?: string;
}

/**
 * Devices, streams and memory of one process; 1 to 64 ranks, any number on one device. What takes a rank's stream
 * enqueues and returns. Addresses are BigInts. Errors carry `code`.
 */
export interface NativeCudaContext {
  alloc(rank: number, bytes: number): bigint;
  free(address: bigint): void;
  /** Between host and device memory, in any direction, on the rank's stream. */
  copy(rank: number, to: Memory, from: Memory, bytes: number): void;
  fill(rank: number, address: bigint, value: number, bytes: number): void;
  stream(rank: number): bigint;
  /** A cudaStream_t of another library; 0n goes back to the context's own. */
  setStream(rank: number, stream: bigint): void;
  limitMultiprocessors(count: number): void;
  spin(rank: number, nanoseconds: number): void;
  synchronize(): void;
  captureBegin(): void;
  close(): void;
}

export interface NativeCudaPlanDesc extends NativePlanDesc {
  /** Communication groups of a hierarchical plan; without them rows are not forwarded. */
  readonly groups?: Uint16Array;
  /** What the slot can hold; at least the first plan. */
  readonly capacity?: { readonly tokens?: number; readonly topk?: number; readonly instances?: number };
}

export interface NativeCudaStats extends Omit<NativeStats, 'started'> {
  readonly path: 'direct' | 'forward';
  /** Payloads that the copy engines of the multiprocessors moved. */
  readonly byTiles: number;
}

export type CudaPath = 'auto' | 'direct' | 'forward';

export interface NativeCudaPlan {
  /** Of device memory. */
  readonly bytes: number;
  upload(desc: NativeCudaPlanDesc): void;
  dispatch(call: DispatchCall, path: CudaPath): NativeCudaStats;
  combine(call: CombineCall): NativeCudaStats;
  weightGradient(call: WeightGradientCall): NativeCudaStats;
  close(): void;
}

export interface NativeCudaEvent {
  record(): void;
  wait(rank: number): void;
  query(): boolean;
  synchronize(): void;
  /** Milliseconds since another event. */
  since(start: NativeCudaEvent): number;
  close(): void;
}

export interface NativeCudaGraph {
  launch(): void;
  close(): void;
}

/** The pipeline that fusion replaces, on one device; enqueues. */
export interface NativeCudaUnfused {
  dispatch(from: readonly Memory[], to: readonly Memory[]): void;
  combine(call: CombineCall): void;
  close(): void;
}

/** One rank's rows, as quantizeRows of fp8.ts takes them. */
export interface NativeFp8Call extends Fp8Rows {
  readonly values: Memory;
  readonly codes: Memory;
  readonly scales: Memory;
}

/** One rank's tokens, as gateTokens of gating.ts takes them. */
export interface NativeGateCall extends GateSpec {
  readonly tokens: number;
  readonly logits: Memory;
  readonly bias?: Memory;
  readonly ids: Memory;
  readonly weights: Memory;
  readonly scores: Memory;
}

export interface NativeGateBackwardCall extends GateSpec {
  readonly tokens: number;
  readonly ids: Memory;
  readonly scores: Memory;
  readonly weightsGradient: Memory;
  readonly logitsGradient: Memory;
}

/** Work on rows, with the context's threads; it waits for the exchange in flight. Errors carry `code`. */
export interface NativeRows {
  fp8Quantize(context: NativeContext, call: NativeFp8Call): void;
  fp8Dequantize(context: NativeContext, call: NativeFp8Call): void;
  gate(context: NativeContext, call: NativeGateCall): void;
  gateBackward(context: NativeContext, call: NativeGateBackwardCall): void;
}

/** The same on the stream of a rank, whose device has the memory: enqueues. Errors carry `code`, and `rank` mostly. */
export interface NativeCudaRows {
  cudaFp8Quantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaFp8Dequantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaGate(context: NativeCudaContext, rank: number, call: NativeGateCall): void;
  cudaGateBackward(context: NativeCudaContext, rank: number, call: NativeGateBackwardCall): void;
}

export interface Addon extends NativeRows, NativeCudaRows, NativeNccl {
  readonly version: string;
  /** Arity of every method as the native side defines it; null for properties. For the test of this file. */
  readonly signatures: Readonly<Record<string, Readonly<Record<string, number | null>>>>;
  readonly Context: new (options: NativeContextOptions) => NativeContext;
  readonly Plan: new (context: NativeContext, desc: NativePlanDesc) => NativePlan;
  readonly Unfused: new (plan: NativePlan, options: NativeUnfusedOptions) => NativeUnfused;
  readonly CudaContext: new (ranks: number, devices: readonly number[] | undefined) => NativeCudaContext;
  readonly CudaPlan: new (context: NativeCudaContext, desc: NativeCudaPlanDesc) => NativeCudaPlan;
  readonly CudaEvent: new (context: NativeCudaContext, rank: number) => NativeCudaEvent;
  /** Ends the context's capture. */
  readonly CudaGraph: new (
    context: NativeCudaContext,
  ) => NativeCudaGraph;
  readonly CudaUnfused: new (plan: NativeCudaPlan, options: NativeUnfusedOptions) => NativeCudaUnfused;
  cudaDevices(): NativeCudaDevices;
  /** Where a buffer lies, for other libraries in this process; valid as long as the buffer lives. */
  addressOf(memory: Memory): bigint;
  /** Nanoseconds to copy `bytes` bytes between two buffers of its own, with the context's threads; best of `runs`. */
  benchCopy(context: NativeContext, variant: CopyVariant, bytes: number, runs: number): number;
  /** Nanoseconds of counting, offsets and slots for these destination instances, best of `runs`. */
  benchSlots(instances: Uint16Array, instanceCount: number, unrolled: boolean, runs: number): number;
}

type Classes =
  | 'Context'
  | 'Plan'
  | 'Unfused'
  | 'CudaContext'
  | 'CudaPlan'
  | 'CudaEvent'
  | 'CudaGraph'
  | 'CudaUnfused'
  | 'NcclGroup'
  | 'NcclPlan';

type Signature<T> = {
  [K in keyof T]: T[K] extends (...parameters: infer P) => unknown ? Required<P>['length'] : null;
};

/** Names and arities as this file types them. The types force it to name every member above, and no other. */
export const ADDON_SIGNATURES: {
  Context: Signature<NativeContext> & { constructor: 1 };
  Plan: Signature<NativePlan> & { constructor: 2 };
  Unfused: Signature<NativeUnfused> & { constructor: 2 };
  CudaContext: Signature<NativeCudaContext> & { constructor: 2 };
  CudaPlan: Signature<NativeCudaPlan> & { constructor: 2 };
  CudaEvent: Signature<NativeCudaEvent> & { constructor: 2 };
  CudaGraph: Signature<NativeCudaGraph> & { constructor: 1 };
  CudaUnfused: Signature<NativeCudaUnfused> & { constructor: 2 };
  NcclGroup: Signature<NativeNcclGroup> & { constructor: 2 };
  NcclPlan: Signature<NativeNcclPlan> & { constructor: 2 };
  rows: Signature<NativeRows>;
  cudaRows: Signature<NativeCudaRows>;
  functions: Signature<
    Omit<Addon, 'version' | 'signatures' | Classes | keyof NativeRows | keyof NativeCudaRows>
  >;
} = {
  Context: { constructor: 1, threads: null, kernels: null, closed: null, close: 0 },
  Plan: {
    constructor: 2,
    closed: null,
    dispatch: 1,
    dispatchSync: 1,
    combine: 1,
    combineSync: 1,
    weightGradient: 1,
    weightGradientSync: 1,
    close: 0,
  },
  Unfused: { constructor: 2, dispatchSync: 2, combineSync: 1, close: 0 },
  CudaContext: {
    constructor: 2,
    alloc: 2,
    free: 1,
    copy: 4,
    fill: 4,
    stream: 1,
    setStream: 2,
    limitMultiprocessors: 1,
    spin: 2,
    synchronize: 0,
    captureBegin: 0,
    close: 0,
  },
  CudaPlan: { constructor: 2, bytes: null, upload: 1, dispatch: 2, combine: 1, weightGradient: 1, close: 0 },
  CudaEvent: { constructor: 2, record: 0, wait: 1, query: 0, synchronize: 0, since: 1, close: 0 },
  CudaGraph: { constructor: 1, launch: 0, close: 0 },
  CudaUnfused: { constructor: 2, dispatch: 2, combine: 1, close: 0 },
  NcclGroup: { constructor: 2, open: 0, allGather: 3, abort: 1, close: 0 },
  NcclPlan: {
    constructor: 2,
    open: 2,
    bytes: 1,
    dispatch: 4,
    combine: 4,
    weightGradient: 4,
    unfusedDispatch: 4,
    unfusedCombine: 4,
    close: 0,
  },
  functions: {
    addressOf: 1,
    benchCopy: 4,
    benchSlots: 4,
    cudaDevices: 0,
    ncclLibrary: 1,
    ncclUniqueId: 0,
  },
  rows: { fp8Quantize: 2, fp8Dequantize: 2, gate: 2, gateBackward: 2 },
  cudaRows: { cudaFp8Quantize: 3, cudaFp8Dequantize: 3, cudaGate: 3, cudaGateBackward: 3 },
};

/** The addon, or the reason why there is none. */
export type AddonResult = { readonly addon: Addon } | { readonly addon: undefined; readonly reason: string };

let loaded: AddonResult | undefined;

/** Loads the addon once. It is absent where no compiler built it: the reference backend runs everything as well. */
export function findAddon(): AddonResult {
  loaded ??= tryLoad();
  return loaded;
}

/** What was built on this machine, else what came with the package for machines like it. */
function tryLoad(): AddonResult {
  const require = createRequire(import.meta.url);
  const machine = `${process.platform}-${process.arch}`;
  for (const place of ['#addon', `#prebuilt/${machine}`]) {
    try {
      return { addon: require(place) as Addon };
    } catch (error) {
      if ((error as { code?: unknown }).code === 'MODULE_NOT_FOUND') continue;
      return { addon: undefined, reason: `the native addon does not load: ${(error as Error).message}` };
    }
  }
  const root = dirname(require.resolve('#package.json'));
  return {
    addon: undefined,
    reason: `the native addon is not built, and none came for ${machine}; build it with \`npm run build:native\` in ${root}`,
  };
}

/** The addon, or undefined where it is not built or does not load; findAddon() says why. */
export function loadAddon(): Addon | undefined {
  return findAddon().addon;
}
