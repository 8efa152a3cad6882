// One set of tokens, their choices and what the experts make of them, laid out for any number of ranks: contiguous blocks
// of tokens. Sums by token have the same bits for all of them.

import { type FloatDtype, rowCodec } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { splitTable } from '../../tools/readers/tables.ts';
import { makeRouting, randomFrom, toTables } from './workloads.ts';

const TOKENS = 130;
const EXPERTS = 64;
const TOPK = 6;
const ENTRIES = TOKENS * TOPK;

export const SAME_TOKENS_OPTIONS = { experts: EXPERTS, capacity: 16, align: 2, hidden: 24 } as const;

function routing(): RoutingTable {
  const workload = { family: 'hotExperts', seed: 11, ranks: 1, tokens: TOKENS, topk: TOPK } as const;
  return toTables(makeRouting({ ...workload, experts: EXPERTS, masked: 0.1 }), TOPK)[0]!;
}

/** One table per rank. */
export function tablesOn(ranks: number): RoutingTable[] {
  return splitTable(routing(), ranks);
}

/** First entry of each rank among the entries of all ranks. */
function firstEntries(plan: VerifiedPlan): number[] {
  let first = 0;
  return plan.shards.map(({ entries }) => {
    first += entries;
    return first - entries;
  });
}

/** [tokens, topk] of every rank. */
export function weightsOn(plan: VerifiedPlan): Float32Array[] {
  const random = randomFrom(12);
  const all = Float32Array.from({ length: ENTRIES }, () => random() + 0.1);
  const first = firstEntries(plan);
  return plan.shards.map(({ entries }, rank) => all.slice(first[rank]!, first[rank]! + entries));
}

/** What the expert of each entry returns, in the slots of the receive buffers; padding is zero. */
export function expertRowsOn(plan: VerifiedPlan, dtype: FloatDtype, rowBytes: number): Uint8Array[] {
  const random = randomFrom(13);
  const codec = rowCodec(dtype, rowBytes);
  const rows = new Uint8Array(ENTRIES * rowBytes);
  for (let entry = 0; entry < ENTRIES; entry++) {
    // Of many sizes, so that another order of additions gives other bits.
    const values = Float32Array.from(
      { length: codec.elements },
      () => (random() - 0.5) * 2 ** (8 * random()),
    );
    codec.store(values, rows, entry);
  }
  const received = plan.shards.map(({ recvRows }) => new Uint8Array(recvRows * rowBytes));
  const first = firstEntries(plan);
  for (const { rank, entrySlot, entryInstance } of plan.shards) {
    for (const [entry, slot] of entrySlot.entries()) {
      if (slot < 0) continue;
      const owner = plan.spec.placement.instanceRank[entryInstance[entry]!]!;
      const from = (first[rank]! + entry) * rowBytes;
      received[owner]!.set(rows.subarray(from, from + rowBytes), slot * rowBytes);
    }
  }
  return received;
}
