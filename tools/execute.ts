// One dispatch and one combine with identity experts over whole arrays: what `run` and the demo do.

import type { BackendName, ExchangeReport } from '../executor/backend.ts';
import { createGroup } from '../executor/group.ts';
import type { FloatDtype } from '../executor/numeric.ts';
import type { VerifiedPlan } from '../planner/plan.ts';
import { findCombineMismatch, findReceiveMismatch, type Mismatch } from './check.ts';

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
  /** Per rank [recvRows, rowBytes]. */
  readonly received: readonly Uint8Array[];
  /** Per rank [tokens, rowBytes]. */
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
  using group = await createGroup({ ranks: plan.spec.ranks, backend });
  using exchange = await group.prepare(plan);
  const { rowBytes, dtype, rows, weights } = input;
  const received = plan.shards.map((shard) => new Uint8Array(shard.recvRows * rowBytes));
  const combined = plan.shards.map((shard) => new Uint8Array(shard.tokens * rowBytes));
  const dispatch = await exchange.dispatch({ payloads: [{ rowBytes, dtype, from: rows, to: received }] });
  const call = { dtype, rowBytes, from: received, to: combined };
  const combine = await exchange.combine(weights === undefined ? call : { ...call, weights });
  return { backend: dispatch.backend, received, combined, dispatch, combine };
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
    if (Buffer.compare(bytes, expected[rank]!) === 0) continue;
    const at = bytes.findIndex((byte, i) => byte !== expected[rank]![i]);
    return { what, rank, row: Math.floor(at / rowBytes) };
  }
  return undefined;
}
