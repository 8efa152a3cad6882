// All four exchanges over one plan, with inputs that follow from the plan alone, and their comparison byte by byte.

import type { CombineCall } from '../../executor/backends/types.ts';
import type { Group } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { assertSame, entrySizes, randomRows, receivedSizes, tokenSizes } from './support.ts';

export interface Inputs {
  readonly dtype: FloatDtype;
  readonly rowBytes: number;
  /** Bytes of the scales that travel with a token. */
  readonly scaleBytes: number;
  readonly rows: Uint8Array[];
  readonly scales: Uint8Array[];
  readonly weights: Float32Array[];
  readonly gradient: Uint8Array[];
  readonly weighted: boolean;
}

export interface Outputs {
  readonly received: Uint8Array[];
  readonly receivedScales: Uint8Array[];
  readonly receivedWeights: Uint8Array[];
  readonly origins: Uint8Array[];
  readonly combined: Uint8Array[];
  readonly scaled: Uint8Array[];
  readonly weightGradient: Uint8Array[];
}

export function makeInputs(
  plan: VerifiedPlan,
  dtype: FloatDtype,
  rowBytes: number,
  scaleBytes: number,
  weighted: boolean,
  seed = 0,
): Inputs {
  const perToken = (first: number, bytes: number, kind: FloatDtype | 'bytes') =>
    tokenSizes(plan, bytes).map((size, rank) => randomRows(seed + first + rank, size, kind));
  return {
    dtype,
    rowBytes,
    scaleBytes,
    weighted,
    rows: perToken(1, rowBytes, dtype),
    scales: perToken(100, scaleBytes, 'bytes'),
    gradient: perToken(200, rowBytes, dtype),
    weights: entrySizes(plan, 4).map(
      (size, rank) => new Float32Array(randomRows(seed + 300 + rank, size, 'f32').buffer),
    ),
  };
}

/**
 * All four exchanges of the group's local ranks, from and to JavaScript's buffers. Arrays have one element for each of
 * them.
 */
export async function runExchanges(group: Group, plan: VerifiedPlan, input: Inputs): Promise<Outputs> {
  using exchange = await group.prepare(plan);
  const { dtype, rowBytes, scaleBytes } = input;
  const local = <T>(perRank: readonly T[]) => group.localRanks.map((rank) => perRank[rank]!);
  const poisoned = (sizes: number[]) => local(sizes).map((size) => new Uint8Array(size).fill(0xaa));
  const weights = local(input.weights);
  const gradient = local(input.gradient);
  const received = poisoned(receivedSizes(plan, rowBytes));
  const out: Outputs = {
    received,
    receivedScales: poisoned(receivedSizes(plan, scaleBytes)),
    receivedWeights: poisoned(receivedSizes(plan, 4)),
    origins: poisoned(receivedSizes(plan, 12)),
    combined: poisoned(tokenSizes(plan, rowBytes)),
    scaled: poisoned(receivedSizes(plan, rowBytes)),
    weightGradient: poisoned(entrySizes(plan, 4)),
  };
  await exchange.dispatch({
    payloads: [
      { rowBytes, from: local(input.rows), to: received },
      { rowBytes: scaleBytes, from: local(input.scales), to: out.receivedScales },
      { rowBytes: 4, per: 'entry', from: weights, to: out.receivedWeights },
    ],
    origins: out.origins,
  });
  const combine: CombineCall = { dtype, rowBytes, from: received, to: out.combined };
  await exchange.combine(input.weighted ? { ...combine, weights } : combine);
  await exchange.dispatch({
    payloads: [{ rowBytes, dtype, from: gradient, to: out.scaled }],
    scale: weights,
  });
  await exchange.weightGradient({
    dtype,
    rowBytes,
    outputGradient: gradient,
    from: received,
    to: out.weightGradient,
  });
  return out;
}

/** Fails with the first byte that differs. */
export function assertSameOutputs(actual: Outputs, expected: Outputs, input: Inputs): void {
  const { rowBytes, scaleBytes } = input;
  assertSame('received rows', actual.received, expected.received, rowBytes);
  assertSame('received scales', actual.receivedScales, expected.receivedScales, scaleBytes);
  assertSame('received weights', actual.receivedWeights, expected.receivedWeights, 4);
  assertSame('origins', actual.origins, expected.origins, 12);
  assertSame('combined rows', actual.combined, expected.combined, rowBytes);
  assertSame('scaled rows', actual.scaled, expected.scaled, rowBytes);
  assertSame('weight gradient', actual.weightGradient, expected.weightGradient, 4);
}

/** One rank's part of what all ranks did. */
export function outputsOf(outputs: Outputs, rank: number): Outputs {
  const entries = Object.entries(outputs as unknown as Record<string, Uint8Array[]>);
  return Object.fromEntries(entries.map(([name, perRank]) => [name, [perRank[rank]!]])) as unknown as Outputs;
}
