// The cuda backend: all ranks of the group on GPUs of this process.

import type { Backend, PreparedPlan } from '../types.ts';
import type { Cuda, DevicePlan } from './context.ts';
import { DeviceCopies } from './deviceCopies.ts';
import { cudaRowWork } from './rowWork.ts';

function cudaPlan(cuda: Cuda, devicePlan: DevicePlan): PreparedPlan {
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

/** @param owns whether closing the backend closes the context */
export function cudaBackend(cuda: Cuda, owns: boolean): Backend {
  return {
    name: 'cuda',
    rowWork: cudaRowWork(cuda),
    prepare: async (plan) => cudaPlan(cuda, cuda.devicePlan(plan)),
    close: () => (owns ? cuda.close() : undefined),
  };
}
