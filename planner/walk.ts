// Iterates over the rows that a rank forwards, by node and, within a node, by token.

import { forwardersOf } from './balance.ts';
import type { Plan } from './plan.ts';

/** One row on its way to another node. */
export interface ForwardedRow {
  /** Index in the shard's forwardToken. */
  readonly row: number;
  readonly node: number;
  readonly forwarder: number;
  readonly token: number;
  /** Slot at the forwarder, or ~(landing row). */
  readonly target: number;
  /** The row's entries, one slot each, are distributeEntry[firstEntry .. endEntry). */
  readonly firstEntry: number;
  readonly endEntry: number;
}

/** The forwarded rows of a rank; none in a flat plan. An unverified plan yields at most the rows that it contains. */
export function* forwardedRows(plan: Plan, rank: number): Generator<ForwardedRow> {
  const { spec, decision } = plan;
  if (spec.strategy === 'flat') return;
  const forwarders = forwardersOf(spec, decision.groups, rank);
  const { forwardRows, forwardToken, forwardTarget, distributeOffset } = plan.shards[rank]!;
  let row = 0;
  for (let node = 0; node < spec.nodes; node++) {
    const forwarder = forwarders[node]!;
    for (const end = Math.min(row + forwardRows[node]!, forwardToken.length); row < end; row++) {
      const firstEntry = distributeOffset[row]!;
      const endEntry = distributeOffset[row + 1]!;
      const token = forwardToken[row]!;
      yield { row, node, forwarder, token, target: forwardTarget[row]!, firstEntry, endEntry };
    }
  }
}
