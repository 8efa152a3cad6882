// The cuda backend: all ranks of the group on GPUs of this process.

import type { Strategy } from '../../../planner/spec.ts';
import {
  type NativeBufferedPlan,
  type NativeCudaStats,
  type NativeDevicePlanner,
  needAddon,
} from '../../native/addon.ts';
import { attempt } from '../../native/errors.ts';
import { nativeOptions } from '../../native/planner.ts';
import { freeBuffers, Planners, readWords, takeBuffers } from '../planners.ts';
import type { Backend, DevicePlanRequest, ExchangeKind, PreparedDevicePlan, PreparedPlan } from '../types.ts';
import { type Cuda, cudaReport, type DevicePlan, nativeCuda } from './context.ts';
import { DeviceCopies } from './deviceCopies.ts';
import { cudaRowWork } from './rowWork.ts';

/** What runs the exchanges of a plan. */
type Runner = Pick<DevicePlan, ExchangeKind | 'close'>;

function cudaPlan(cuda: Cuda, devicePlan: Runner): PreparedPlan {
  return {
    /** Enqueues the exchange. With buffers in host memory it waits for the device and reports the time on the device. */
    run: async (kind, call) => {
      const copies = new DeviceCopies(cuda);
      try {
        const onDevice = copies.exchange(kind, call) as never;
        if (!copies.isUsed) return devicePlan[kind](onDevice);
        cuda.synchronize();
        using start = cuda.event(0);
        using end = cuda.event(0);
        start.record();
        const report = devicePlan[kind](onDevice);
        end.record();
        copies.copyBack();
        return { ...report, nanoseconds: Math.round(end.since(start) * 1e6), enqueued: false };
      } finally {
        copies.release();
      }
    },
    close: () => devicePlan.close(),
  };
}

/** The exchanges of a plan that was made on the devices. */
function runnerOf(native: NativeBufferedPlan, strategy: Strategy): Runner {
  const report = (call: () => NativeCudaStats) => cudaReport(call, strategy);
  return {
    dispatch: (call, path = 'auto') => report(() => native.dispatch(path, call)),
    combine: (call) => report(() => native.combine(call)),
    weightGradient: (call) => report(() => native.weightGradient(call)),
    combineGradient: (call) => report(() => native.combineGradient(call)),
    close: () => native.close(),
  };
}

class CudaPlanners {
  readonly #cuda: Cuda;
  readonly #planners: Planners<NativeDevicePlanner>;

  constructor(cuda: Cuda) {
    this.#cuda = cuda;
    const { DevicePlanner } = needAddon('cuda');
    this.#planners = new Planners(async ({ spec, maxTokens, maxRecvRows }) =>
      attempt(() => new DevicePlanner(nativeCuda(cuda), nativeOptions(spec), { maxTokens, maxRecvRows })),
    );
  }

  async plan(request: DevicePlanRequest): Promise<PreparedDevicePlan> {
    const { BufferedPlan } = needAddon('cuda');
    const cuda = this.#cuda;
    const kept = await this.#planners.of(request);
    const buffers = takeBuffers(kept, cuda, cuda.ranks);
    const copies = new DeviceCopies(cuda);
    const release = () => {
      copies.release();
      kept.free.push(buffers);
    };
    let native: NativeBufferedPlan;
    try {
      const ids = copies.ids(request.ids);
      native = attempt(() => new BufferedPlan(kept.native, buffers, ids));
    } catch (error) {
      release();
      throw error;
    }
    const each = <T>(read: (rank: number) => T) => attempt(() => buffers.map((_, rank) => read(rank)));
    const { run } = cudaPlan(cuda, runnerOf(native, request.spec.strategy as Strategy));
    return {
      run,
      recvRows: async () => each((rank) => native.recvRows(rank)),
      shards: async () => each((rank) => native.shard(rank)),
      view: (local) => attempt(() => native.describe(local)),
      words: (local, address, count) => readWords(cuda, local, address, count),
      close: () => {
        native.close();
        release();
      },
    };
  }

  /** Waits for no promise: the caller may close the context next. */
  close(): void {
    for (const kept of this.#planners.made) {
      freeBuffers(kept, this.#cuda);
      kept.native.close();
    }
  }
}

/** @param owns whether closing the backend closes the context */
export function cudaBackend(cuda: Cuda, owns: boolean): Backend {
  const planners = new CudaPlanners(cuda);
  return {
    name: 'cuda',
    rowWork: cudaRowWork(cuda),
    prepare: async (plan) => cudaPlan(cuda, cuda.devicePlan(plan)),
    planOnDevice: (request) => planners.plan(request),
    check: async () => cuda.check(),
    close: async () => {
      planners.close();
      if (owns) cuda.close();
    },
  };
}
