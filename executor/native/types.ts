// Everything that the native addon exports, typed in one place. test/native/addon.test.ts reads this file and compares
// its names and numbers of parameters with those that the addon reports.

import type { Decision } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { Balance, Dtype, PartialDtype, ReplicaRule, Strategy, SumOrder } from '../../planner/spec.ts';
import type {
  CombineCall,
  CombineGradientCall,
  DeviceIds,
  DispatchCall,
  Memory,
  PlanView,
  WeightGradientCall,
} from '../backends/types.ts';
import type { Fp8Rows } from '../training/fp8.ts';
import type { GateBackwardBuffers, GateBuffers, GateSpec } from '../training/gating.ts';

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

/** Options of a plan; absent ones have the defaults of fusco_plan_options. */
export interface NativePlannerOptions {
  readonly experts: number;
  readonly ranks: number;
  readonly ranksPerNode?: number;
  readonly topk: number;
  readonly hidden?: number;
  readonly dtype: Dtype;
  readonly combineDtype?: Dtype;
  readonly align?: number;
  readonly capacity?: number;
  /** Not `auto` (E_OPTION), which only the Wasm planner decides. */
  readonly strategy?: Strategy | 'auto';
  readonly balance?: Balance;
  readonly partial?: PartialDtype;
  readonly sum?: SumOrder;
  readonly replicas?: ReplicaRule;
  readonly sliceRows?: number;
  readonly tileTokens?: number;
  readonly maxRows?: number;
  /** [experts + 1]: where the ranks of each expert start in `placementRanks`; absent: contiguous blocks. */
  readonly placementOffsets?: Uint32Array;
  readonly placementRanks?: Uint16Array;
}

export interface NativePlannerInfo {
  readonly instances: number;
  /** Counts of a rank in the first gather. */
  readonly counts: number;
  /** In the second gather; 0: none is needed. */
  readonly secondCounts: number;
  /** 32 bytes that are identical on ranks with the same options. */
  readonly optionsDigest: Uint8Array;
}

/** Plans one rank at a time on the CPU. `counts` are those of all ranks, in rank order. Errors carry `code`. */
export interface NativePlanner {
  describe(): NativePlannerInfo;
  count(rank: number, table: RoutingTable): Uint32Array;
  countAgain(rank: number, table: RoutingTable, counts: Uint32Array): Uint32Array;
  decide(counts: Uint32Array, secondCounts: Uint32Array | undefined): Omit<Decision, 'reason'>;
  shard(
    rank: number,
    table: RoutingTable,
    counts: Uint32Array,
    secondCounts: Uint32Array | undefined,
  ): Uint8Array;
  close(): void;
}

/** A plan file that native code has read and verified. Errors carry `code` and may carry `path`. */
export interface NativePlanFile {
  /** 32 bytes. */
  planId(): Uint8Array;
  shard(rank: number): Uint8Array;
  /** Plans the routing again and compares. */
  checkRouting(tables: readonly RoutingTable[]): void;
  /** Writes the plan again. `reason`: why `auto` chose the strategy, or empty. */
  write(path: string, reason: string): void;
  close(): void;
}

/** Where a library puts rows, and how it adds them; native/include/fusco_audit.h describes the fields. */
export interface AuditLayout {
  readonly per: 'entry' | 'token';
  readonly blocks: 'expert' | 'source' | 'one';
  readonly order: 'sorted' | 'any';
  /** Rows; 0: the align of the plan. */
  readonly align: number;
  readonly padding: 'zero' | 'any';
  readonly tail: 'zero' | 'any';
  /** Rows of every block; 0: as many as it needs. */
  readonly slots: number | 'equal';
  readonly accumulate: 'f32' | 'payload';
  readonly partials: number;
}

