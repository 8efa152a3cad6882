// Statistics of the tokens of a plan: to how many ranks and nodes each one goes, and how long segments are.

import type { Plan } from '../../planner/plan.ts';
import { nodeOf } from '../../planner/spec.ts';
import { type ForwardedRow, forwardedRows } from '../../planner/walk.ts';

/** counts[n] = tokens that reach n different ranks, or n different nodes; their own included. */
export interface Spread {
  readonly ranks: number[];
  readonly nodes: number[];
}

/** Counts the tokens by the ranks and by the nodes that their kept entries reach. O(entries). */
export function spreadOf({ spec, shards }: Plan): Spread {
  const { instanceRank, instances } = spec.placement;
  const most = Math.min(spec.topk, spec.ranks);
  const ranks = new Array<number>(most + 1).fill(0);
  const nodes = new Array<number>(Math.min(most, spec.nodes) + 1).fill(0);
  const nodeOfRank = Array.from({ length: spec.ranks }, (_, rank) => nodeOf(spec, rank));
  // The last token that reached each rank and node. With these stamps, no table must be cleared.
  const rankStamp = new Int32Array(spec.ranks);
  const nodeStamp = new Int32Array(spec.nodes);
  let stamp = 0;
  for (const { entrySlot, entryInstance, tokens, topk } of shards) {
    for (let token = 0, entry = 0; token < tokens; token++) {
      stamp++;
      let reachedRanks = 0;
      let reachedNodes = 0;
      for (let k = 0; k < topk; k++, entry++) {
        const instance = entryInstance[entry]!;
        if (entrySlot[entry]! < 0 || instance >= instances) continue;
        const rank = instanceRank[instance]!;
        if (rankStamp[rank] === stamp) continue;
        rankStamp[rank] = stamp;
        reachedRanks++;
        const node = nodeOfRank[rank]!;
        if (nodeStamp[node] === stamp) continue;
        nodeStamp[node] = stamp;
        reachedNodes++;
      }
      ranks[reachedRanks]!++;
      nodes[reachedNodes]!++;
    }
  }
  return { ranks, nodes };
}

/** Segments by length: bin i holds those of 2^i to 2^(i+1) - 1 rows. */
export interface Lengths {
  readonly bins: number[];
  readonly segments: number;
  readonly rows: number;
  /** Longest segment in rows. */
  readonly longest: number;
}

class LengthCounter {
  readonly #bins: number[] = [];
  #segments = 0;
  #rows = 0;
  #longest = 0;
  #open = 0;

  /** One more row, which continues the open segment or begins one. */
  add(continues: boolean): void {
    if (!continues) this.#close();
    this.#open++;
    this.#rows++;
  }

  #close(): void {
    if (this.#open === 0) return;
    const bin = Math.floor(Math.log2(this.#open));
    while (this.#bins.length <= bin) this.#bins.push(0);
    this.#bins[bin]!++;
    this.#segments++;
    this.#longest = Math.max(this.#longest, this.#open);
    this.#open = 0;
  }

  finish(): Lengths {
    this.#close();
    return { bins: this.#bins, segments: this.#segments, rows: this.#rows, longest: this.#longest };
  }
}

/** Runs of direct rows that are contiguous at the source and at the destination. O(direct rows). */
export function directLengths({ shards }: Plan): Lengths {
  const counter = new LengthCounter();
  for (const { sendEntry, entrySlot, entryInstance, topk } of shards) {
    let [lastToken, lastSlot, lastInstance] = [-1, -1, -1];
    for (const entry of sendEntry) {
      const token = Math.floor(entry / topk);
      const slot = entrySlot[entry]!;
      const instance = entryInstance[entry]!;
      counter.add(instance === lastInstance && token === lastToken + 1 && slot === lastSlot + 1);
      [lastToken, lastSlot, lastInstance] = [token, slot, instance];
    }
  }
  return counter.finish();
}

/** Likewise of rows that cross between nodes: from consecutive tokens to consecutive rows at the forwarder. */
export function forwardLengths(plan: Plan): Lengths {
  const counter = new LengthCounter();
  for (const rank of plan.shards.keys()) {
    let before: ForwardedRow | undefined;
    for (const next of forwardedRows(plan, rank)) {
      // Slots count upwards; landing rows are stored as their complement, which counts downwards.
      const step = next.target < 0 ? -1 : 1;
      counter.add(
        before !== undefined &&
          next.node === before.node &&
          next.token === before.token + 1 &&
          next.target < 0 === before.target < 0 &&
          next.target === before.target + step,
      );
      before = next;
    }
  }
  return counter.finish();
}
