// The cost of adding by token, with the same bits for any number of ranks, instead of node by node.

import type { Plan } from '../../planner/plan.ts';
import type { SumOrder } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { entryLoads, type Links, planLoads } from '../simulate/loads.ts';
import { timeExchange } from '../simulate/model.ts';
import { planExchanges } from '../simulate/strategies.ts';
import { defaultTopology, linkedRanks } from '../simulate/topology.ts';
import { combineRowBytes, partialRowBytes } from './rowBytes.ts';

/** A combine with one order of additions. */
export interface CombinePrice {
  /** Bytes that go from one rank to another, all ranks together. */
  readonly linkBytes: number;
  /** Those of them that go from one node to another. */
  readonly interNodeBytes: number;
  /** Predicted microseconds, from a model and not measured. */
  readonly us: number;
}

export interface SumPrice {
  /** The order that the plan has. */
  readonly sum: SumOrder;
  readonly node: CombinePrice;
  readonly token: CombinePrice;
  /** The machine whose constants were used. */
  readonly machine: string;
}

function rowsOf({ nvlink, nic }: Links): number {
  return sum(nvlink.out) + sum(nic.out);
}

/** Both orders of a hierarchical plan; undefined for a flat one, which always adds by token. */
export function sumPriceOf(plan: Plan): SumPrice | undefined {
  const { spec } = plan;
  if (spec.sum === 'none') return undefined;
  const topology = defaultTopology(spec);
  const joined = linkedRanks(topology, spec.ranks);
  const price = (order: SumOrder, interBytes: number, intraBytes: number): CombinePrice => ({
    linkBytes: interBytes + intraBytes,
    interNodeBytes: interBytes,
    us: timeExchange(
      planExchanges({ ...plan, spec: { ...spec, sum: order } }, joined).combine,
      topology.constants,
    ).us,
  });
  const [hier, flat] = [planLoads(plan), entryLoads(plan)];
  const bytes = combineRowBytes(spec);
  return {
    sum: spec.sum,
    node: price('node', rowsOf(hier.inter) * partialRowBytes(spec), rowsOf(hier.intra) * bytes),
    token: price('token', rowsOf(flat.inter) * bytes, rowsOf(flat.intra) * bytes),
    machine: topology.name,
  };
}
