// All four exchanges of one plan on one backend, with several payloads, and what they leave behind; compared bit for
// bit by the GPU cases and by the soak.

import type { BackendName, CombineCall, DispatchCall } from '../../executor/backend.ts';
import { openCuda } from '../../executor/cuda.ts';
import { createGroup } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { assertSame, Buffers, entrySizes, randomRows, receivedSizes, tokenSizes } from './support.ts';

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

/** All four exchanges on a backend that takes JavaScript's buffers. */
export async function onHost(
  plan: VerifiedPlan,
  input: Inputs,
  backend: BackendName,
  threads = 0,
): Promise<Outputs> {
  using group = await createGroup({ ranks: plan.spec.ranks, backend, threads });
  using exchange = await group.prepare(plan);
  const { dtype, rowBytes, scaleBytes, rows, scales, weights, gradient } = input;
  const poisoned = (sizes: number[]) => sizes.map((size) => new Uint8Array(size).fill(0xaa));
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
      { rowBytes, from: rows, to: received },
      { rowBytes: scaleBytes, from: scales, to: out.receivedScales },
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

/** All four exchanges on device memory, `offset` bytes behind an aligned address. */
export function onDevice(
  plan: VerifiedPlan,
  input: Inputs,
  path: 'direct' | 'forward',
  offset: number,
): Outputs {
  using cuda = openCuda(plan.spec.ranks);
  using buffers = new Buffers(cuda);
  using slot = cuda.slot(plan);
  const { dtype, rowBytes, scaleBytes } = input;
  const rows = buffers.up(input.rows, offset);
  const scales = buffers.up(input.scales);
  const weights = buffers.up(input.weights);
  const gradient = buffers.up(input.gradient, offset);
  const received = buffers.poisoned(receivedSizes(plan, rowBytes), offset);
  const receivedScales = buffers.poisoned(receivedSizes(plan, scaleBytes));
  const receivedWeights = buffers.poisoned(receivedSizes(plan, 4));
  const origins = buffers.poisoned(receivedSizes(plan, 12));
  const combined = buffers.poisoned(tokenSizes(plan, rowBytes), offset);
  const scaled = buffers.poisoned(receivedSizes(plan, rowBytes), offset);
  const weightGradient = buffers.poisoned(entrySizes(plan, 4));
  const call: DispatchCall = {
    payloads: [
      { rowBytes, from: rows, to: received },
      { rowBytes: scaleBytes, from: scales, to: receivedScales },
      { rowBytes: 4, per: 'entry', from: weights, to: receivedWeights },
    ],
    origins,
  };
  const report = slot.dispatch(call, path);
  if (report.path !== path) throw new Error(`the ${path} path was asked for, ${report.path} ran`);
  const combine: CombineCall = { dtype, rowBytes, from: received, to: combined };
  slot.combine(input.weighted ? { ...combine, weights } : combine);
  slot.dispatch({ payloads: [{ rowBytes, dtype, from: gradient, to: scaled }], scale: weights });
  slot.weightGradient({ dtype, rowBytes, outputGradient: gradient, from: received, to: weightGradient });
  return {
    received: buffers.down(received),
    receivedScales: buffers.down(receivedScales),
    receivedWeights: buffers.down(receivedWeights),
    origins: buffers.down(origins),
    combined: buffers.down(combined),
    scaled: buffers.down(scaled),
    weightGradient: buffers.down(weightGradient),
  };
}

/** Fails with the place of the first byte that differs. */
export function assertOutputs(input: Inputs, actual: Outputs, expected: Outputs): void {
  const { rowBytes, scaleBytes } = input;
  assertSame('received rows', actual.received, expected.received, rowBytes);
  assertSame('received scales', actual.receivedScales, expected.receivedScales, scaleBytes);
  assertSame('received weights', actual.receivedWeights, expected.receivedWeights, 4);
  assertSame('origins', actual.origins, expected.origins, 12);
  assertSame('combined rows', actual.combined, expected.combined, rowBytes);
  assertSame('scaled rows', actual.scaled, expected.scaled, rowBytes);
  assertSame('weight gradient', actual.weightGradient, expected.weightGradient, 4);
}
