// fp8 and gating of the cuda backend: every rank's rows on its own stream. On device memory a call enqueues and returns;
// buffers of JavaScript are staged, which waits.

import { isExternal } from '../../callChecks.ts';
import { findAddon, type NativeCudaContext } from '../../native/addon.ts';
import { attempt } from '../../native/errors.ts';
import { fp8Calls, gateBackwardCalls, gateCalls } from '../../native/rowCalls.ts';
import { checkGateIds, resolveGate } from '../../training/gating.ts';
import type { Fp8Call, GateBackwardCall, GateCall, RowWork } from '../types.ts';
import type { Cuda } from './context.ts';
import { Staging } from './deviceCopies.ts';

function stageQuantize(staging: Staging, call: Fp8Call) {
  const { values, codes, scales } = call;
  return fp8Calls({
    ...call,
    values: staging.inputs(values),
    codes: staging.outputs(codes),
    scales: staging.outputs(scales),
  });
}

function stageDequantize(staging: Staging, call: Fp8Call) {
  const { values, codes, scales } = call;
  return fp8Calls({
    ...call,
    values: staging.outputs(values),
    codes: staging.inputs(codes),
    scales: staging.inputs(scales),
  });
}

function stageGate(staging: Staging, call: GateCall) {
  const { logits, bias, ids, weights, scores } = call;
  return gateCalls({
    ...call,
    logits: staging.inputs(logits),
    ...(bias === undefined ? {} : { bias: staging.inputs(bias) }),
    ids: staging.outputs(ids),
    weights: staging.outputs(weights),
    scores: staging.outputs(scores),
  });
}

/** Ids of JavaScript are checked here; kernels pass over what is out of range. */
function stageGateBackward(staging: Staging, call: GateBackwardCall) {
  const { options, tokens, ids, scores, weightsGradient, logitsGradient } = call;
  const spec = resolveGate(options);
  ids.forEach((memory, i) => {
    if (!isExternal(memory)) checkGateIds(spec, tokens[i]!, memory);
  });
  return gateBackwardCalls({
    ...call,
    ids: staging.inputs(ids),
    scores: staging.inputs(scores),
    weightsGradient: staging.inputs(weightsGradient),
    logitsGradient: staging.outputs(logitsGradient),
  });
}

/** Work on the rows of a context's ranks. */
export function cudaRowWork(cuda: Cuda): RowWork {
  // There is no context without the addon.
  const addon = findAddon().addon!;
  /** Stages a call, enqueues it rank by rank, and brings back what JavaScript waits for. */
  const staged = <Call, Native>(
    stage: (staging: Staging, call: Call) => Native[],
    enqueue: (context: NativeCudaContext, rank: number, call: Native) => void,
  ) => {
    return async (call: Call) => {
      const staging = new Staging(cuda);
      try {
        const calls = stage(staging, call);
        attempt(() => {
          calls.forEach((one, rank) => {
            enqueue(cuda.native, rank, one);
          });
        });
        if (staging.used) staging.bringBack();
      } finally {
        staging.free();
      }
    };
  };
  return {
    quantize: staged(stageQuantize, addon.cudaFp8Quantize),
    dequantize: staged(stageDequantize, addon.cudaFp8Dequantize),
    gate: staged(stageGate, addon.cudaGate),
    gateBackward: staged(stageGateBackward, addon.cudaGateBackward),
  };
}
