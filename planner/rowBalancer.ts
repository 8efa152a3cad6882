// Step 3 of the replica rule `quota-1` (docs/replicas.md): moves rows from ranks above a bound to ranks below it, along
// chains of replicas: from one rank to a second rank that hosts a common expert, from there to a third rank that hosts
// another common expert with the second, and so on. These are augmenting paths of a flow, searched breadth first from all
// ranks above the bound.

import type { Placement } from './placement.ts';
import type { ReplicaGroups } from './replicaGroups.ts';

/** Maximum number of rounds of one pass. */
const ROUNDS = 256;
const NONE = -1;

/** Rows of every instance before they are balanced, and what follows from the counts alone. */
export interface Start {
  /** f64[instances]. */
  readonly rows: Float64Array;
  /** f64[groups], rows for the group's expert that start on its node. */
  readonly demand: Float64Array;
  /** Number of rows that the busiest rank receives in any case. */
  readonly bound: number;
}

export class RowBalancer {
  readonly #placement: Placement;
  readonly #groups: ReplicaGroups;
  readonly #demand: Float64Array;
  /** Rows of every instance, group and rank. */
  readonly #rows: Float64Array;
  readonly #held: Float64Array;
  readonly #load: Float64Array;
  #bound: number;
  #closed: readonly number[] = [];
  /**
   * Number of searches so far; ranks, experts and groups that a search has reached or finished are marked with its
   * number.
   */
  #search = 0;
  readonly #rankSeen: Uint32Array;
  readonly #expertSeen: Uint32Array;
  readonly #groupSeen: Uint32Array;
  /** Ranks in the order in which they are reached. */
  readonly #queue: Uint32Array;
  /** Instances between which rows move on the last hop to a rank; NONE where the chain starts. */
  readonly #from: Int32Array;
  readonly #to: Int32Array;

  constructor(placement: Placement, groups: ReplicaGroups, start: Start) {
    const { ranks, experts, instances, instanceRank } = placement;
    this.#placement = placement;
    this.#groups = groups;
    this.#demand = start.demand;
    this.#bound = start.bound;
    this.#rows = start.rows.slice();
    this.#held = new Float64Array(groups.node.length);
    this.#load = new Float64Array(ranks);
    for (let i = 0; i < instances; i++) {
      this.#held[groups.groupOf[i]!]! += this.#rows[i]!;
      this.#load[instanceRank[i]!]! += this.#rows[i]!;
    }
    this.#rankSeen = new Uint32Array(ranks);
    this.#expertSeen = new Uint32Array(experts);
    this.#groupSeen = new Uint32Array(groups.node.length);
    this.#queue = new Uint32Array(ranks);
    this.#from = new Int32Array(ranks);
    this.#to = new Int32Array(ranks);
  }

  /** f64[instances]. */
  get rows(): Float64Array {
    return this.#rows;
  }

  get bound(): number {
    return this.#bound;
  }

  /** f64[ranks], rows of every rank. */
  get load(): Float64Array {
    return this.#load;
  }

  /** The ranks for which the bound was raised last: none of their rows can go to another rank. */
  get closed(): readonly number[] {
    return this.#closed;
  }

  /** Runs until no rank is above the bound, or for ROUNDS rounds; returns whether it had to raise the bound. */
  balance(): boolean {
    const { bound } = this;
    for (let round = 0; round < ROUNDS; round++) {
      const near = this.#reach(true);
      if (near === 0) break;
      if (this.#push(near, true)) continue;
      const reached = this.#reach(false);
      if (!this.#push(reached, false)) this.#raise(reached);
    }
    return this.#bound > bound;
  }

  /**
   * Fills the queue from the ranks above the bound on; returns its length.
   *
   * @param near whether to allow only moves that bring no more rows to other nodes
   */
  #reach(near: boolean): number {
    const { rankFirst, instanceExpert } = this.#placement;
    const { first, groupFirst, groupOf } = this.#groups;
    this.#search++;
    let length = 0;
    for (let rank = 0; rank < this.#load.length; rank++) {
      if (this.#load[rank]! > this.#bound) length = this.#enqueue(rank, NONE, NONE, length);
    }
    for (let head = 0; head < length; head++) {
      const rank = this.#queue[head]!;
      for (let i = rankFirst[rank]!; i < rankFirst[rank + 1]!; i++) {
        const expert = instanceExpert[i]!;
        if (this.#rows[i] === 0 || this.#expertSeen[expert] === this.#search) continue;
        const group = groupOf[i]!;
        if (near && this.#held[group]! <= this.#demand[group]!) {
          if (this.#groupSeen[group] === this.#search) continue;
          this.#groupSeen[group] = this.#search;
          length = this.#enqueueHosts(i, groupFirst[group]!, groupFirst[group + 1]!, length);
        } else {
          this.#expertSeen[expert] = this.#search;
          length = this.#enqueueHosts(i, first[expert]!, first[expert + 1]!, length);
        }
      }
    }
    return length;
  }

  /** Appends the hosts at some places of the list, if they are new. */
  #enqueueHosts(from: number, place: number, end: number, length: number): number {
    let next = length;
    for (let at = place; at < end; at++) {
      const to = this.#groups.list[at]!;
      const rank = this.#placement.instanceRank[to]!;
      if (this.#rankSeen[rank] !== this.#search) next = this.#enqueue(rank, from, to, next);
    }
    return next;
  }

  #enqueue(rank: number, from: number, to: number, length: number): number {
    this.#rankSeen[rank] = this.#search;
    this.#from[rank] = from;
    this.#to[rank] = to;
    this.#queue[length] = rank;
    return length + 1;
  }

  /** Moves rows to the ranks of the queue below the bound, in order; returns whether any moved. */
  #push(length: number, near: boolean): boolean {
    let moved = false;
    for (let at = 0; at < length; at++) {
      const rank = this.#queue[at]!;
      if (this.#load[rank]! >= this.#bound) continue;
      const rows = this.#movable(rank, near);
      if (rows <= 0) continue;
      this.#move(rank, rows);
      moved = true;
    }
    return moved;
  }

  /** Rows that can move along the whole chain to a rank. */
  #movable(target: number, near: boolean): number {
    const { groupOf } = this.#groups;
    let rows = this.#bound - this.#load[target]!;
    let rank = target;
    for (let from = this.#from[rank]!; from !== NONE; from = this.#from[rank]!) {
      rows = Math.min(rows, this.#rows[from]!);
      const group = groupOf[from]!;
      if (near && groupOf[this.#to[rank]!] !== group) {
        rows = Math.min(rows, this.#held[group]! - this.#demand[group]!);
      }
      rank = this.#placement.instanceRank[from]!;
    }
    return Math.min(rows, this.#load[rank]! - this.#bound);
  }

  #move(target: number, rows: number): void {
    const { groupOf } = this.#groups;
    this.#load[target]! += rows;
    let rank = target;
    for (let from = this.#from[rank]!; from !== NONE; from = this.#from[rank]!) {
      const to = this.#to[rank]!;
      this.#rows[from]! -= rows;
      this.#rows[to]! += rows;
      this.#held[groupOf[from]!]! -= rows;
      this.#held[groupOf[to]!]! += rows;
      rank = this.#placement.instanceRank[from]!;
    }
    this.#load[rank]! -= rows;
  }

  /** The rows of these ranks cannot leave them: their mean, rounded up, is the least bound. */
  #raise(length: number): void {
    let rows = 0;
    for (let at = 0; at < length; at++) rows += this.#load[this.#queue[at]!]!;
    this.#bound = Math.ceil(rows / length);
    this.#closed = [...this.#queue.subarray(0, length)];
  }
}
