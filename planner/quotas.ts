// Replica rule `quota-1`: how many rows of each source rank go to each instance. docs/replicas.md specifies the algorithm;
// its steps have the same numbers here. Numbers are integers below 2^53 and ties are broken by the lowest index, so every
// rank and every implementation gets the same quotas.
//
// An expert with one instance is not treated specially: all its rows start at that instance and cannot leave it.

import { groupReplicas, type ReplicaGroups } from './replicaGroups.ts';
import { RowBalancer, type Start } from './rowBalancer.ts';
import type { PlanSpec } from './spec.ts';
import { sum } from './totals.ts';

/** Fills `rows`, one element per source rank, with the counts of one expert. */
function readExpert(rows: Float64Array, counts: Uint32Array, expert: number, experts: number): void {
  for (let rank = 0; rank < rows.length; rank++) rows[rank] = counts[rank * experts + expert]!;
}

/** Steps 1 and 2: rows stay on their rank or node if it has an instance, and are spread evenly otherwise. */
function startNear(spec: PlanSpec, groups: ReplicaGroups, counts: Uint32Array): Start {
  const { ranks, experts, ranksPerNode, placement } = spec;
  const { list, first, groupFirst, node } = groups;
  const { instanceRank } = placement;
  const rows = new Float64Array(placement.instances);
  const demand = new Float64Array(node.length);
  const fixed = new Float64Array(ranks);
  const source = new Float64Array(ranks);
  const spread = (from: number, end: number, total: number): void => {
    const share = Math.floor(total / (end - from));
    const rest = total % (end - from);
    for (let at = from; at < end; at++) rows[list[at]!]! += share + (at - from < rest ? 1 : 0);
  };
  let total = 0;
  let bound = 0;
  for (let expert = 0, g = 0; expert < experts; expert++) {
    const [from, end] = [first[expert]!, first[expert + 1]!];
    readExpert(source, counts, expert, experts);
    const all = sum(source);
    let foreign = all;
    for (; groupFirst[g]! < end; g++) {
      const rank = node[g]! * ranksPerNode;
      demand[g] = sum(source.subarray(rank, rank + ranksPerNode));
      let rest = demand[g]!;
      for (let at = groupFirst[g]!; at < groupFirst[g + 1]!; at++) {
        const local = source[instanceRank[list[at]!]!]!;
        rows[list[at]!]! += local;
        rest -= local;
      }
      spread(groupFirst[g]!, groupFirst[g + 1]!, rest);
      foreign -= demand[g]!;
    }
    spread(from, end, foreign);
    total += all;
    bound = Math.max(bound, Math.ceil(all / (end - from)));
    if (end - from === 1) fixed[instanceRank[list[from]!]!]! += all;
  }
  for (const rows of fixed) bound = Math.max(bound, rows);
  return { rows, demand, bound: Math.max(bound, Math.ceil(total / ranks)) };
}

/** Step 5: which sources the rows of each instance come from, u32[ranks, instances]. */
function splitBySource(spec: PlanSpec, groups: ReplicaGroups, rows: Float64Array, counts: Uint32Array) {
  const { ranks, experts, ranksPerNode, placement } = spec;
  const { list, first, groupFirst, node } = groups;
  const { instances, instanceRank } = placement;
  const quotas = new Uint32Array(ranks * instances);
  const left = new Float64Array(ranks);
  const free = rows.slice();
  const give = (rank: number, instance: number): void => {
    const count = Math.min(left[rank]!, free[instance]!);
    quotas[rank * instances + instance]! += count;
    left[rank]! -= count;
    free[instance]! -= count;
  };
  /** Gives rows of the ranks from `rank` to `endRank` to the instances at the places from `at` to `end`, both in order. */
  const fill = (at: number, end: number, rank: number, endRank: number): void => {
    let place = at;
    for (let from = rank; from < endRank && place < end; from++) {
      while (left[from]! > 0 && place < end) {
        give(from, list[place]!);
        if (free[list[place]!] === 0) place++;
      }
    }
  };
  for (let expert = 0, g = 0; expert < experts; expert++) {
    const [from, end] = [first[expert]!, first[expert + 1]!];
    readExpert(left, counts, expert, experts);
    for (let at = from; at < end; at++) give(instanceRank[list[at]!]!, list[at]!);
    for (; groupFirst[g]! < end; g++) {
      const rank = node[g]! * ranksPerNode;
      fill(groupFirst[g]!, groupFirst[g + 1]!, rank, rank + ranksPerNode);
    }
    fill(from, end, 0, ranks);
  }
  return quotas;
}

/**
 * Rows of every (source rank, instance) pair, before the capacity: the quotas under `quota-1`, else the counts themselves.
 * O(ranks x experts) for the counts, and for each of at most 512 rounds O(instances).
 *
 * @param counts u32[ranks, experts] under `quota-1`, else u32[ranks, instances]
 * @returns u32[ranks, instances]
 */
export function instanceCounts(spec: PlanSpec, counts: Uint32Array): Uint32Array {
  if (spec.replicas !== 'quota-1') return counts;
  const groups = groupReplicas(spec);
  const start = startNear(spec, groups, counts);
  let balancer = new RowBalancer(spec, groups, start);
  if (balancer.balance()) {
    // Step 4: what was moved for a bound that cannot be met stays near its source.
    balancer = new RowBalancer(spec, groups, { ...start, bound: balancer.bound });
    balancer.balance();
  }
  return splitBySource(spec, groups, balancer.rows, counts);
}
