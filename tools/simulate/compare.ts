// A plan against the other ways to exchange the same routing.

import { SLOT_MASKED } from '../../planner/format/layout.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { Balance, BalanceRule } from '../../planner/spec.ts';
import { optionsOf } from '../../planner/spec.ts';
import { planLoads } from './loads.ts';
import { type TimedExchange, timeExchange } from './model.ts';
import { type Exchanges, flatFused, planExchanges, unfused } from './strategies.ts';
import { checkFit, type Topology } from './topology.ts';

/** One strategy's predicted times. */
export interface Prediction {
  readonly strategy: 'unfused' | 'flat fused' | 'hier';
  /** Of the balancer, if there is one. */
  readonly rule: BalanceRule | 'none';
  readonly dispatch: TimedExchange;
  readonly combine: TimedExchange;
  readonly us: number;
}

/** The routing that a plan was made of: ids[token, k], -1 where masked. Dropped entries keep their expert. */
export function routingOf(plan: VerifiedPlan): RoutingTable[] {
  const { instanceExpert } = plan.spec.placement;
  return plan.shards.map((shard) => {
    const { entrySlot, tokens, topk } = shard;
    const ids = Int32Array.from(shard.entryInstance, (instance, entry) =>
      entrySlot[entry] === SLOT_MASKED ? -1 : instanceExpert[instance]!,
    );
    return { ids, tokens, topk };
  });
}

/** Dispatch and combine on a machine. */
export function predict({ dispatch, combine }: Exchanges, topology: Topology) {
  const { constants } = topology;
  const timed = { dispatch: timeExchange(dispatch, constants), combine: timeExchange(combine, constants) };
  return { ...timed, us: timed.dispatch.us + timed.combine.us };
}

/**
 * Predicts the same routing unfused, flat, hierarchical with static groups and hierarchical with the best groups, in
 * this order; a plan that is none of these comes last.
 *
 * @returns `own` is the index of the plan's prediction
 * @throws FuscoError E_OPTION if the plan does not fit the topology
 */
export function compare(
  plan: VerifiedPlan,
  planner: Planner,
  topology: Topology,
): { predictions: Prediction[]; own: number } {
  const { spec } = plan;
  checkFit(topology, spec.nodes, spec.ranksPerNode);
  const routing = routingOf(plan);
  const options = optionsOf(spec);
  const replan = (balance: Balance) => planner.planAll(routing, { ...options, strategy: 'hier', balance });
  const hier = (made: VerifiedPlan): Prediction => ({
    strategy: 'hier',
    rule: made.decision.rule,
    ...predict(planExchanges(made), topology),
  });
  const isFlat = spec.strategy === 'flat';
  const flat = planLoads(isFlat ? plan : planner.planAll(routing, { ...options, strategy: 'flat' }));
  const predictions: Prediction[] = [
    { strategy: 'unfused', rule: 'none', ...predict(unfused(flat, spec), topology) },
    { strategy: 'flat fused', rule: 'none', ...predict(flatFused(flat, spec), topology) },
    hier(replan('static')),
    hier(replan('best')),
  ];
  const { rule } = plan.decision;
  const own = isFlat ? 1 : predictions.findIndex((made) => made.strategy === 'hier' && made.rule === rule);
  return own >= 0 ? { predictions, own } : { predictions: [...predictions, hier(plan)], own: 4 };
}