/** Rows that were dispatched. They stay referenced, and must not change, until the audit is closed or gets others. */
export interface NativeAuditInput {
  readonly dtype: Dtype | 'bytes';
  readonly rowBytes: number;
  /** [ranks] */
  readonly rows: readonly Memory[];
  /** [ranks]: those of the step before. */
  readonly previous?: readonly Memory[] | undefined;
}

/** What is wrong with a row; docs/audit.md describes the kinds. */
export type AuditKind =
  | 'other-token'
  | 'zeros'
  | 'stale'
  | 'partial'
  | 'rounding'
  | 'nan'
  | 'values'
  | 'padding'
  | 'missing'
  | 'extra'
  | 'duplicate'
  | 'term-missing'
  | 'term-twice'
  | 'unweighted'
  | 'scaled';

/** A row that is wrong. -1: none, or unknown. */
export interface NativeDifference {
  readonly kind: AuditKind;
  /** Slot of a receive buffer, or token of a combine. */
  readonly row: number;
  readonly source: number;
  readonly token: number;
  readonly k: number;
  readonly found: 'unknown' | 'zeros' | 'token' | 'previous' | 'nothing';
  readonly foundSource: number;
  readonly foundToken: number;
  /** Significant bits that explain `rounding`; 0 otherwise. */
  readonly precision: number;
  /** Of `scaled`; 0 otherwise. */
  readonly factor: number;
  readonly firstByte: number;
  readonly endByte: number;
}

/** What an audit of one rank found. */
export interface NativeAuditReport {
  readonly rows: number;
  readonly wrong: number;
  readonly counts: Readonly<Partial<Record<AuditKind, number>>>;
  /** The first `room` of them. */
  readonly differences: readonly NativeDifference[];
  /** Combine: orders of addition that give the bits of all rows within the bound. */
  readonly orders: readonly string[];
  readonly reordered: number;
  readonly largestError: number;
}

export interface NativeAudit {
  rows(rank: number): number;
  setInput(input: NativeAuditInput): void;
  /** [rows, 3]: source rank, token, k. */
  origins(rank: number, rows: number): Int32Array;
  dispatch(call: {
    readonly rank: number;
    readonly received: Memory;
    readonly room: number;
  }): NativeAuditReport;
  combine(call: {
    readonly rank: number;
    readonly combined: Memory;
    readonly weights?: Memory | undefined;
    readonly outputs?: readonly Memory[] | undefined;
    readonly order?: string | undefined;
    readonly room: number;
  }): NativeAuditReport;
  close(): void;
}

