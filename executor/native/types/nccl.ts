// The `nccl` backend in the native addon: groups of processes and their plans.

import type {
  CombineCall,
  CombineGradientCall,
  DeviceIds,
  DispatchCall,
  Memory,
  PlanView,
  WeightGradientCall,
} from '../../backends/types.ts';
import type { NativeCudaContext } from './cuda.ts';
import type { NativePlanLimits } from './devicePlanning.ts';
import type { NativePlanOptions, NativeStats } from './host.ts';
import type { NativePlannerOptions } from './planning.ts';

export interface NativeNcclGroupDesc {
  readonly ranks: number;
  readonly rank: number;
  /** [ranks]: ranks with the same number are on one machine and can access each other's device memory. */
  readonly machines: Uint32Array;
  /** Name of the shared memory of this machine's mailbox; empty for a rank that is alone on its machine. */
  readonly mailbox: string;
  /** From ncclUniqueId, of one rank. */
  readonly id: Uint8Array;
  /** Thread blocks that NCCL may use; 0: NCCL decides. */
  readonly maxCtas: number;
  /** Minimum number of bytes for one peer in one round; identical on all ranks. */
  readonly roundBytes: number;
  readonly deadlineMs: number;
}

export interface NativeNcclPlanDesc extends NativePlanOptions {
  readonly shard: Memory;
  /** [ranks]: rail group of each rank, for a hierarchical plan. */
  readonly groups?: Uint16Array;
  /** [ranks + 1]: first instance of each rank. */
  readonly firstInstance: Uint32Array;
  readonly sliceRows: number;
  /**
   * The most rows that any rank sends to one rank of another machine: entries, and forwarded rows. Identical on all ranks.
   */
  readonly mostEntries: number;
  readonly mostForwarded: number;
  /** Rows for which memory is reserved; 0: none. */
  readonly rowBytes: number;
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
  /** NCCL groups of sends and receives. */
  readonly rounds: number;
  readonly slices: number;
  /** Of the first exchange along a plan made on the device across machines; else 0, as is the next one. */
  readonly readbackBytes: number;
  readonly readbackNs: number;
  /** The exchange was enqueued on the caller's stream. */
  readonly enqueued: boolean;
  /** Only if the call asked for details, as are the next three. */
  readonly packNs?: number;
  readonly packHiddenNs?: number;
  readonly wireNs?: number;
  readonly peers?: NativeNcclPeers;
}

/** Bytes of device memory in addition to the caller's buffers. */
export interface NativeNcclBytes {
  readonly tables: number;
  readonly dispatch: number;
  readonly combine: number;
  /** Exchanges of the plan are enqueued on the caller's stream. */
  readonly enqueues: boolean;
}

/**
 * All calls run on a thread of the group, in order. `number` and `digest` are those of the collective call, identical on
 * all ranks. Errors carry `code`.
 */
export interface NativeNcclGroup {
  /** Collective: makes the communicator. */
  open(): Promise<void>;
  /** [ranks, bytes]. */
  allGather(number: number, digest: bigint, own: Memory): Promise<Uint8Array>;
  /** Maps device memory into the other ranks of this machine. */
  register(buffers: readonly Memory[]): Promise<void>;
  /** Lets the other ranks of this machine unmap device memory. */
  deregister(buffers: readonly Memory[]): Promise<void>;
  /** Rejects with what kernels have recorded until now. */
  check(): Promise<void>;
  /** Ends the call in progress and all later ones with this reason. */
  abort(why: string): void;
  /** Calls in flight settle first. */
  close(): Promise<void>;
}

/** The exchanges of a plan of one rank. */
export interface NativeNcclExchanges {
  bytes(rowBytes: number): NativeNcclBytes;
  dispatch(number: number, digest: bigint, call: DispatchCall, detailed: boolean): Promise<NativeNcclReport>;
  combine(number: number, digest: bigint, call: CombineCall, detailed: boolean): Promise<NativeNcclReport>;
  weightGradient(
    number: number,
    digest: bigint,
    call: WeightGradientCall,
    detailed: boolean,
  ): Promise<NativeNcclReport>;
  combineGradient(
    number: number,
    digest: bigint,
    call: CombineGradientCall,
    detailed: boolean,
  ): Promise<NativeNcclReport>;
  close(): Promise<void>;
}

export interface NativeNcclPlan extends NativeNcclExchanges {
  /** Collective. */
  open(number: number, digest: bigint): Promise<void>;
}

/** Plans the local rank on its device. */
export interface NativeNcclPlanner {
  /** Bytes of the plan buffer, device memory aligned to 256 bytes. */
  readonly bufferBytes: number;
  /** Collective: compares options and limits. */
  open(number: number, digest: bigint): Promise<void>;
  close(): Promise<void>;
}

/** The local rank's plan in a plan buffer; `recvRows` and `shard` wait for planning and throw errors about the ids. */
export interface NativeNcclBufferedPlan extends NativeNcclExchanges {
  /** Collective if ids were given: enqueues planning. */
  open(number: number, digest: bigint): Promise<void>;
  describe(): PlanView;
  recvRows(): Promise<number>;
  shard(): Promise<Uint8Array>;
}

/** Where NCCL is, or why it cannot be used. `version` is 10000 x major + 100 x minor + patch. */
export type NativeNcclLibrary =
  | { readonly path: string; readonly version: number; readonly reason?: undefined }
  | { readonly reason: string; readonly path?: undefined; readonly version?: undefined };

export interface NativeNccl {
  readonly NcclGroup: new (context: NativeCudaContext, desc: NativeNcclGroupDesc) => NativeNcclGroup;
  readonly NcclPlan: new (group: NativeNcclGroup, desc: NativeNcclPlanDesc) => NativeNcclPlan;
  readonly NcclPlanner: new (
    group: NativeNcclGroup,
    options: NativePlannerOptions,
    limits: NativePlanLimits,
  ) => NativeNcclPlanner;
  /** Without ids: the plan buffer holds a plan already. */
  readonly NcclBufferedPlan: new (
    planner: NativeNcclPlanner,
    buffer: Memory,
    ids: DeviceIds | undefined,
  ) => NativeNcclBufferedPlan;
  /** Opens NCCL, once for the process: `path`, FUSCO_NCCL_PATH, or libnccl.so.2. */
  ncclLibrary(path?: string): NativeNcclLibrary;
  /** 128 bytes that all ranks of a new group need. */
  ncclUniqueId(): Uint8Array;
}
