// Proposes placements, and compares them with others.

import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { makePlacement, type PlacementMap } from '../../planner/placement.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { sum } from '../../planner/totals.ts';
import { fewestReplicas } from './fewestReplicas.ts';
import { countChoices, proposePlacement } from './propose.ts';
import { stepRatios } from './quotaLoads.ts';

export interface CompareOptions {
  ranks: number;
  ranksPerNode?: number;
  /** Number of replicas; with `target`, their maximum. Default 0, or with `target` as many as needed. */
  replicas?: number;
  /** Largest rows of a rank over the mean in any step, from 1. */
  target?: number;
  /** Number of last steps that are excluded from the proposal. Default 0. */
  holdout?: number;
}

/** Rows of the busiest rank over the mean. */
export interface Ratios {
  readonly worst: number;
  readonly mean: number;
}

export interface Candidate {
  readonly name: 'blocks' | 'packed, no replicas' | 'EPLB-style' | 'proposed';
  readonly map: PlacementMap;
  readonly replicas: number;
  /** Over the steps that the proposal was made from. */
  readonly steps: Ratios;
  /** Over the last steps, which were held out. */
  readonly later?: Ratios;
}

function ratiosOf(values: readonly number[]): Ratios {
  return { worst: Math.max(0, ...values), mean: values.length === 0 ? 0 : sum(values) / values.length };
}

function checkTarget(target: number | undefined): number | undefined {
  if (target === undefined || (target >= 1 && target <= 1000)) return target;
  throw new FuscoError('E_OPTION', `target ${target} is not in 1..1000: rows of a rank over the mean`, {
    limit: 1,
  });
}

/** The steps of the proposal, and those that are held out. Throws E_OPTION if no step is left for the proposal. */
function divide(steps: readonly (readonly number[])[], holdout: number) {
  const most = steps.length - 1;
  if (holdout > most) {
    throw new FuscoError(
      'E_OPTION',
      `holdout ${holdout} of ${steps.length} steps leaves none to propose from`,
      {
        value: holdout,
        limit: most,
      },
    );
  }
  return [steps.slice(0, steps.length - holdout), steps.slice(steps.length - holdout)] as const;
}

function better(own: Candidate, other: Candidate): Candidate {
  return other.steps.worst < own.steps.worst ? other : own;
}

/** The candidate of this module, or another one that meets the target with fewer replicas or comes closer to it. */
function fewest(own: Candidate, other: (replicas: number) => Candidate, target: number): Candidate {
  if (own.steps.worst > target) return better(own, other(own.replicas));
  let best = own;
  while (best.replicas > 0) {
    const next = other(best.replicas - 1);
    if (next.steps.worst > target) break;
    best = next;
  }
  return best;
}

/**
 * Proposes a placement for the replica rule `quota-1`, and measures it next to contiguous blocks, the best packing
 * without replicas, and EPLB's heuristic with the same number of replicas. If EPLB's placement meets the target with
 * fewer replicas, or is better, it is the proposal.
 *
 * @param steps rows of each expert in each step
 * @returns the four in this order; the proposal is the last
 * @throws FuscoError E_OPTION for options out of range
 */
export function compareProposals(
  steps: readonly (readonly number[])[],
  { ranks, ranksPerNode, replicas, target, holdout = 0 }: CompareOptions,
): Candidate[] {
  const [seen, later] = divide(steps, checkInteger('holdout', holdout, 0, steps.length));
  const experts = steps[0]!.length;
  const total = steps[0]!.map((_, expert) => sum(seen.map((rows) => rows[expert]!)));
  const greedy = (count: number) =>
    proposePlacement(total, {
      ranks,
      replicas: count,
      ...(ranksPerNode === undefined ? {} : { ranksPerNode }),
    }).map;
  const measure = (name: Candidate['name'], map: PlacementMap): Candidate => {
    const placement = makePlacement(experts, ranks, map);
    return {
      ...{ name, map, replicas: placement.instances - experts },
      steps: ratiosOf(stepRatios(placement, seen)),
      ...(later.length === 0 ? {} : { later: ratiosOf(stepRatios(placement, later)) }),
    };
  };
  const packed = measure('packed, no replicas', greedy(0));
  const limit = Math.min(experts * (ranks - 1), MAX_INSTANCES - experts);
  const most = checkInteger('replicas', replicas ?? (target === undefined ? 0 : limit), 0, limit);
  const useAll = target === undefined;
  const own = measure(
    'proposed',
    fewestReplicas(packed.map, seen, { ranks, target: checkTarget(target) ?? 1, most, useAll }),
  );
  const eplb = (count: number) => measure('EPLB-style', greedy(count));
  const proposed = target === undefined ? better(own, eplb(most)) : fewest(own, eplb, target);
  const compared = eplb(useAll ? most : proposed.replicas);
  return [measure('blocks', []), packed, compared, { ...proposed, name: 'proposed' }];
}

/** The placement that `placement propose` writes for one routing. Throws E_OPTION for options out of range. */
export function proposedMap(
  tables: readonly RoutingTable[],
  experts: number,
  options: Omit<CompareOptions, 'holdout'>,
): PlacementMap {
  return compareProposals([countChoices(tables, experts)], options).at(-1)!.map;
}
