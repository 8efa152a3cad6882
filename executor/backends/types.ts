// The types of calls, reports and backends.

import type { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Dtype, PlanSpec, Strategy } from '../../planner/spec.ts';
import type { Memory } from '../memory.ts';
import type { FloatDtype } from '../numeric.ts';
import type { GateBackwardBuffers, GateBuffers, GateOptions } from '../training/gating.ts';

export type { ExternalMemory, Memory } from '../memory.ts';

/**
 * `reference` is TypeScript; `host` is native threads on this machine's memory; `cuda` is one process's GPUs; `nccl` is
 * one process for each rank.
 */
export type BackendName = 'reference' | 'host' | 'cuda' | 'nccl';

/**
 * One array that a dispatch moves. Shapes are per local rank, in the order of `group.localRanks`.
 *
 * `per: 'token'` (the default): from [tokens, rowBytes], to [recvRows, rowBytes].
 * `per: 'entry'`: from [tokens, topk, rowBytes], to [recvRows, rowBytes]; for values that belong to a (token, k),
 * such as its weight.
 */
export interface Payload {
  /** Bytes of one row, 1..16 MiB: elements times the bytes of one. */
  readonly rowBytes: number;
  /** Rows to send, one buffer per local rank: [tokens, rowBytes]. */
  readonly from: readonly Memory[];
  /** Received rows, one buffer per local rank: [recvRows, rowBytes], by expert; padding rows are set to zero. */
  readonly to: readonly Memory[];
  /** Whether a row belongs to a token (the default) or to an entry (token, k). */
  readonly per?: 'token' | 'entry';
  /** Needed with `scale`, which multiplies elements. */
  readonly dtype?: Dtype;
}

export interface DispatchCall {
  /** Arrays that are moved together, such as rows, their scales and their weights; at least one. */
  readonly payloads: readonly Payload[];
  /** i32 [recvRows, 3] per local rank: (source rank, token, k) of every row; -1 in padding. */
  readonly origins?: readonly Memory[];
  /**
   * f32 [tokens, topk] per local rank. Each copy of a per-token payload is multiplied by its entry's weight in
   * float32 and rounded once to the payload's dtype: the gradient of a weighted combine.
   */
  readonly scale?: readonly Memory[];
}

export interface CombineCall {
  /** Of the rows: f32, f16 or bf16 (16-bit values in a Uint16Array). Sums are made in float32 and rounded once. */
  readonly dtype: FloatDtype;
  /** Bytes of one row: elements times the bytes of one. */
  readonly rowBytes: number;
  /** [recvRows, rowBytes] per local rank; padding rows are never read. */
  readonly from: readonly Memory[];
  /** [tokens, rowBytes] per local rank; a token without entries becomes +0. */
  readonly to: readonly Memory[];
  /** f32 [tokens, topk] per local rank; without it rows are added unweighted. */
  readonly weights?: readonly Memory[];
}

/** The gradient of the top-k weights: the dot product of dOut[t] and y[slot(t, k)]. */
export interface WeightGradientCall {
  /** Of the rows: f32, f16 or bf16. */
  readonly dtype: FloatDtype;
  /** Bytes of one row: elements times the bytes of one. */
  readonly rowBytes: number;
  /** dOut: [tokens, rowBytes] per local rank. */
  readonly outputGradient: readonly Memory[];
  /** y: [recvRows, rowBytes] per local rank. */
  readonly from: readonly Memory[];
  /** f32 [tokens, topk] per local rank; 0 for masked and dropped entries. */
  readonly to: readonly Memory[];
}

/** Both gradients of a weighted combine: of the rows that it read, and of its weights. */
export interface CombineGradientCall {
  readonly dtype: FloatDtype;
  readonly rowBytes: number;
  /** dOut: [tokens, rowBytes] per local rank. */
  readonly outputGradient: readonly Memory[];
  /** y, which combine read: [recvRows, rowBytes] per local rank. */
  readonly from: readonly Memory[];
  /** w, which combine was given: f32 [tokens, topk] per local rank. */
  readonly weights: readonly Memory[];
  /** [recvRows, rowBytes] per local rank: w[t, k] * dOut[t] in slot(t, k), as a dispatch with `scale` writes it. */
  readonly to: readonly Memory[];
  /** f32 [tokens, topk] per local rank, as WeightGradientCall has it; 0 for masked and dropped entries. */
  readonly weightsGradient: readonly Memory[];
  /** As in DispatchCall. */
  readonly origins?: readonly Memory[];
}

/** One peer of an exchange between processes. */
export interface PeerReport {
  readonly rank: number;
  /** Through NCCL. */
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** How much later than this rank it entered the call. Between machines: since the last report, as rank 0 saw it. */
  readonly waitNanoseconds: number;
  /** Time of the rounds that carried its rows; a round with several peers counts for each. */
  readonly wireNanoseconds: number;
}

