// Planning on the device in the native addon.

import type { Memory } from '../../backends/types.ts';

/** Bounds that fix the layout of plan buffers. */
export interface NativePlanLimits {
  /** Of a rank. */
  readonly maxTokens: number;
  /** Slots at or beyond it behave as dropped when executed; 0, the default: no bound. */
  readonly maxRecvRows?: number;
}

/** Plans on the GPUs of a context. */
export interface NativeDevicePlanner {
  /** Bytes of one rank's plan buffer, device memory aligned to 256 bytes. */
  readonly bufferBytes: number;
  close(): void;
}

export type IdDtype = 'i8' | 'u8' | 'i16' | 'u16' | 'i32' | 'u32' | 'i64' | 'u64';

/** One rank's top-k expert ids in device memory. */
export interface NativeDeviceIds {
  /** [tokens, topk]. */
  readonly ids: Memory;
  readonly dtype: IdDtype;
  readonly tokens: number;
  readonly topk: number;
}

/** Addresses in a plan buffer, u32 each. */
export interface NativePlanView {
  readonly localInstances: number;
  /** [localInstances], clipped to maxRecvRows. */
  readonly expertCounts: bigint;
  /** [localInstances + 1], clipped to maxRecvRows. */
  readonly expertOffsets: bigint;
  /** [1]: rows of the receive buffer, not clipped. */
  readonly recvRows: bigint;
  /** [1]: rows at or beyond maxRecvRows. */
  readonly overflowRows: bigint;
}

/** A plan in plan buffers. Planning is enqueued; `recvRows` and `shard` wait for it and throw errors about the ids. */
export interface NativeBufferedPlan {
  describe(rank: number): NativePlanView;
  recvRows(rank: number): number;
  shard(rank: number): Uint8Array;
  close(): void;
}
