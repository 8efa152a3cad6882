// The addon of a checkout's benches and GPU tests: everything that the published addon exports, and the baselines that
// fused exchanges are measured against. It is built by `npm run build:native` in a checkout and is not published.

import type { CombineCall, DispatchCall } from '../backends/types.ts';
import { type Addon, type AddonResult, loadFirst, useAddon } from './addon.ts';
import type {
  NativeContext,
  NativeCudaContext,
  NativeDevicePlan,
  NativeNcclPlan,
  NativePlan,
  NativeStats,
} from './types.ts';

/** The unfused pipeline, with the same threads and copy routine. Its buffers are allocated once. */
export interface NativeUnfused {
  /** Packs by destination, exchanges in blocks, unpacks into expert order. One per-token payload. */
  dispatchSync(call: DispatchCall): NativeStats;
  /** Permutes back, exchanges back, adds on the token's rank. */
  combineSync(call: CombineCall): NativeStats;
  close(): void;
}

/** The same on one device; enqueues. */
export interface NativeCudaUnfused {
  dispatch(call: DispatchCall): void;
  combine(call: CombineCall): void;
  close(): void;
}

/** The same over the communicator of a plan's group. Only for flat plans and ranks that are alone on their machines. */
export interface NativeNcclUnfused {
  dispatch(number: number, digest: bigint, call: DispatchCall): Promise<NativeStats>;
  combine(number: number, digest: bigint, call: CombineCall): Promise<NativeStats>;
  /** Must be called before the plan is closed. */
  close(): Promise<void>;
}

/**
 * `fill` copies one cached block to the whole destination, with stores that bypass the caches, to measure writes alone.
 */
export type CopyVariant = 'memcpy' | 'nonTemporal' | 'fill';

export interface BenchAddon extends Addon {
  readonly Unfused: new (plan: NativePlan, rowBytes: number) => NativeUnfused;
  /** `rowBytes` is a multiple of 16. */
  readonly CudaUnfused: new (
    plan: NativeDevicePlan,
    rowBytes: number,
  ) => NativeCudaUnfused;
  /** `rowBytes` is a multiple of 16. */
  readonly NcclUnfused: new (
    plan: NativeNcclPlan,
    rowBytes: number,
  ) => NativeNcclUnfused;
  /** Nanoseconds to copy `bytes` bytes between two internal buffers with the context's threads; best of `runs`. */
  benchCopy(context: NativeContext, variant: CopyVariant, bytes: number, runs: number): number;
  /** Nanoseconds of counting, offsets and slots for these destination instances; best of `runs`. */
  benchSlots(instances: Uint16Array, instanceCount: number, unrolled: boolean, runs: number): number;
  /** Keeps the rank's stream busy for this time, at most 10 s; enqueues. */
  cudaSpin(context: NativeCudaContext, rank: number, nanoseconds: number): void;
  /** Occupies all SMs of the rank's device but `smsLeft` for this time, at most 10 s; enqueues. */
  cudaOccupy(context: NativeCudaContext, rank: number, smsLeft: number, nanoseconds: number): void;
  /**
   * Whether one kernel makes a plan whose tables fit the shared memory of a block (1, at first) or one for each pass does
   * (0), for all planners of this process.
   */
  cudaSmallPlans(areMade: number): void;
}

let loaded: AddonResult<BenchAddon> | undefined;

/** Loads the addon once; findAddon() returns the same from then on. It is absent outside of a checkout. */
export function findBenchAddon(): AddonResult<BenchAddon> {
  if (loaded === undefined) {
    loaded = loadFirst<BenchAddon>(['#bench-addon']) ?? {
      addon: undefined,
      reason: 'the addon of the benches is not there; it needs a checkout: npm run build:native',
    };
    if (loaded.addon !== undefined) useAddon(loaded.addon);
  }
  return loaded;
}
