// The loads of a placement under the replica rule `quota-1`, if only the rows of each expert are known and not their
// source ranks.

import type { Placement } from '../../planner/placement.ts';
import { groupReplicas } from '../../planner/replicaGroups.ts';
import { RowBalancer } from '../../planner/rowBalancer.ts';
import { sum } from '../../planner/totals.ts';
import { maxOverMean } from '../figures/summary.ts';

export interface QuotaLoads {
  /** f64[ranks], rows of each rank. The largest is the least that the placement allows. */
  readonly loads: Float64Array;
  /**
   * If some rank has more than `allowed` rows: the set of ranks that limits it, whose experts have no other host;
   * ascending.
   */
  readonly closed: readonly number[];
}

/**
 * Rows of each rank after they were balanced between replicas. Rows move only as far as `allowed` requires.
 *
 * @param rows of each expert
 * @param allowed rows of a rank; default: the mean
 */
export function quotaLoads(placement: Placement, rows: readonly number[], allowed = 0): QuotaLoads {
  const groups = groupReplicas({ placement, ranksPerNode: 1 });
  const { list, first, node } = groups;
  const start = new Float64Array(placement.instances);
  rows.forEach((count, expert) => {
    const [from, end] = [first[expert]!, first[expert + 1]!];
    for (let at = from; at < end; at++) {
      start[list[at]!] =
        Math.floor((count * (at - from + 1)) / (end - from)) -
        Math.floor((count * (at - from)) / (end - from));
    }
  });
  const bound = Math.max(allowed, Math.ceil(sum(rows) / placement.ranks));
  const balancer = new RowBalancer(placement, groups, {
    rows: start,
    demand: new Float64Array(node.length),
    bound,
  });
  const raised = balancer.balance();
  return { loads: balancer.load, closed: raised ? [...balancer.closed].sort((a, b) => a - b) : [] };
}

/** Rows of the busiest rank divided by the mean, for each step with counts. */
export function stepRatios(placement: Placement, steps: readonly (readonly number[])[]): number[] {
  return steps
    .filter((rows) => sum(rows) > 0)
    .map((rows) => maxOverMean([...quotaLoads(placement, rows).loads]));
}
