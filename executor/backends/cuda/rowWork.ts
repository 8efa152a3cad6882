// fp8 and gating of the cuda backend. Each rank's rows are processed on that rank's stream. With device memory, a call
// enqueues work and returns; with buffers in host memory, it waits for the device.

import { isExternal } from '../../memory.ts';
import { findAddon, type NativeCudaContext } from '../../native/addon.ts';
import { attempt } from '../../native/errors.ts';
import { fp8Calls, gateBackwardCalls, gateCalls } from '../../native/rowCalls.ts';
import { checkGateIds, resolveGate } from '../../training/gating.ts';
import type { GateBackwardCall, RowWork } from '../types.ts';
import { type Cuda, nativeCuda } from './context.ts';
import { DeviceCopies } from './deviceCopies.ts';

/** Checks the ids that are in host memory. Kernels ignore ids that are out of range. */
function checkHostIds({ options, tokens, ids }: GateBackwardCall): void {
  const spec = resolveGate(options);
  ids.forEach((memory, i) => {
    if (!isExternal(memory)) checkGateIds(spec, tokens[i]!, memory);
  });
}

/** The row work of a context's ranks. */
export function cudaRowWork(cuda: Cuda): RowWork {
  // The addon is present: without it there would be no context.
  const addon = findAddon().addon!;
  /** Enqueues a call rank by rank; `onDevice` gives each rank's native call, with buffers on the device. */
  const rankByRank = <Call, Native>(
    onDevice: (copies: DeviceCopies, call: Call) => Native[],
    enqueue: (context: NativeCudaContext, rank: number, call: Native) => void,
  ) => {
    return async (call: Call) => {
      const copies = new DeviceCopies(cuda);
      try {
        const calls = onDevice(copies, call);
        attempt(() => {
          calls.forEach((one, rank) => {
            enqueue(nativeCuda(cuda), rank, one);
          });
        });
        if (copies.isUsed) copies.copyBack();
      } finally {
        copies.release();
      }
    };
  };
  return {
    quantize: rankByRank(
      (copies, call) => fp8Calls(copies.of(call, { inputs: ['values'], outputs: ['codes', 'scales'] })),
      addon.cudaFp8Quantize,
    ),
    dequantize: rankByRank(
      (copies, call) => fp8Calls(copies.of(call, { inputs: ['codes', 'scales'], outputs: ['values'] })),
      addon.cudaFp8Dequantize,
    ),
    gate: rankByRank(
      (copies, call) =>
        gateCalls(copies.of(call, { inputs: ['logits', 'bias'], outputs: ['ids', 'weights', 'scores'] })),
      addon.cudaGate,
    ),
    gateBackward: rankByRank((copies, call) => {
      checkHostIds(call);
      const inputs = ['ids', 'scores', 'weightsGradient'] as const;
      return gateBackwardCalls(copies.of(call, { inputs, outputs: ['logitsGradient'] }));
    }, addon.cudaGateBackward),
  };
}
