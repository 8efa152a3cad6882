// The `cuda` backend in the native addon: devices, contexts, plans, events, graphs, and work on rows.

import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  Memory,
  WeightGradientCall,
} from '../../backends/types.ts';
import type {
  NativeFp8Call,
  NativeGateBackwardCall,
  NativeGateCall,
  NativePlanDesc,
  NativeStats,
} from './host.ts';

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
  /** Throws what kernels have recorded until now. */
  check(): void;
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

/** The same on the stream of a rank, whose device can access the memory; enqueues. Errors carry `code` and may carry `rank`. */
export interface NativeCudaRows {
  cudaFp8Quantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaFp8Dequantize(context: NativeCudaContext, rank: number, call: NativeFp8Call): void;
  cudaGate(context: NativeCudaContext, rank: number, call: NativeGateCall): void;
  cudaGateBackward(context: NativeCudaContext, rank: number, call: NativeGateBackwardCall): void;
}
