// Replica rule `quota-1`: how many rows of each source rank go to each instance. docs/replicas.md specifies the algorithm;
// its steps have the same numbers here. Numbers are integers below 2^53 and ties are broken by the lowest index, so every
// rank and every implementation gets the same quotas.
//
// An expert with one instance takes part in balancing as well, where its rows cannot leave their rank.

import { groupReplicas, type ReplicaGroups } from './replicaGroups.ts';
import { RowBalancer, type Start } from './rowBalancer.ts';
import type { PlanSpec } from './spec.ts';

/** Fills `rows`, one element per source rank, with the counts of one expert. */
function readExpert(rows: Float64Array, counts: Uint32Array, expert: number, experts: number): void {
  for (let rank = 0, at = expert; rank < rows.length; rank++, at += experts) rows[rank] = counts[at]!;
}

function sumRange(values: Float64Array, from: number, end: number): number {
  let total = 0;
  for (let at = from; at < end; at++) total += values[at]!;
  return total;
}

/** f64[experts], rows of each expert. */
function expertTotals({ ranks, experts }: PlanSpec, counts: Uint32Array): Float64Array {
  const totals = new Float64Array(experts);
  for (let rank = 0, at = 0; rank < ranks; rank++) {
    for (let expert = 0; expert < experts; expert++, at++) totals[expert]! += counts[at]!;
  }
  return totals;
}

/** Step 1, the bound: the number of rows that the busiest rank receives in any case. */
function leastBound({ ranks, placement }: PlanSpec, { list, first }: ReplicaGroups, totals: Float64Array) {
  const fixed = new Float64Array(ranks);
  let bound = Math.ceil(sumRange(totals, 0, totals.length) / ranks);
  for (let expert = 0; expert < totals.length; expert++) {
    const hosts = first[expert + 1]! - first[expert]!;
    bound = Math.max(bound, Math.ceil(totals[expert]! / hosts));
    if (hosts === 1) fixed[placement.instanceRank[list[first[expert]!]!]!]! += totals[expert]!;
  }
  for (const rows of fixed) bound = Math.max(bound, rows);
  return bound;
}

/** Steps 1 and 2: rows stay on their rank or node if it has an instance, and are spread evenly otherwise. */
function startNear(spec: PlanSpec, groups: ReplicaGroups, counts: Uint32Array): Start {
  const { ranks, experts, ranksPerNode, placement } = spec;
  const { list, first, groupFirst, node } = groups;
  const { instanceRank } = placement;
  const rows = new Float64Array(placement.instances);
  const demand = new Float64Array(node.length);
  const source = new Float64Array(ranks);
  const spread = (from: number, end: number, total: number): void => {
    const share = Math.floor(total / (end - from));
    const rest = total % (end - from);
    for (let at = from; at < end; at++) rows[list[at]!]! += share + (at - from < rest ? 1 : 0);
  };
  const totals = expertTotals(spec, counts);
  for (let expert = 0, g = 0; expert < experts; expert++) {
    const [from, end] = [first[expert]!, first[expert + 1]!];
    let foreign = totals[expert]!;
    if (end - from === 1) {
      rows[list[from]!] = foreign;
      demand[g++] = foreign;
      continue;
    }
    readExpert(source, counts, expert, experts);
    for (; groupFirst[g]! < end; g++) {
      const rank = node[g]! * ranksPerNode;
      demand[g] = sumRange(source, rank, rank + ranksPerNode);
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
  }
  return { rows, demand, bound: leastBound(spec, groups, totals) };
}

/** Quotas of experts with one instance: all their rows. */
function fillSingles(
  quotas: Uint32Array,
  spec: PlanSpec,
  { list, first }: ReplicaGroups,
  counts: Uint32Array,
) {
  const { ranks, experts, placement } = spec;
  const only = new Int32Array(experts).fill(-1);
  for (let expert = 0; expert < experts; expert++) {
    if (first[expert + 1]! - first[expert]! === 1) only[expert] = list[first[expert]!]!;
  }
  for (let rank = 0, at = 0; rank < ranks; rank++) {
    const row = rank * placement.instances;
    for (let expert = 0; expert < experts; expert++, at++) {
      if (only[expert]! >= 0) quotas[row + only[expert]!] = counts[at]!;
    }
  }
}

/** Step 5: the source ranks of the rows of each instance, u32[ranks, instances]. */
function splitBySource(spec: PlanSpec, groups: ReplicaGroups, rows: Float64Array, counts: Uint32Array) {
  const { ranks, experts, ranksPerNode, placement } = spec;
  const { list, first, groupFirst, node } = groups;
  const { instances, instanceRank } = placement;
  const quotas = new Uint32Array(ranks * instances);
  fillSingles(quotas, spec, groups, counts);
  const left = new Float64Array(ranks);
  /** Gives rows of the ranks from `rank` to `endRank` to the instances at the places from `at` to `end`, both in order. */
  const fill = (at: number, end: number, rank: number, endRank: number): void => {
    let place = at;
    let from = rank;
    while (from < endRank && place < end) {
      const instance = list[place]!;
      const count = Math.min(left[from]!, rows[instance]!);
      if (count > 0) quotas[from * instances + instance]! += count;
      left[from]! -= count;
      rows[instance]! -= count;
      if (left[from] === 0) from++;
      else place++;
    }
  };
  for (let expert = 0, g = 0; expert < experts; expert++) {
    const [from, end] = [first[expert]!, first[expert + 1]!];
    if (end - from === 1) {
      g++;
      continue;
    }
    readExpert(left, counts, expert, experts);
    for (let at = from; at < end; at++) {
      const rank = instanceRank[list[at]!]!;
      fill(at, at + 1, rank, rank + 1);
    }
    for (; groupFirst[g]! < end; g++) {
      const rank = node[g]! * ranksPerNode;
      fill(groupFirst[g]!, groupFirst[g + 1]!, rank, rank + ranksPerNode);
    }
    fill(from, end, 0, ranks);
  }
  return quotas;
}

/**
 * Rows of every (source rank, instance) pair, before the capacity: the quotas under `quota-1`, otherwise the counts.
 * O(ranks x experts) for the counts, and for each of at most 512 rounds O(instances).
 *
 * @param counts u32[ranks, experts] under `quota-1`, else u32[ranks, instances]
 * @returns u32[ranks, instances]
 */
export function instanceCounts(spec: PlanSpec, counts: Uint32Array): Uint32Array {
  if (spec.replicas !== 'quota-1') return counts;
  const groups = groupReplicas(spec);
  const start = startNear(spec, groups, counts);
  let balancer = new RowBalancer(spec.placement, groups, start);
  if (balancer.balance()) {
    // Step 4: rows that were moved for a bound that cannot be met stay near their source.
    balancer = new RowBalancer(spec.placement, groups, { ...start, bound: balancer.bound });
    balancer.balance();
  }
  return splitBySource(spec, groups, balancer.rows, counts);
}
