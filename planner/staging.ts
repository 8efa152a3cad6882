// Staging rows of hierarchical plans. A forwarder's staging rows are those of its sources, in ascending rank order;
// a row that lands in a slot of the forwarder leaves its staging row unused, so that addresses follow from the facts.

import { forwardersOf } from './balance.ts';
import { FuscoError } from './errors.ts';
import { MAX_ROWS } from './layout.ts';
import { nodeOf, type PlanSpec } from './spec.ts';

/** One rank's view of the staging rows. */
export interface StageTable {
  /** u32[nodes], the rank of each node that forwards for this one; itself on its own node. */
  readonly forwarder: Uint32Array;
  /** u32[nodes], first staging row of this rank's stream at each forwarder; 0 on its own node. */
  readonly firstRow: Uint32Array;
  /** As a forwarder: u32[ranks], first staging row of each source rank; 0 for ranks it does not forward for. */
  readonly sourceRow: Uint32Array;
  /** As a forwarder: u32[ranks], rows of each source rank. */
  readonly sourceRows: Uint32Array;
  /** As a forwarder: rows of the staging buffer. */
  readonly ownRows: number;
}

/** @param nodeRows u32[ranks, nodes]. Throws E_LIMIT where a staging buffer would pass MAX_ROWS. */
export function stageTable(
  spec: PlanSpec,
  groups: Uint16Array,
  nodeRows: Uint32Array,
  rank: number,
): StageTable {
  const { ranks, nodes } = spec;
  const own = nodeOf(spec, rank);
  const firstRow = new Uint32Array(nodes);
  const sourceRow = new Uint32Array(ranks);
  const sourceRows = new Uint32Array(ranks);
  let ownRows = 0;
  for (let source = 0; source < ranks; source++) {
    if (groups[source] !== groups[rank] || source === rank) continue;
    sourceRow[source] = ownRows;
    sourceRows[source] = nodeRows[source * nodes + own]!;
    ownRows += sourceRows[source]!;
    if (source > rank) continue;
    // Outside of the loop: with one rank a node it runs ranks x ranks times for one rank.
    const home = nodeOf(spec, source);
    for (let node = 0; node < nodes; node++) {
      if (node !== own && node !== home) firstRow[node]! += nodeRows[source * nodes + node]!;
    }
  }
  if (ownRows > MAX_ROWS) {
    throw new FuscoError('E_LIMIT', `rank ${rank} forwards more than ${MAX_ROWS} rows`, {
      rank,
      limit: MAX_ROWS,
    });
  }
  return { forwarder: forwardersOf(spec, groups, rank), firstRow, sourceRow, sourceRows, ownRows };
}
