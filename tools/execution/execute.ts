// One dispatch and one combine with identity experts over whole arrays: what `run` and the demo do.

import type { BackendName, ExchangeReport } from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { findCombineMismatch, findReceiveMismatch, type Mismatch } from './mismatch.ts';

export interface ExecutionInput {
  readonly dtype: FloatDtype;
  readonly rowBytes: number;
  /** Per rank [tokens, rowBytes]. */
  readonly rows: readonly Uint8Array[];
  /** Per rank [tokens, topk]; undefined for the unweighted sum. */
  readonly weights: readonly Float32Array[] | undefined;
}

export interface Execution {
  readonly backend: BackendName;
  /** Ranks that this process ran. */
  readonly localRanks: readonly number[];
  /** Per rank [recvRows, rowBytes]; ranks that other processes ran are missing. */
  readonly received: readonly Uint8Array[];
  /** Per rank [tokens, rowBytes]; likewise. */
  readonly combined: readonly Uint8Array[];
  readonly dispatch: ExchangeReport;
  readonly combine: ExchangeReport;
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
  const { rowBytes, dtype } = input;
  const local = <T>(perRank: readonly T[]) => localRanks.map((rank) => perRank[rank]!);
  const received: Uint8Array[] = [];
  const combined: Uint8Array[] = [];
  for (const rank of localRanks) {
    const { recvRows, tokens } = plan.shards[rank]!;
    received[rank] = new Uint8Array(recvRows * rowBytes);
    combined[rank] = new Uint8Array(tokens * rowBytes);
  }
  const [from, to] = [local(input.rows), local(received)];
  const dispatch = await exchange.dispatch({ payloads: [{ rowBytes, dtype, from, to }] });
  const call = { dtype, rowBytes, from: to, to: local(combined) };
  const weights = input.weights === undefined ? {} : { weights: local(input.weights) };
  const combine = await exchange.combine({ ...call, ...weights });
  return { backend: dispatch.backend, localRanks, received, combined, dispatch, combine };
}

/**
 * Compares every byte of an execution with what the input implies, and with the reference where another backend
 * ran. Returns the first difference.
 */
export async function findMismatch(
  plan: VerifiedPlan,
  input: ExecutionInput,
  execution: Execution,
): Promise<Mismatch | undefined> {
  const { rowBytes, dtype, rows, weights } = input;
  const { received, combined } = execution;
  const found =
    findReceiveMismatch(plan, rows, received, rowBytes) ??
    findCombineMismatch(plan, rows, combined, dtype, rowBytes, weights);
  if (found !== undefined || execution.backend === 'reference') return found;
  const reference = await execute(plan, input, 'reference');
  return (
    firstDifference('received', received, reference.received, rowBytes) ??
    firstDifference('combined', combined, reference.combined, rowBytes)
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