/** How the rows of an exchange between processes were transferred. */
export interface WireReport {
  /** Bytes through NCCL. */
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** Bytes written to (dispatch) or read from (combine) the memory of ranks of this machine, including the local rank. */
  readonly directBytes: number;
  /** Rounds (NCCL groups), and sends in all of them. */
  readonly rounds: number;
  readonly slices: number;
  /** Time spent waiting for the ranks of this machine to enter the call. */
  readonly readyNanoseconds: number;
  /**
   * Of the first exchange along a plan that was made on the devices of several machines: bytes of the plan that the host
   * read back, and how long the call waited for them.
   */
  readonly readbackBytes?: number;
  readonly readbackNanoseconds?: number;
  /** With `stats`: packing on the device, the part of it that overlapped with rounds, and the time of the rounds. */
  readonly packNanoseconds?: number;
  readonly packHiddenNanoseconds?: number;
  readonly wireNanoseconds?: number;
  /** With `stats`: [ranks]. */
  readonly peers?: readonly PeerReport[];
}

/** Device memory that an exchange needs in addition to the caller's buffers, in bytes; kept for later exchanges. */
export interface BufferBytes {
  /** The tables of the plan. */
  readonly tables: number;
  /** A dispatch of one payload per token with rows of that many bytes. */
  readonly dispatch: number;
  readonly combine: number;
}

/** What an exchange did. Bytes count payload rows: each read once, each slot written once. */
export interface ExchangeReport {
  readonly backend: BackendName;
  readonly strategy: Strategy;
  readonly nanoseconds: number;
  /** When it began, in milliseconds on the clock of performance.now(); absent if unknown. */
  readonly startedAt?: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /**
   * `cuda` only: straight to every slot; or once to each rank of another device, which copies the row to its other slots
   * (for a combine, one partial sum per token and rank returns; for a combine gradient, one number per entry).
   */
  readonly path?: 'direct' | 'once';
  /** `cuda` only: SMs of each device that the exchange may use; see Cuda.limitSms. */
  readonly sms?: number;
  /** `cuda` and `nccl`: the call enqueued the exchange, and `nanoseconds` is the time that this took on the host. */
  readonly enqueued?: boolean;
  /** `nccl` only. */
  readonly wire?: WireReport;
}

/** The kinds of exchange, each with its call. */
export interface ExchangeCalls {
  dispatch: DispatchCall;
  combine: CombineCall;
  weightGradient: WeightGradientCall;
  combineGradient: CombineGradientCall;
}
export type ExchangeKind = keyof ExchangeCalls;

/** What a backend keeps for one plan. Sizes, dtypes and overlap of calls have been checked before. */
export interface PreparedPlan {
  run<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): Promise<ExchangeReport>;
  /** Absent if the backend allocates no buffers. */
  bufferBytes?(rowBytes: number): BufferBytes;
  close(): void;
}

/** Rows to or from fp8, as fp8.ts defines it. One number or buffer per local rank; none may overlap. */
export interface Fp8Call {
  /** Dtype of the values. */
  readonly dtype: FloatDtype;
  /** Elements of one row. */
  readonly hidden: number;
  /** Rows of every local rank. */
  readonly rows: readonly number[];
  /** [rows, hidden] in `dtype`: read by quantize, written by dequantize. */
  readonly values: readonly Memory[];
  /** u8 [rows, hidden]. */
  readonly codes: readonly Memory[];
  /** f32 [rows, ceil(hidden / 128)]. */
  readonly scales: readonly Memory[];
}

/** Top-k ids and weights of tokens, as gating.ts defines them. One number or buffer per local rank. */
export interface GateCall extends GateBuffers<readonly Memory[]> {
  /** Experts, topk and how weights are made; the same in the gate and in its gradient. */
  readonly options: GateOptions;
  /** Tokens of every local rank, in the order of `group.localRanks`. */
  readonly tokens: readonly number[];
}

/** The gradient of the logits. One number or buffer per local rank. */
export interface GateBackwardCall extends GateBackwardBuffers<readonly Memory[]> {
  /** Experts, topk and how weights are made; the same in the gate and in its gradient. */
  readonly options: GateOptions;
  /** Tokens of every local rank, in the order of `group.localRanks`. */
  readonly tokens: readonly number[];
}

/** The kinds of row work, each with its call. */
export interface RowWorkCalls {
  quantize: Fp8Call;
  dequantize: Fp8Call;
  gate: GateCall;
  gateBackward: GateBackwardCall;
}

/**
 * What a layer needs around its exchanges; the same bits on every backend. Calls have one buffer per local rank and have
 * been checked before. With device memory, a call is enqueued on the stream of each rank and settles immediately.
 */
