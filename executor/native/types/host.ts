// The `host` backend in the native addon: contexts, plans, and work on rows.

import type { PartialDtype, Strategy, SumOrder } from '../../../planner/spec.ts';
import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  Memory,
  WeightGradientCall,
} from '../../backends/types.ts';
import type { Fp8Rows } from '../../training/fp8.ts';
import type { GateBackwardBuffers, GateBuffers, GateSpec } from '../../training/gating.ts';

/** What an exchange did. Bytes are those of payload rows: each source row once, each slot once, without padding. */
export interface NativeStats {
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Slots written (dispatch) or read. */
  readonly rows: number;
  readonly nanoseconds: number;
  /** Nanoseconds on the clock of process.hrtime when it began; 0 if unknown. */
  readonly started: number;
}

export interface NativeContextOptions {
  /** Threads of an exchange, 1..1024; 0, the default, is one per processor that the process may use. */
  readonly threads?: number;
  /** Exchanges that write at least this many bytes bypass the caches; 0, the default, is the last-level cache's size. */
  readonly nonTemporalBytes?: number;
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
   * Idempotent. Calls in flight finish and settle; then the threads end and the plans of the context are freed. A context
   * that is never closed is freed by the garbage collector, or with its environment.
   */
  close(): void;
}

/** Options of a plan, for every native backend. */
export interface NativePlanOptions {
  readonly ranksPerNode: number;
  readonly strategy: Strategy;
  /** Partial sums of a hierarchical combine. Default payload. */
  readonly partial?: PartialDtype;
  /** Order of additions of a hierarchical combine. Default node. */
  readonly sum?: SumOrder;
}

export interface NativePlanDesc extends NativePlanOptions {
  /** One shard per rank. They are copied and checked; later changes of these bytes have no effect. */
  readonly shards: readonly Memory[];
}

/**
 * An uploaded plan. Asynchronous calls run in order on a thread of the context, never on a thread of libuv. Synchronous
 * calls run on the calling thread, as soon as the exchange in flight has ended.
 *
 * Arguments are checked before any buffer is touched. Errors about JavaScript values are thrown by both kinds of calls.
 * Errors about sizes, overlap and dtypes are thrown by synchronous calls, and reject the promise of asynchronous ones.
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
  combineGradient(call: CombineGradientCall): Promise<NativeStats>;
  combineGradientSync(call: CombineGradientCall): NativeStats;
  /** Idempotent. What is in flight finishes and settles. */
  close(): void;
}

/** One rank's rows, as quantizeRows of fp8.ts takes them. */
export interface NativeFp8Call extends Fp8Rows {
  readonly values: Memory;
  readonly codes: Memory;
  readonly scales: Memory;
}

/** One rank's tokens, as gateTokens of gating.ts takes them. */
export interface NativeGateCall extends GateSpec, GateBuffers<Memory> {
  readonly tokens: number;
}

export interface NativeGateBackwardCall extends GateSpec, GateBackwardBuffers<Memory> {
  readonly tokens: number;
}

/** Work on rows with the context's threads; waits for the exchange in flight. Errors carry `code`. */
export interface NativeRows {
  fp8Quantize(context: NativeContext, call: NativeFp8Call): void;
  fp8Dequantize(context: NativeContext, call: NativeFp8Call): void;
  gate(context: NativeContext, call: NativeGateCall): void;
  gateBackward(context: NativeContext, call: NativeGateBackwardCall): void;
}
