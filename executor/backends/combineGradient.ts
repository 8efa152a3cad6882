// A combine gradient is defined by two other calls: a scaled dispatch of the output gradient and a weight gradient.

import type {
  CombineGradientCall,
  DispatchCall,
  ExchangeReport,
  PeerReport,
  WeightGradientCall,
  WireReport,
} from './types.ts';

/** The two calls, with the buffers of the combine gradient. */
export function combineGradientParts(call: CombineGradientCall): {
  readonly dispatch: DispatchCall;
  readonly weightGradient: WeightGradientCall;
} {
  const { dtype, rowBytes, outputGradient, from, weights, to, weightsGradient, origins } = call;
  const payloads = [{ dtype, rowBytes, from: outputGradient, to }];
  return {
    dispatch: { payloads, scale: weights, ...(origins === undefined ? {} : { origins }) },
    weightGradient: { dtype, rowBytes, outputGradient, from, to: weightsGradient },
  };
}

/** Waits for two calls, even if one fails: until then the backend may still use the caller's buffers. */
export async function bothSettled<T>(first: Promise<T>, second: Promise<T>): Promise<[T, T]> {
  await Promise.allSettled([first, second]);
  return Promise.all([first, second]);
}

function addPeers(first: PeerReport, second: PeerReport): PeerReport {
  return {
    rank: first.rank,
    sentBytes: first.sentBytes + second.sentBytes,
    receivedBytes: first.receivedBytes + second.receivedBytes,
    waitNanoseconds: first.waitNanoseconds + second.waitNanoseconds,
    wireNanoseconds: first.wireNanoseconds + second.wireNanoseconds,
  };
}

/** Adds all numbers; those of `peers` are added rank by rank. */
function addWires(first: WireReport, second: WireReport): WireReport {
  const others = second as unknown as Record<string, unknown>;
  const numbers = Object.entries(first)
    .filter(([name, value]) => typeof value === 'number' && typeof others[name] === 'number')
    .map(([name, value]) => [name, value + (others[name] as number)]);
  const peers = first.peers?.map((peer, i) => addPeers(peer, second.peers![i]!));
  return { ...first, ...Object.fromEntries(numbers), ...(peers === undefined ? {} : { peers }) };
}

/** The combined report of two calls. */
export function addReports(first: ExchangeReport, second: ExchangeReport): ExchangeReport {
  const { wire } = first;
  return {
    ...first,
    nanoseconds: first.nanoseconds + second.nanoseconds,
    bytesRead: first.bytesRead + second.bytesRead,
    bytesWritten: first.bytesWritten + second.bytesWritten,
    ...(wire === undefined || second.wire === undefined ? {} : { wire: addWires(wire, second.wire) }),
  };
}