export type RowWork = {
  readonly [Kind in keyof RowWorkCalls]: (call: RowWorkCalls[Kind]) => Promise<void>;
};

export type IdDtype = 'i8' | 'u8' | 'i16' | 'u16' | 'i32' | 'u32' | 'i64' | 'u64';

/** One rank's top-k expert ids in device memory, or, before they are copied there, in a typed array. */
export interface DeviceIds {
  /** [tokens, topk]. */
  readonly ids: Memory;
  readonly dtype: IdDtype;
  readonly tokens: number;
  readonly topk: number;
}

/** Addresses in a plan buffer, u32 each. */
export interface PlanView {
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

/** Expert ids of the local ranks, and the options and bounds of the plans made from them. */
export interface DevicePlanRequest {
  readonly spec: PlanSpec;
  /** [local ranks] */
  readonly ids: readonly DeviceIds[];
  /** Of a rank; the same on all ranks. */
  readonly maxTokens: number;
  /** Rows of a receive buffer; 0: no bound. The same on all ranks. */
  readonly maxRecvRows: number;
}

/** A plan that was made on the devices. Planning is enqueued; methods that return what it finds wait for it. */
export interface PreparedDevicePlan extends PreparedPlan {
  /** [local ranks]: rows of each receive buffer, not clipped. Throws E_ROUTING_*. */
  recvRows(): Promise<number[]>;
  /** [local ranks]: the bytes of the shards. Throws E_ROUTING_*. */
  shards(): Promise<Uint8Array[]>;
  /** Addresses of what grouped matrix products read. `local` counts the local ranks. */
  view(local: number): PlanView;
  /** Copies words of device memory to the host. Waits. */
  words(local: number, address: bigint, count: number): Uint32Array;
}

export interface Backend {
  readonly name: BackendName;
  /** Absent if the backend only exchanges. */
  readonly rowWork?: RowWork;
  /** Ranks of the group that live in this process; absent if all do. */
  readonly localRanks?: readonly number[];
  /** If ranks live in other processes: all ranks' bytes, the same number on each. `what` is compared first. */
  allGather?(what: string, own: Uint8Array): Promise<Uint8Array[]>;
  prepare(plan: VerifiedPlan): Promise<PreparedPlan>;
  /** Plans on the devices. Absent if there are none. Collective if ranks live in other processes. */
  planOnDevice?(request: DevicePlanRequest): Promise<PreparedDevicePlan>;
  /** If ranks live in other processes: maps device memory into them ahead of its first exchange, or lets them unmap it. */
  register?(buffers: readonly Memory[]): Promise<void>;
  deregister?(buffers: readonly Memory[]): Promise<void>;
  /** Throws what kernels have recorded until now, without waiting for them. Absent if there are no kernels. */
  check?(): Promise<void>;
  close(): void | Promise<void>;
}

/**
 * What the nccl backend needs from the service that connects the processes of a group; a rendezvous session is one. All
 * data is small. allGather, broadcast and agree are collective and must be called in the same order on all ranks, as must
 * the numbered calls of enter and announce.
 */
export interface Coordinator {
  readonly rank: number;
  readonly worldSize: number;
  /** Number of this rank among the ranks of its machine. */
  readonly localRank: number;
  /** Longest wait for other ranks, in milliseconds. */
  readonly deadlineMs: number;
  /** The error that ended the group, if one did; every call then rejects with it. */
  readonly failure: FuscoError | undefined;
  /** Calls the listener once, when the group fails. Returns a function that removes the listener. */
  onFailure(listener: (error: FuscoError) => void): () => void;
  /** Every rank gives some bytes, of any length, and gets those of all ranks in rank order. */
  allGather(bytes: Uint8Array): Promise<Uint8Array[]>;
  /** Every rank gets the bytes of rank 0. */
  broadcast(bytes: Uint8Array): Promise<Uint8Array>;
  /** Rejects with E_PEER_MISMATCH on every rank unless all give the same digest; `what` names it in the error. */
  agree(what: string, digest: Uint8Array): Promise<void>;
  /** Enters a numbered call; resolves when all ranks have entered it with the same digest. */
  enter(call: number, digest: Uint8Array): Promise<void>;
  /** Enters a numbered call without waiting. Throws the error of a failed group. */
  announce(call: number, digest: Uint8Array): void;
  /**
   * Reports that a numbered call did not finish within `waitedMs`. If some ranks have not entered it, the group fails,
   * and the result is the E_PEER_TIMEOUT that names them; else the result is undefined.
   */
  timedOut(call: number, waitedMs: number): Promise<FuscoError | undefined>;
  /** Waits long enough for a failure that has been sent to arrive. */
  settle(): Promise<void>;
  /** [ranks]: milliseconds, over all calls so far, by which each rank entered after the first one. */
  lateness(): Promise<readonly number[]>;
  close(): Promise<void>;
}
