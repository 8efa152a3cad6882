// The public classes of CUDA: contexts, events, graphs and device plans, over the addon. Calls on device memory enqueue and
// return.

import { checkKeys, FuscoError } from '../../../planner/errors.ts';
import { isVerified, type VerifiedPlan } from '../../../planner/plan.ts';
import type { Strategy } from '../../../planner/spec.ts';
import {
  type CudaPath,
  findAddon,
  type NativeCudaContext,
  type NativeCudaDevice,
  type NativeCudaEvent,
  type NativeCudaGraph,
  type NativeCudaStats,
  type NativeDevicePlan,
  needAddon,
} from '../../native/addon.ts';
import { attempt } from '../../native/errors.ts';
import { nativeOptions } from '../../native/planOptions.ts';
import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  ExchangeReport,
  ExternalMemory,
  Memory,
  WeightGradientCall,
} from '../types.ts';

export type CudaDevice = NativeCudaDevice;

/** Device memory of one rank; usable wherever a call takes memory. */
export interface DeviceBuffer extends ExternalMemory {
  readonly rank: number;
}

/** The GPUs of this machine, or the reason why none can be used. */
export function cudaDevices(): { readonly devices: readonly CudaDevice[]; readonly reason?: string } {
  const found = findAddon();
  if (found.addon === undefined) return { devices: [], reason: found.reason };
  const { addon } = found;
  return attempt(() => addon.cudaDevices());
}

/**
 * A context over this process's GPUs.
 *
 * @param ranks 1..64
 * @param devices device of every rank; default: blocks of ranks over all devices
 * @throws FuscoError E_BACKEND without the addon, a driver, a GPU or P2P; E_OPTION
 */
export function openCuda(ranks: number, devices?: readonly number[]): Cuda {
  const addon = needAddon('cuda');
  const native = attempt(() => new addon.CudaContext(ranks, devices));
  return new Cuda(ranks, native);
}

/** An object of the addon. It is freed by close() or at the end of a `using` block. */
abstract class Handle<Native extends { close(): void }> implements Disposable {
  protected readonly native: Native;

  constructor(native: Native) {
    this.native = native;
  }

  close(): void {
    this.native.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The addon's context of a Cuda. Backends use it; the package does not export it. */
export let nativeCuda: (cuda: Cuda) => NativeCudaContext;

/** Devices, streams, memory and device plans. Close it after all objects that were made with it. */
export class Cuda extends Handle<NativeCudaContext> {
  static {
    nativeCuda = (cuda) => cuda.native;
  }
  readonly ranks: number;

  /** For openCuda. */
  constructor(ranks: number, native: NativeCudaContext) {
    super(native);
    this.ranks = ranks;
  }

  /** Memory on a rank's device. Throws E_MEMORY with the requested bytes (value) and the free bytes (limit). */
  alloc(rank: number, bytes: number): DeviceBuffer {
    return { rank, bytes, address: attempt(() => this.native.alloc(rank, bytes)) };
  }

  /** Waits for the device. */
  free(buffer: DeviceBuffer): void {
    attempt(() => this.native.free(buffer.address));
  }

  /** Between host and device memory, in any direction, on the rank's stream. With host memory it may wait. */
  copy(rank: number, to: Memory, from: Memory, bytes: number): void {
    attempt(() => this.native.copy(rank, to, from, bytes));
  }

  fill(buffer: DeviceBuffer, value: number): void {
    attempt(() => this.native.fill(buffer.rank, buffer.address, value, buffer.bytes));
  }

  /** A rank's cudaStream_t. */
  stream(rank: number): bigint {
    return attempt(() => this.native.stream(rank));
  }

  /**
   * Makes a cudaStream_t of another library the rank's stream; 0n restores the stream of the context. Throws E_OPTION for
   * a stream of another device.
   */
  setStream(rank: number, stream: bigint): void {
    attempt(() => this.native.setStream(rank, stream));
  }

  /**
   * Number of SMs of each device that later exchanges may use; the rest is left to other kernels. 0, the default, is all
   * SMs, except that a combine between devices uses at most 16. A captured graph keeps the limit it was captured with.
   */
  limitSms(count: number): void {
    attempt(() => this.native.limitSms(count));
  }

  /**
   * Throws what kernels of exchanges have recorded until now, without waiting for them: E_PEER_TIMEOUT with the late ranks,
   * E_PEER_MISMATCH, or E_BACKEND if the device failed.
   */
  check(): void {
    attempt(() => this.native.check());
  }

  /** Waits for all ranks' streams. Throws E_BACKEND with the error that occurred on them. */
  synchronize(): void {
    attempt(() => this.native.synchronize());
  }

  event(rank: number): CudaEvent {
    const addon = findAddon().addon!;
    return new CudaEvent(attempt(() => new addon.CudaEvent(this.native, rank)));
  }

  /**
   * Uploads a plan to the device.
   *
   * @param capacity largest sizes of later plans that `upload` may store; at least the sizes of the first plan
   * @throws FuscoError E_UNVERIFIED, E_MEMORY, E_BACKEND
   */
  devicePlan(
    plan: VerifiedPlan,
    capacity: { tokens?: number; topk?: number; instances?: number } = {},
  ): DevicePlan {
    checkKeys('the capacity', capacity, ['tokens', 'topk', 'instances']);
    const addon = findAddon().addon!;
    const desc = describe(plan);
    const native = attempt(() => new addon.DevicePlan(this.native, capacity, desc));
    return new DevicePlan(plan, native);
  }

  /** Records what `work` enqueues in a graph instead of running it. */
  capture(work: () => void): CudaGraph {
    attempt(() => this.native.captureBegin());
    try {
      work();
    } catch (error) {
      this.#dropCapture();
      throw error;
    }
    return this.#endCapture();
  }

  /**
   * The same for exchanges of the nccl backend, whose calls settle when they are enqueued. All ranks of the group must
   * capture the same calls, and launch graphs and make other calls in the same order. Until the promise resolves, nothing
   * else may be enqueued on the rank's stream.
   */
  async captureAsync(work: () => Promise<unknown>): Promise<CudaGraph> {
    attempt(() => this.native.captureBegin());
    try {
      await work();
    } catch (error) {
      this.#dropCapture();
      throw error;
    }
    return this.#endCapture();
  }

  #endCapture(): CudaGraph {
    const addon = findAddon().addon!;
    return new CudaGraph(attempt(() => new addon.CudaGraph(this.native)));
  }

  /** A capture must end even if its work failed. */
  #dropCapture(): void {
    try {
      this.#endCapture().close();
    } catch {}
  }
}

