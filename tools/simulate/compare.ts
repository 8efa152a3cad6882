// Compares a plan with the other strategies for the same routing.

import { SLOT_MASKED } from '../../planner/format/layout.ts';
import type { Plan, VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { BalanceRule, PlanOptions } from '../../planner/spec.ts';
import { optionsOf } from '../../planner/spec.ts';
import { planLoads } from './loads.ts';
import { type TimedExchange, timeExchange } from './model.ts';
import { type Exchanges, isOncePerRank, planExchanges, unfused } from './strategies.ts';
import { checkFit, linkedRanks, type Topology } from './topology.ts';

/** The common name of a strategy: `once per rank` is a hierarchical plan with one rank per node. */
export type StrategyName = 'unfused' | 'flat fused' | 'hier' | 'once per rank';

/** One strategy's predicted times. */
export interface Prediction {
  readonly strategy: StrategyName;
  /** Of the balancer, if there is one. */
  readonly rule: BalanceRule | 'none';
  /** Of the plan. */
  readonly ranksPerNode: number;
  readonly dispatch: TimedExchange;
  readonly combine: TimedExchange;
  readonly us: number;
}

/** The routing from which a plan was made: ids[token, k], -1 if masked. Dropped entries keep their expert. */
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

/** The common name of a plan's strategy. */
export function strategyOf({ spec }: Pick<Plan, 'spec'>): Exclude<StrategyName, 'unfused'> {
  if (spec.strategy === 'flat') return 'flat fused';
  return isOncePerRank(spec) ? 'once per rank' : 'hier';
}

/** A plan without changes, on a machine. */
export function predictPlan(plan: Plan, topology: Topology): Prediction {
  const { spec } = plan;
  const strategy = strategyOf(plan);
  // With one rank per node, there is no choice of forwarders.
  const rule = strategy === 'hier' && plan.decision.rule !== 'none' ? plan.decision.rule : 'none';
  const { ranksPerNode } = spec;
  return {
    strategy,
    rule,
    ranksPerNode,
    ...predict(planExchanges(plan, linkedRanks(topology, spec.ranks)), topology),
  };
}

/** The exchanges of a flat plan with separate permutation passes. */
function predictUnfused(flat: VerifiedPlan, topology: Topology): Prediction {
  const { spec } = flat;
  const exchanges = unfused(planLoads(flat, linkedRanks(topology, spec.ranks)), spec);
  const { ranksPerNode } = spec;
  return { strategy: 'unfused', rule: 'none', ranksPerNode, ...predict(exchanges, topology) };
}

/** A flat plan with and without fusion: the baseline, and the gain from direct rows. */
function predictFlat(flat: VerifiedPlan, topology: Topology): Prediction[] {
  return [predictUnfused(flat, topology), predictPlan(flat, topology)];
}

/** Nodes of hierarchical plans on this machine: the ranks that NVLink joins, unless they do not divide the group. */
function nodeOfMachine(topology: Topology, ranks: number): number {
  let size = linkedRanks(topology, ranks);
  while (ranks % size !== 0) size--;
  return size;
}

export interface Comparison {
  readonly predictions: readonly Prediction[];
  /** Index of the plan's own prediction. */
  readonly own: number;
  /** Index of the fastest one. */
  readonly best: number;
}

function fastest(predictions: readonly Prediction[]): number {
  return predictions.reduce((best, { us }, i) => (us < predictions[best]!.us ? i : best), 0);
}

/**
 * Predicts the same routing unfused, flat, hierarchical with the nodes of the machine and each rule of the balancer
 * that differs, and once per rank, in this order; a plan that is none of these comes last.
 *
 * @throws FuscoError E_OPTION if the plan does not fit the topology
 */
export function compare(plan: VerifiedPlan, planner: Planner, topology: Topology): Comparison {
  const { spec } = plan;
  checkFit(topology, spec.ranks);
  const routing = routingOf(plan);
  const { ranksPerNode: _, strategy: __, balance: ___, ...options } = optionsOf(spec);
  const made = (more: Partial<PlanOptions>) => planner.planAll(routing, { ...options, ...more });
  const node = nodeOfMachine(topology, spec.ranks);
  const flat = made({ strategy: 'flat', ranksPerNode: node });
  const predictions = [...predictFlat(flat, topology)];
  if (node > 1 && node < spec.ranks) {
    const hier = (['static', 'best'] as const).map((balance) =>
      predictPlan(made({ strategy: 'hier', ranksPerNode: node, balance }), topology),
    );
    predictions.push(...hier.filter(({ rule }, i) => i === 0 || rule !== hier[0]!.rule));
  }
  if (spec.ranks > 1) {
    const once = made({ strategy: 'hier', ranksPerNode: 1, balance: 'static' });
    predictions.push(predictPlan(once, topology));
  }
  const mine = predictPlan(plan, topology);
  const isMine = ({ strategy, rule, ranksPerNode }: Prediction) =>
    strategy === mine.strategy &&
    rule === mine.rule &&
    (rule === 'none' || ranksPerNode === mine.ranksPerNode);
  let own = predictions.findIndex(isMine);
  if (own < 0) own = predictions.push(mine) - 1;
  else predictions[own] = mine;
  return { predictions, own, best: fastest(predictions) };
}
