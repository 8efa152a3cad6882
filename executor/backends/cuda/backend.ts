// The cuda backend: all ranks of the group on GPUs of this process.

import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  PreparedPlan,
  WeightGradientCall,
} from '../types.ts';
import type { Cuda, DevicePlan } from './context.ts';
import { Staging } from './deviceCopies.ts';
import { cudaRowWork } from './rowWork.ts';

class CudaPlan implements PreparedPlan {
  readonly #cuda: Cuda;
  readonly #devicePlan: DevicePlan;

  constructor(cuda: Cuda, devicePlan: DevicePlan) {
    this.#cuda = cuda;
    this.#devicePlan = devicePlan;
  }

  /** Stages what is not on a device; then waits, and reports the time on the device. */
  async #run(enqueue: (staging: Staging) => () => ExchangeReport): Promise<ExchangeReport> {
    const staging = new Staging(this.#cuda);
    try {
      const call = enqueue(staging);
      if (!staging.used) return call();
      this.#cuda.synchronize();
      using start = this.#cuda.event(0);
      using end = this.#cuda.event(0);
      start.record();
      const report = call();
      end.record();
      staging.bringBack();
      return { ...report, nanoseconds: Math.round(end.since(start) * 1e6), enqueued: false };
    } finally {
      staging.free();
    }
  }

  dispatch(call: DispatchCall): Promise<ExchangeReport> {
    return this.#run((staging) => {
      const staged = staging.dispatch(call);
      return () => this.#devicePlan.dispatch(staged);
    });
  }

  combine(call: CombineCall): Promise<ExchangeReport> {
    return this.#run((staging) => {
      const staged = staging.combine(call);
      return () => this.#devicePlan.combine(staged);
    });
  }

  weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    return this.#run((staging) => {
      const staged = staging.weightGradient(call);
      return () => this.#devicePlan.weightGradient(staged);
    });
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
