// Landing rows of hierarchical plans. A forwarder's landing buffer has one row for each row that it forwards, by source
// rank. A row that can arrive in a slot of the forwarder leaves its landing row unused, so addresses follow from the
// facts alone.

import { forwardersOf } from './balance.ts';
import { FuscoError } from './errors.ts';
import { MAX_ROWS } from './format/layout.ts';
import { nodeOf, type PlanSpec } from './spec.ts';

/** One rank's view of the landing rows. */
export interface LandingTable {
  /** u32[nodes], the rank of each node that forwards for this one; itself on its own node. */
  readonly forwarder: Uint32Array;
  /** u32[nodes], first landing row of this rank's rows at each forwarder; 0 on its own node. */
  readonly firstRow: Uint32Array;
  /** As a forwarder: u32[ranks], first landing row of each source rank; 0 for ranks it does not forward for. */
  readonly sourceRow: Uint32Array;
  /** As a forwarder: u32[ranks], rows of each source rank. */
  readonly sourceRows: Uint32Array;
  /** As a forwarder: rows of the landing buffer. */
  readonly localRows: number;
}

/**
 * The landing tables of a group, rank by rank. In ascending order they cost ranks x nodes in total, because the rows that
 * the lower ranks of a rail group send to each node are added up once.
 */
export class LandingTables {
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

  /** Throws E_LIMIT if the rank's landing buffer would exceed MAX_ROWS. */
  of(rank: number): LandingTable {
    this.#advanceTo(rank);
    const { ranks, nodes } = this.#spec;
    const group = this.#groups[rank]!;
    const localNode = nodeOf(this.#spec, rank);
    const firstRow = Uint32Array.from(this.#below.subarray(group * nodes, (group + 1) * nodes));
    firstRow[localNode] = 0;
    const sourceRow = new Uint32Array(ranks);
    const sourceRows = new Uint32Array(ranks);
    let localRows = 0;
    for (let source = 0; source < ranks; source++) {
      if (this.#groups[source] !== group || source === rank) continue;
      sourceRow[source] = localRows;
      sourceRows[source] = this.#nodeRows[source * nodes + localNode]!;
      localRows += sourceRows[source]!;
    }
    if (localRows > MAX_ROWS) {
      const text = `rank ${rank} forwards more than ${MAX_ROWS} rows`;
      throw new FuscoError('E_LIMIT', text, { rank, limit: MAX_ROWS });
    }
    const forwarder = forwardersOf(this.#spec, this.#groups, rank);
    return { forwarder, firstRow, sourceRow, sourceRows, localRows };
  }
}
