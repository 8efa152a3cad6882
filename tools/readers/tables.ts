// Routing tables split over ranks, and joined again.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type RecordedTable, sliceOrigins } from './origins.ts';

/** Contiguous blocks of the tokens, as views; if `ranks` does not divide them, the first blocks have one more token. */
export function splitTable({ ids, tokens, topk, origins }: RecordedTable, ranks: number): RecordedTable[] {
  const least = Math.floor(tokens / ranks);
  const longer = tokens % ranks;
  return Array.from({ length: ranks }, (_, rank) => {
    const first = rank * least + Math.min(rank, longer);
    const count = rank < longer ? least + 1 : least;
    const block = { ids: ids.subarray(first * topk, (first + count) * topk), tokens: count, topk };
    return { ...block, origins: sliceOrigins(origins, first, count) };
  });
}

/** The tokens of all ranks in order, as one table. The tables have one topk. */
export function joinTables(tables: readonly RoutingTable[]): RoutingTable {
  const tokens = tables.reduce((sum, table) => sum + table.tokens, 0);
  const { topk } = tables[0]!;
  const ids = new Int32Array(tokens * topk);
  let at = 0;
  for (const table of tables) {
    for (const id of table.ids) ids[at++] = Number(id);
  }
  return { ids, tokens, topk };
}

/** The largest id of all tables plus one: the minimum number of experts. Throws E_OPTION beyond the limit. */
export function leastExperts(tables: readonly RoutingTable[]): number {
  let most = 0;
  for (const { ids } of tables) {
    for (const id of ids) if (Number(id) >= most) most = Number(id) + 1;
  }
  if (most <= MAX_INSTANCES) return Math.max(1, most);
  throw new FuscoError('E_ROUTING_ID', `id ${most - 1}: a plan has at most ${MAX_INSTANCES} experts`);
}
