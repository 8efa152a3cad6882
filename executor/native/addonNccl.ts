// What the native addon exports for groups of one process per rank; part of addon.ts.

import type { PartialDtype, Strategy } from '../../planner/spec.ts';
import type { CombineCall, DispatchCall, Memory, WeightGradientCall } from '../backends/types.ts';
import type { NativeCudaContext, NativeStats } from './addon.ts';

export interface NativeNcclGroupDesc {
  readonly ranks: number;
  readonly rank: number;
  /** [ranks]: ranks with one number share a host and reach each other's device memory. */
  readonly hosts: Uint32Array;
  /** Name of shared memory for the ranks of this host; empty for a rank that is alone on its host. */
  readonly board: string;
  /** From ncclUniqueId, of one rank. */
  readonly id: Uint8Array;
  /** Thread blocks that NCCL may use; 0 as it likes. */
  readonly maxCtas: number;
  /** Least bytes for one peer in one step; alike on all ranks. */
  readonly stepBytes: number;
  readonly deadlineMs: number;
}

export interface NativeNcclPlanDesc {
  readonly shard: Memory;
  readonly ranksPerNode: number;
  readonly strategy: Strategy;
  readonly partial?: PartialDtype;
  /** Communication groups of a hierarchical plan. */
  readonly groups?: Uint16Array;
  /** [ranks + 1]: first instance of each rank. */
  readonly firstInstance: Uint32Array;
  readonly sliceRows: number;
  /** The most rows that any rank sends to one rank of another host: entries, forwarded rows. Alike on all ranks. */
  readonly mostEntries: number;
  readonly mostForwarded: number;
}

export interface NativeNcclPeers {
  readonly sentBytes: Float64Array;
  readonly receivedBytes: Float64Array;
  readonly waitNs: Float64Array;
  readonly wireNs: Float64Array;
}

export interface NativeNcclReport extends NativeStats {
  readonly wireSent: number;
  readonly wireReceived: number;
  readonly directBytes: number;
  readonly readyNs: number;
  readonly steps: number;
  readonly slices: number;
  /** These only where the call asked for details. */
  readonly packNs?: number;
  readonly packHiddenNs?: number;
  readonly wireNs?: number;
  readonly peers?: NativeNcclPeers;
}

/** Bytes of device memory beside the caller's buffers. */
export interface NativeNcclBytes {
  readonly tables: number;
  readonly dispatch: number;
  readonly combine: number;
}

/** All calls run on the group's own thread, in order. Errors carry `code`. */
export interface NativeNcclGroup {
  /** Collective: makes the communicator. */
  open(): Promise<void>;
  /** [ranks, bytes], by ncclAllGather. */
  allGather(step: number, digest: bigint, own: Memory): Promise<Uint8Array>;
  /** Ends the call in progress and all later ones with this reason. */
  abort(why: string): void;
  /** After what is in flight. */
  close(): Promise<void>;
}

export interface NativeNcclPlan {
  /** Collective. */
  open(step: number, digest: bigint): Promise<void>;
  bytes(rowBytes: number): NativeNcclBytes;
  dispatch(step: number, digest: bigint, call: DispatchCall, detailed: boolean): Promise<NativeNcclReport>;
  combine(step: number, digest: bigint, call: CombineCall, detailed: boolean): Promise<NativeNcclReport>;
  weightGradient(
    step: number,
    digest: bigint,
    call: WeightGradientCall,
    detailed: boolean,
  ): Promise<NativeNcclReport>;
  /** The pipeline that fusion replaces, for benches: pack, exchange in blocks, unpack. */
  unfusedDispatch(step: number, digest: bigint, call: DispatchCall, rowBytes: number): Promise<NativeStats>;
  unfusedCombine(step: number, digest: bigint, call: CombineCall, rowBytes: number): Promise<NativeStats>;
  close(): Promise<void>;
}

/** Where NCCL is, or why it is not there. `version` is 10000 x major + 100 x minor + patch. */
export type NativeNcclLibrary =
  | { readonly path: string; readonly version: number; readonly reason?: undefined }
  | { readonly reason: string; readonly path?: undefined; readonly version?: undefined };

export interface NativeNccl {
  readonly NcclGroup: new (context: NativeCudaContext, desc: NativeNcclGroupDesc) => NativeNcclGroup;
  readonly NcclPlan: new (group: NativeNcclGroup, desc: NativeNcclPlanDesc) => NativeNcclPlan;
  /** Opens NCCL, once for the process: `path`, FUSCO_NCCL_PATH, or libnccl.so.2. */
  ncclLibrary(path?: string): NativeNcclLibrary;
  /** 128 bytes that all ranks of a new group need. */
  ncclUniqueId(): Uint8Array;
}