/** A CUDA event of a rank's stream. */
export class CudaEvent extends Handle<NativeCudaEvent> {
  record(): void {
    attempt(() => this.native.record());
  }

  /** Makes a rank's stream wait for it. */
  wait(rank: number): void {
    attempt(() => this.native.wait(rank));
  }

  /** Whether all work that was enqueued before it is done. */
  get done(): boolean {
    return attempt(() => this.native.query());
  }

  synchronize(): void {
    attempt(() => this.native.synchronize());
  }

  /** Milliseconds between another event and this one; both must be done. */
  since(start: CudaEvent): number {
    return attempt(() => start.native.elapsed(this.native));
  }
}

/** Captured work. */
export class CudaGraph extends Handle<NativeCudaGraph> {
  /** Runs it once with the current plans of its device plans. Throws E_BUFFER, E_OPTION if one no longer fits. */
  launch(): void {
    attempt(() => this.native.launch());
  }
}

function describe(plan: VerifiedPlan) {
  if (!isVerified(plan)) throw new FuscoError('E_UNVERIFIED', 'the plan was not verified');
  return {
    ...nativeOptions(plan.spec),
    shards: plan.shards.map((shard) => shard.bytes),
  };
}

/** The addon's plan of a DevicePlan; the package does not export it. */
export let nativeDevicePlan: (plan: DevicePlan) => NativeDevicePlan;

/**
 * A plan on the device. Calls take device memory, enqueue work and return; `nanoseconds` is the time that this took on
 * the host.
 */
export class DevicePlan extends Handle<NativeDevicePlan> {
  static {
    nativeDevicePlan = (plan) => plan.native;
  }
  #plan: VerifiedPlan;

  /** For Cuda.devicePlan. */
  constructor(plan: VerifiedPlan, native: NativeDevicePlan) {
    super(native);
    this.#plan = plan;
  }

  get plan(): VerifiedPlan {
    return this.#plan;
  }

  /** Bytes of device memory that it takes. */
  get bytes(): number {
    return this.native.bytes;
  }

  /** Replaces the plan for all work that is enqueued afterwards. Throws E_UNVERIFIED, E_LIMIT, E_RANKS. */
  upload(plan: VerifiedPlan): void {
    const desc = describe(plan);
    attempt(() => this.native.upload(desc));
    this.#plan = plan;
  }

  dispatch(call: DispatchCall, path: CudaPath = 'auto'): ExchangeReport {
    return this.#run(() => this.native.dispatch(path, call));
  }

  combine(call: CombineCall): ExchangeReport {
    return this.#run(() => this.native.combine(call));
  }

  weightGradient(call: WeightGradientCall): ExchangeReport {
    return this.#run(() => this.native.weightGradient(call));
  }

  combineGradient(call: CombineGradientCall): ExchangeReport {
    return this.#run(() => this.native.combineGradient(call));
  }

  #run(call: () => NativeCudaStats): ExchangeReport {
    return cudaReport(call, this.#plan.spec.strategy);
  }
}

/** Runs an exchange and reports what it enqueued. The package does not export it. */
export function cudaReport(call: () => NativeCudaStats, strategy: Strategy): ExchangeReport {
  const startedAt = performance.now();
  const { nanoseconds, bytesRead, bytesWritten, path, sms } = attempt(call);
  return {
    backend: 'cuda',
    strategy,
    nanoseconds,
    startedAt,
    bytesRead,
    bytesWritten,
    path,
    sms,
    enqueued: true,
  };
}
