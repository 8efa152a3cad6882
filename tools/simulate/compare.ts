// A plan against the other ways to exchange the same routing.

import type { Balance } from '../../planner/balance.ts';
import { SLOT_MASKED } from '../../planner/layout.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { optionsOf } from '../../planner/spec.ts';
import { planLoads } from './loads.ts';
import { type TimedExchange, timeExchange } from './model.ts';
import { type Exchanges, flatFused, hierFused, unfused } from './strategies.ts';
import { checkFit, type Topology } from './topology.ts';

/** One strategy's predicted times. */
export interface Prediction {
  readonly name: string;
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
export function predict(name: string, exchanges: Exchanges, topology: Topology): Prediction {
  const { constants } = topology;
  const dispatch = timeExchange(exchanges.dispatch, constants);
  const combine = timeExchange(exchanges.combine, constants);
  return { name, dispatch, combine, us: dispatch.us + combine.us };
}

/** Name of the strategy that a plan has, as `compare` lists it. */
export function strategyOf({ spec, decision }: VerifiedPlan): string {
  return spec.strategy === 'flat' ? 'flat fused' : `hierarchical, ${decision.rule}`;
}

/**
 * Predicts the plan itself and the same routing unfused, flat, and hierarchical with static and with balanced groups.
 *
 * @returns the plan's own prediction, and the four in that order
 * @throws FuscoError E_OPTION where the plan does not fit the topology
 */
export function compare(plan: VerifiedPlan, planner: Planner, topology: Topology) {
  const { spec } = plan;
  checkFit(topology, spec.nodes, spec.ranksPerNode);
  const routing = routingOf(plan);
  const options = optionsOf(spec);
  const replan = (balance: Balance) => planner.planAll(routing, { ...options, strategy: 'hier', balance });
  const on = (name: string, exchanges: Exchanges) => predict(name, exchanges, topology);
  const hier = (name: string, made: VerifiedPlan) => on(name, hierFused(planLoads(made), made.spec));

  const flatPlan =
    spec.strategy === 'flat' ? plan : planner.planAll(routing, { ...options, strategy: 'flat' });
  const flat = planLoads(flatPlan);
  const best = replan('best');
  const all = [
    on('unfused', unfused(flat, spec)),
    on('flat fused', flatFused(flat, spec)),
    hier('hierarchical, static', replan('static')),
    hier(`hierarchical, balanced (${best.decision.rule})`, best),
  ];
  const own = spec.strategy === 'flat' ? all[1]! : hier(strategyOf(plan), plan);
  return { own, all };
}
