// Staging rows of hierarchical plans. A forwarder's staging rows are those of its sources, in ascending rank order;
// a row that lands in a slot of the forwarder leaves its staging row unused, so that addresses follow from the facts.

import { forwardersOf } from './balance.ts';
import { FuscoError } from './errors.ts';
import { MAX_ROWS } from './format/layout.ts';
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

/**
 * The staging tables of a group, rank by rank. Made in ascending order they cost ranks x nodes in all: what lower
 * ranks of a group send to each node is summed up as ranks go by.
 */
export class StageTables {
  readonly #spec: PlanSpec;
  readonly #groups: Uint16Array;
  readonly #nodeRows: Uint32Array;
  /** [groups, nodes], rows of the ranks below `#passed`. */
  readonly #below: Float64Array;
  #passed = 0;

  /** @param nodeRows u32[ranks, nodes]; 0 for each rank's own node */
  constructor(spec: PlanSpec, groups: Uint16Array, nodeRows: Uint32Array) {
    this.#spec = spec;
    this.#groups = groups;
    this.#nodeRows = nodeRows;
    this.#below = new Float64Array(spec.ranksPerNode * spec.nodes);
  }

  #advanceTo(rank: number): void {
    const { nodes } = this.#spec;
    if (rank < this.#passed) {
      this.#below.fill(0);
      this.#passed = 0;
    }
    for (; this.#passed < rank; this.#passed++) {
      const at = this.#groups[this.#passed]! * nodes;
      const from = this.#passed * nodes;
      for (let node = 0; node < nodes; node++) this.#below[at + node]! += this.#nodeRows[from + node]!;
    }
  }

  /** Throws E_LIMIT where the rank's staging buffer would pass MAX_ROWS. */
  of(rank: number): StageTable {
    this.#advanceTo(rank);
    const { ranks, nodes } = this.#spec;
    const group = this.#groups[rank]!;
    const own = nodeOf(this.#spec, rank);
    const firstRow = Uint32Array.from(this.#below.subarray(group * nodes, (group + 1) * nodes));
    firstRow[own] = 0;
    const sourceRow = new Uint32Array(ranks);
    const sourceRows = new Uint32Array(ranks);
    let ownRows = 0;
    for (let source = 0; source < ranks; source++) {
      if (this.#groups[source] !== group || source === rank) continue;
      sourceRow[source] = ownRows;
      sourceRows[source] = this.#nodeRows[source * nodes + own]!;
      ownRows += sourceRows[source]!;
    }
    if (ownRows > MAX_ROWS) {
      const text = `rank ${rank} forwards more than ${MAX_ROWS} rows`;
      throw new FuscoError('E_LIMIT', text, { rank, limit: MAX_ROWS });
    }
    const forwarder = forwardersOf(this.#spec, this.#groups, rank);
    return { forwarder, firstRow, sourceRow, sourceRows, ownRows };
  }
}
