// The cuda backend: all ranks of the group on GPUs of this process.

import type { Backend, ExchangeCalls, ExchangeKind, ExchangeReport, PreparedPlan } from '../types.ts';
import type { Cuda, DevicePlan } from './context.ts';
import { DeviceCopies } from './deviceCopies.ts';
import { cudaRowWork } from './rowWork.ts';

class CudaPlan implements PreparedPlan {
  readonly #cuda: Cuda;
  readonly #devicePlan: DevicePlan;

  constructor(cuda: Cuda, devicePlan: DevicePlan) {
    this.#cuda = cuda;
    this.#devicePlan = devicePlan;
  }

  /** Enqueues the exchange. With buffers in host memory it waits for the device and reports the time on the device. */
  async run<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): Promise<ExchangeReport> {
    const copies = new DeviceCopies(this.#cuda);
    try {
      const onDevice = copies.exchange(kind, call);
      if (!copies.isUsed) return this.#devicePlan[kind](onDevice as never);
      this.#cuda.synchronize();
      using start = this.#cuda.event(0);
      using end = this.#cuda.event(0);
      start.record();
      const report = this.#devicePlan[kind](onDevice as never);
      end.record();
      copies.copyBack();
      return { ...report, nanoseconds: Math.round(end.since(start) * 1e6), enqueued: false };
    } finally {
      copies.release();
    }
  }

  close(): void {
    this.#devicePlan.close();
  }
}

/** @param owns whether closing the backend closes the context */
export function cudaBackend(cuda: Cuda, owns: boolean): Backend {
  return {
    name: 'cuda',
    rowWork: cudaRowWork(cuda),
    prepare: async (plan) => new CudaPlan(cuda, cuda.devicePlan(plan)),
    close: () => {
      if (owns) cuda.close();
    },
  };
}
