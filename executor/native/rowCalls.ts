// Row work of several ranks as the native calls that it takes, one for each rank.

import type { Fp8Call, GateBackwardCall, GateCall } from '../backends/types.ts';
import { resolveGate } from '../training/gating.ts';
import type { NativeFp8Call, NativeGateBackwardCall, NativeGateCall } from './addon.ts';

export function fp8Calls({ dtype, hidden, rows, values, codes, scales }: Fp8Call): NativeFp8Call[] {
  return rows.map((count, i) => {
    const memories = { values: values[i]!, codes: codes[i]!, scales: scales[i]! };
    return { dtype, hidden, rows: count, ...memories };
  });
}

/** Throws E_OPTION. */
export function gateCalls(call: GateCall): NativeGateCall[] {
  const spec = resolveGate(call.options);
  const { tokens, logits, bias, ids, weights, scores } = call;
  return tokens.map((count, i) => ({
    ...spec,
    tokens: count,
    logits: logits[i]!,
    ...(bias === undefined ? {} : { bias: bias[i]! }),
    ids: ids[i]!,
    weights: weights[i]!,
    scores: scores[i]!,
  }));
}

/** Throws E_OPTION. */
export function gateBackwardCalls(call: GateBackwardCall): NativeGateBackwardCall[] {
  const spec = resolveGate(call.options);
  const { tokens, ids, scores, weightsGradient, logitsGradient } = call;
  return tokens.map((count, i) => ({
    ...spec,
    tokens: count,
    ids: ids[i]!,
    scores: scores[i]!,
    weightsGradient: weightsGradient[i]!,
    logitsGradient: logitsGradient[i]!,
  }));
}
