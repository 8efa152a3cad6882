// All exchanges over one plan, with inputs that follow from the plan alone, and their comparison byte by byte.

import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  Memory,
  WeightGradientCall,
} from '../../executor/backends/types.ts';
import type { Group } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { assertSame, entrySizes, POISON, randomRows, receivedSizes, tokenSizes } from './support.ts';

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
  readonly gradientRows: Uint8Array[];
  readonly gradientWeights: Uint8Array[];
  readonly gradientOrigins: Uint8Array[];
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

/** Where the buffers of exchanges are: in JavaScript or on a device. Each list has one element per local rank. */
export interface Place {
  /** Buffers that hold these bytes, `offset` bytes after an aligned address. */
  up(values: readonly ArrayBufferView[], offset?: number): Memory[];
  poisoned(sizes: readonly number[], offset?: number): Memory[];
  down(buffers: readonly Memory[]): Uint8Array[];
}

const JAVASCRIPT: Place = {
  up: (values) => [...values] as Memory[],
  poisoned: (sizes) => sizes.map((size) => new Uint8Array(size).fill(POISON)),
  down: (buffers) => buffers as Uint8Array[],
};

/** An exchange, or a plan on the device, whose calls only enqueue. */
interface Calls {
  dispatch(call: DispatchCall): unknown;
  combine(call: CombineCall): unknown;
  weightGradient(call: WeightGradientCall): unknown;
  combineGradient(call: CombineGradientCall): unknown;
}

/** All exchanges of the local ranks. Rows are `offset` bytes after an aligned address. */
export async function runCalls(
  calls: Calls,
  plan: VerifiedPlan,
  input: Inputs,
  localRanks: readonly number[],
  place: Place,
  offset = 0,
): Promise<Outputs> {
  const { dtype, rowBytes, scaleBytes } = input;
  const local = <T>(perRank: readonly T[]) => localRanks.map((rank) => perRank[rank]!);
  const poisoned = (sizes: number[], at = 0) => place.poisoned(local(sizes), at);
  const rows = place.up(local(input.rows), offset);
  const scales = place.up(local(input.scales));
  const weights = place.up(local(input.weights));
  const gradient = place.up(local(input.gradient), offset);
  const out = {
    received: poisoned(receivedSizes(plan, rowBytes), offset),
    receivedScales: poisoned(receivedSizes(plan, scaleBytes)),
    receivedWeights: poisoned(receivedSizes(plan, 4)),
    origins: poisoned(receivedSizes(plan, 12)),
    combined: poisoned(tokenSizes(plan, rowBytes), offset),
    scaled: poisoned(receivedSizes(plan, rowBytes), offset),
    weightGradient: poisoned(entrySizes(plan, 4)),
    gradientRows: poisoned(receivedSizes(plan, rowBytes), offset),
    gradientWeights: poisoned(entrySizes(plan, 4)),
    gradientOrigins: poisoned(receivedSizes(plan, 12)),
  };
  await calls.dispatch({
    payloads: [
      { rowBytes, from: rows, to: out.received },
      { rowBytes: scaleBytes, from: scales, to: out.receivedScales },
      { rowBytes: 4, per: 'entry', from: weights, to: out.receivedWeights },
    ],
    origins: out.origins,
  });
  const combine: CombineCall = { dtype, rowBytes, from: out.received, to: out.combined };
  await calls.combine(input.weighted ? { ...combine, weights } : combine);
  await calls.dispatch({ payloads: [{ rowBytes, dtype, from: gradient, to: out.scaled }], scale: weights });
  await calls.weightGradient({
    ...{ dtype, rowBytes, outputGradient: gradient },
    ...{ from: out.received, to: out.weightGradient },
  });
  await calls.combineGradient({
    ...{ dtype, rowBytes, outputGradient: gradient, from: out.received, weights },
    ...{ to: out.gradientRows, weightsGradient: out.gradientWeights, origins: out.gradientOrigins },
  });
  const down = Object.entries(out).map(([name, buffers]) => [name, place.down(buffers)]);
  return Object.fromEntries(down) as unknown as Outputs;
}

/** All exchanges of the group's local ranks, from and to JavaScript's buffers. */
export async function runExchanges(group: Group, plan: VerifiedPlan, input: Inputs): Promise<Outputs> {
  using exchange = await group.prepare(plan);
  return await runCalls(exchange, plan, input, group.localRanks, JAVASCRIPT);
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
  assertSame('rows of a combine gradient', actual.gradientRows, expected.gradientRows, rowBytes);
  assertSame('weights of a combine gradient', actual.gradientWeights, expected.gradientWeights, 4);
  assertSame('origins of a combine gradient', actual.gradientOrigins, expected.gradientOrigins, 12);
}

/** One rank's part of the outputs of all ranks. */
export function outputsOf(outputs: Outputs, rank: number): Outputs {
  const entries = Object.entries(outputs as unknown as Record<string, Uint8Array[]>);
  return Object.fromEntries(entries.map(([name, perRank]) => [name, [perRank[rank]!]])) as unknown as Outputs;
}