export interface NativeCudaDevice {
  readonly name: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly sms: number;
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
 * Devices, streams and memory of one process; 1 to 64 ranks, any number of them on one device. Methods that use a rank's
 * stream enqueue and return. Addresses are BigInts. Errors carry `code`.
 */
export interface NativeCudaContext {
  alloc(rank: number, bytes: number): bigint;
  free(address: bigint): void;
  /** Between host and device memory, in any direction, on the rank's stream. */
  copy(rank: number, to: Memory, from: Memory, bytes: number): void;
  /** `value`: 0..255. */
  fill(rank: number, address: bigint, value: number, bytes: number): void;
  stream(rank: number): bigint;
  /** A cudaStream_t of another library; 0n restores the stream of the context. */
  setStream(rank: number, stream: bigint): void;
  /** Maximum number of SMs of each device that later exchanges may use; 0, the default: all. */
  limitSms(count: number): void;
  synchronize(): void;
  captureBegin(): void;
  close(): void;
}

/** The largest plan that a device plan can hold; at least the first one. */
export interface NativeCudaCapacity {
  readonly tokens?: number;
  readonly topk?: number;
  readonly instances?: number;
}

export interface NativeCudaStats extends Omit<NativeStats, 'started'> {
  readonly path: 'direct' | 'once';
  /** Payloads that the TMA moved. */
  readonly tmaPayloads: number;
  /** SMs of each device that the exchange may use. */
  readonly sms: number;
}

export type CudaPath = 'auto' | 'direct' | 'once';

export interface NativeDevicePlan {
  /** Bytes of device memory. */
  readonly bytes: number;
  upload(desc: NativePlanDesc): void;
  dispatch(path: CudaPath, call: DispatchCall): NativeCudaStats;
  combine(call: CombineCall): NativeCudaStats;
  weightGradient(call: WeightGradientCall): NativeCudaStats;
  combineGradient(call: CombineGradientCall): NativeCudaStats;
  close(): void;
}

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

export interface NativeCudaEvent {
  /** On the stream of the event's rank. */
  record(): void;
  /** The stream of `rank` waits for the event. */
  wait(rank: number): void;
  /** Whether everything before the record is done. */
  query(): boolean;
  synchronize(): void;
  /** Milliseconds from this event to another. */
  elapsed(end: NativeCudaEvent): number;
  close(): void;
}

export interface NativeCudaGraph {
  launch(): void;
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

/** The same on the stream of a rank, whose device can access the memory; enqueues. Errors carry `code` and may carry `rank`. */
export interface NativeCudaRows {
  cudaFp8Quantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaFp8Dequantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaGate(context: NativeCudaContext, rank: number, call: NativeGateCall): void;
  cudaGateBackward(context: NativeCudaContext, rank: number, call: NativeGateBackwardCall): void;
}

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
  /** [ranks, bytes], by ncclAllGather. */
  allGather(number: number, digest: bigint, own: Memory): Promise<Uint8Array>;
  /** Maps device memory into the other ranks of this machine. */
  register(buffers: readonly Memory[]): Promise<void>;
  /** Lets the other ranks of this machine unmap device memory. */
  deregister(buffers: readonly Memory[]): Promise<void>;
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

export interface Addon extends NativeRows, NativeCudaRows, NativeNccl {
  readonly version: string;
  /**
   * Number of parameters of every method, null for properties: by class, and of the functions under `functions`. Made from
   * the one description of the methods in native/node/methods.cc.
   */
  readonly signatures: Readonly<Record<string, Readonly<Record<string, number | null>>>>;
  readonly Context: new (options: NativeContextOptions) => NativeContext;
  readonly Plan: new (context: NativeContext, desc: NativePlanDesc) => NativePlan;
  /** Of a path, or of the bytes of a file. */
  readonly PlanFile: new (
    file: string | Memory,
  ) => NativePlanFile;
  readonly Planner: new (options: NativePlannerOptions) => NativePlanner;
  readonly Audit: new (file: NativePlanFile, layout: AuditLayout) => NativeAudit;
  /** The known layouts by name. */
  auditLayouts(): Readonly<Record<string, AuditLayout>>;
  /** Names of the orders of addition that a combine is compared with. */
  auditOrders(): readonly string[];
  readonly CudaContext: new (ranks: number, devices: readonly number[] | undefined) => NativeCudaContext;
  readonly DevicePlan: new (
    context: NativeCudaContext,
    capacity: NativeCudaCapacity,
    desc: NativePlanDesc,
  ) => NativeDevicePlan;
  readonly DevicePlanner: new (
    context: NativeCudaContext,
    options: NativePlannerOptions,
    limits: NativePlanLimits,
  ) => NativeDevicePlanner;
  /** Plans `ids` into the plan buffers, one of each per rank; without ids: the buffers hold a plan already. */
  readonly BufferedPlan: new (
    planner: NativeDevicePlanner,
    buffers: readonly Memory[],
    ids: readonly DeviceIds[] | undefined,
  ) => NativeBufferedPlan;
  readonly CudaEvent: new (context: NativeCudaContext, rank: number) => NativeCudaEvent;
  /** Ends the context's capture. */
  readonly CudaGraph: new (
    context: NativeCudaContext,
  ) => NativeCudaGraph;
  cudaDevices(): NativeCudaDevices;
  /** Address of a buffer, for other libraries in this process; valid as long as the buffer is referenced. */
  addressOf(memory: Memory): bigint;
}
