// One dispatch and one combine with identity experts over whole arrays, for `run` and the demo.

import type { BackendName, ExchangeReport, Payload } from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { dequantizeRows, scaleBlocks } from '../../executor/training/fp8.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { DTYPE_BYTES } from '../../planner/spec.ts';
import { findCombineMismatch, findReceiveMismatch, type Mismatch } from './mismatch.ts';

export interface ExecutionInput {
  /** Of the rows that combine returns, and of those that dispatch moves unless they are fp8. */
  readonly dtype: FloatDtype;
  /** Of the rows that dispatch moves. */
  readonly rowBytes: number;
  /** Per rank [tokens, rowBytes]. */
  readonly rows: readonly Uint8Array[];
  /** Per rank [tokens, topk]; undefined for the unweighted sum. */
  readonly weights: readonly Float32Array[] | undefined;
  /** Rows are e4m3 codes: per rank their scales, f32 [tokens, ceil(hidden / 128)]. The experts decode them. */
  readonly scales?: readonly Uint8Array[];
}

export interface Execution {
  readonly backend: BackendName;
  /** Ranks that this process ran. */
  readonly localRanks: readonly number[];
  /** Per rank [recvRows, rowBytes]; ranks that other processes ran are missing. */
  readonly received: readonly Uint8Array[];
  /** Per rank, of fp8 rows: f32 [recvRows, ceil(hidden / 128)]; likewise. */
  readonly receivedScales: readonly Uint8Array[];
  /** Per rank [tokens, bytes of a row of combine]; likewise. */
  readonly combined: readonly Uint8Array[];
  readonly dispatch: ExchangeReport;
  readonly combine: ExchangeReport;
}

/** Bytes of a row that combine returns. */
function combinedRowBytes({ dtype, rowBytes, scales }: ExecutionInput): number {
  return scales === undefined ? rowBytes : rowBytes * DTYPE_BYTES[dtype];
}

/** Bytes of the scales of one row of fp8; a row has one byte per element. */
function scaleRowBytes({ rowBytes }: ExecutionInput): number {
  return 4 * scaleBlocks(rowBytes);
}

/** Rows as the experts see them: decoded, if they are fp8. */
function decoded(input: ExecutionInput, rows: Uint8Array, scales: Uint8Array | undefined): Uint8Array {
  if (scales === undefined) return rows;
  const { dtype, rowBytes: hidden } = input;
  const count = rows.length / hidden;
  const values = new Uint8Array(count * combinedRowBytes(input));
  dequantizeRows({ dtype, rows: count, hidden }, rows, scales, values);
  return values;
}

/** Dispatches the rows, takes the experts to be the identity, and combines. */
export async function execute(
  plan: VerifiedPlan,
  input: ExecutionInput,
  backend: BackendName | 'auto',
): Promise<Execution> {
  await using group = await createGroup({ ranks: plan.spec.ranks, backend });
  using exchange = await group.prepare(plan);
  const { localRanks } = group;
  const { rowBytes, dtype, scales } = input;
  const local = <T>(perRank: readonly T[]) => localRanks.map((rank) => perRank[rank]!);
  const received: Uint8Array[] = [];
  const receivedScales: Uint8Array[] = [];
  const combined: Uint8Array[] = [];
  for (const rank of localRanks) {
    const { recvRows, tokens } = plan.shards[rank]!;
    received[rank] = new Uint8Array(recvRows * rowBytes);
    if (scales !== undefined) receivedScales[rank] = new Uint8Array(recvRows * scaleRowBytes(input));
    combined[rank] = new Uint8Array(tokens * combinedRowBytes(input));
  }
  const rows: Payload = {
    ...{ rowBytes, dtype: scales === undefined ? dtype : 'fp8' },
    ...{ from: local(input.rows), to: local(received) },
  };
  const more: Payload[] =
    scales === undefined
      ? []
      : [{ rowBytes: scaleRowBytes(input), from: local(scales), to: local(receivedScales) }];
  const dispatch = await exchange.dispatch({ payloads: [rows, ...more] });
  const results = localRanks.map((rank) => decoded(input, received[rank]!, receivedScales[rank]));
  const call = { dtype, rowBytes: combinedRowBytes(input), from: results, to: local(combined) };
  const weights = input.weights === undefined ? {} : { weights: local(input.weights) };
  const combine = await exchange.combine({ ...call, ...weights });
  return { backend: dispatch.backend, localRanks, received, receivedScales, combined, dispatch, combine };
}

/**
 * Compares every byte of an execution with the result expected from the input and, if another backend ran, with the
 * reference. Returns the first difference.
 */
export async function findMismatch(
  plan: VerifiedPlan,
  input: ExecutionInput,
  execution: Execution,
): Promise<Mismatch | undefined> {
  const { rowBytes, dtype, rows, weights, scales } = input;
  const { received, receivedScales, combined } = execution;
  const [scaleBytes, combineBytes] = [scaleRowBytes(input), combinedRowBytes(input)];
  const values = rows.map((codes, rank) => decoded(input, codes, scales?.[rank]));
  const found =
    findReceiveMismatch(plan, rows, received, rowBytes) ??
    (scales && findReceiveMismatch(plan, scales, receivedScales, scaleBytes)) ??
    findCombineMismatch(plan, values, combined, dtype, combineBytes, weights);
  if (found !== undefined || execution.backend === 'reference') return found;
  const reference = await execute(plan, input, 'reference');
  return (
    firstDifference('received', received, reference.received, rowBytes) ??
    firstDifference('received', receivedScales, reference.receivedScales, scaleBytes) ??
    firstDifference('combined', combined, reference.combined, combineBytes)
  );
}

function firstDifference(
  what: Mismatch['what'],
  actual: readonly Uint8Array[],
  expected: readonly Uint8Array[],
  rowBytes: number,
): Mismatch | undefined {
  for (const [rank, bytes] of actual.entries()) {
    if (bytes === undefined) continue;
    if (Buffer.compare(bytes, expected[rank]!) === 0) continue;
    const at = bytes.findIndex((byte, i) => byte !== expected[rank]![i]);
    return { what, rank, row: Math.floor(at / rowBytes) };
  }
  return undefined;
}
