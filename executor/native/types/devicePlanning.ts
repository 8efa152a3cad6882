// Planning on the device in the native addon.

import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  PlanView,
  WeightGradientCall,
} from '../../backends/types.ts';
import type { CudaPath, NativeCudaStats } from './cuda.ts';

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

/** A plan in plan buffers. Planning is enqueued; `recvRows` and `shard` wait for it and throw errors about the ids. */
export interface NativeBufferedPlan {
  describe(rank: number): PlanView;
  recvRows(rank: number): number;
  shard(rank: number): Uint8Array;
  dispatch(path: CudaPath, call: DispatchCall): NativeCudaStats;
  combine(call: CombineCall): NativeCudaStats;
  weightGradient(call: WeightGradientCall): NativeCudaStats;
  combineGradient(call: CombineGradientCall): NativeCudaStats;
  close(): void;
}
