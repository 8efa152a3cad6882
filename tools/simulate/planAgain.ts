// The same routing with other ranks, tokens or capacity.

import { FuscoError } from '../../planner/errors.ts';
import { defaultRanksPerNode } from '../../planner/placement.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { optionsOf, type PlanOptions } from '../../planner/spec.ts';
import { proposedMap } from '../placement/compareProposals.ts';
import { joinTables, splitTable } from '../readers/tables.ts';
import { resampleTokens } from '../workload/families.ts';
import { routingOf } from './compare.ts';

/** What to change; missing fields leave the plan as it is. */
export interface Change {
  readonly ranks?: number;
  /** Tokens per rank: each repeats the choice of a recorded token, drawn at random with a fixed seed. */
  readonly tokens?: number;
  /** Rows per expert; 0 is no limit. */
  readonly capacity?: number;
  /** Experts are placed by their counts, with this many more instances than experts, as `placement propose` does. */
  readonly replicas?: number;
  /** Options in place of the plan's. */
  readonly options?: Partial<PlanOptions>;
}

const SEED = 1;

/**
 * Plans the routing of a plan again. Without `tokens`, other ranks share the same tokens in contiguous blocks.
 *
 * @throws FuscoError E_OPTION if the plan has an explicit placement for another number of ranks; errors of the planner
 */
export function planAgain(plan: VerifiedPlan, planner: Planner, change: Change): VerifiedPlan {
  const { spec } = plan;
  const { options = {}, tokens, replicas } = change;
  const { ranks = options.ranks ?? spec.ranks, capacity = options.capacity ?? spec.capacity } = change;
  const isSame = ranks === spec.ranks && capacity === spec.capacity && Object.keys(options).length === 0;
  if (isSame && tokens === undefined && replicas === undefined) return plan;
  const isPlaced = replicas !== undefined || options.placement !== undefined;
  if (!isPlaced && ranks !== spec.ranks && spec.placement.map.length > 0) {
    const text = `the plan places experts on ${spec.ranks} ranks: plan the routing for ${ranks} ranks, with a placement for them`;
    throw new FuscoError('E_OPTION', text, { value: ranks });
  }
  const routing = routingOf(plan);
  const same = ranks === spec.ranks ? routing : splitTable(joinTables(routing), ranks);
  const tables = tokens === undefined ? same : resampleTokens(routing, { seed: SEED, ranks, tokens });
  const ranksPerNode =
    options.ranksPerNode ??
    (ranks % spec.ranksPerNode === 0 ? spec.ranksPerNode : defaultRanksPerNode(ranks));
  const placement =
    replicas === undefined
      ? {}
      : { placement: proposedMap(tables, spec.experts, { ranks, replicas, ranksPerNode }) };
  return planner.planAll(tables, {
    ...{ ...optionsOf(spec), ...options },
    ...{ ranks, ranksPerNode, capacity, ...placement },
  });
}
