// What it costs to add by token, so that sums have the same bits for any number of ranks, instead of node by node.

import type { Plan } from '../../planner/plan.ts';
import type { SumOrder } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { entryLoads, planLoads } from '../simulate/loads.ts';
import { timeExchange } from '../simulate/model.ts';
import { flatFused, hierFused, partialBytes } from '../simulate/strategies.ts';
import { TOPOLOGIES } from '../simulate/topology.ts';

/** A combine with one order of additions. */
export interface CombinePrice {
  /** Bytes that go from one rank to another, all ranks together. */
  readonly linkBytes: number;
  /** Those of them that go from one node to another. */
  readonly interNodeBytes: number;
  /** Predicted microseconds: a model's, not measured. */
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

/** Both orders of a hierarchical plan; undefined for a flat one, which always adds by token. */
export function sumPriceOf(plan: Plan): SumPrice | undefined {
  const { spec } = plan;
  if (spec.sum === 'none') return undefined;
  const { name: machine, constants } = TOPOLOGIES[0]!;
  const hier = planLoads(plan);
  const flat = entryLoads(plan);
  const price = (interBytes: number, intraBytes: number, { combine }: ReturnType<typeof hierFused>) => ({
    linkBytes: interBytes + intraBytes,
    interNodeBytes: interBytes,
    us: timeExchange(combine, constants).us,
  });
  const { rowBytes } = spec;
  return {
    sum: spec.sum,
    node: price(
      sum(hier.inter.out) * partialBytes(spec),
      sum(hier.intra.out) * rowBytes,
      hierFused(hier, spec),
    ),
    token: price(sum(flat.inter.out) * rowBytes, sum(flat.intra.out) * rowBytes, flatFused(flat, spec)),
    machine,
  };
}
