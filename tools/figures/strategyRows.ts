// The strategies for one routing next to each other, as plain data for the report and the viewer.

import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RunReport } from '../readers/runReport.ts';
import { adviceOf, bindingStage, planOptionsOf, RESOURCE_NAMES, strategyName } from '../simulate/advice.ts';
import { compare } from '../simulate/compare.ts';
import {
  type ExpertTime,
  expertTime,
  memoryPerRank,
  modelOf,
  type RankMemory,
  rankMemory,
} from '../simulate/experts.ts';
import { defaultTopology, type Topology } from '../simulate/topology.ts';

/** How long a run of the plan took. */
export interface Measured {
  readonly backend: string;
  readonly dispatchUs: number;
  readonly combineUs: number;
}

export function measuredOf({ backend, dispatch, combine }: RunReport): Measured {
  return { backend, dispatchUs: dispatch.nanoseconds / 1e3, combineUs: combine.nanoseconds / 1e3 };
}

/** One way to exchange. */
export interface StrategyRow {
  readonly name: string;
  readonly dispatchUs: number;
  readonly combineUs: number;
  readonly us: number;
  /** How many times as fast as the unfused baseline. */
  readonly speedUp: number;
  /** The resource and the rank that all others wait for. */
  readonly bound: string;
  readonly isOwn: boolean;
  readonly isBest: boolean;
  /** Options of `fusco plan`; empty for the baseline. */
  readonly options: string;
}

export interface Strategies {
  readonly machine: string;
  readonly memoryGB: number;
  readonly rows: readonly StrategyRow[];
  /** One sentence: the bottleneck, what would help, and by how much. */
  readonly advice: string;
  readonly memory: RankMemory;
  /** Bytes of each rank. */
  readonly rankBytes: readonly number[];
  readonly measured?: Measured;
  /** Of the known model with the sizes of the plan, if there is one. */
  readonly experts?: ExpertTime & { readonly model: string };
}

/** Predicts the other strategies, the experts and the memory. Throws E_OPTION if the plan does not fit the machine. */
export function strategiesOf(
  plan: VerifiedPlan,
  planner: Planner,
  topology: Topology = defaultTopology(plan.spec),
): Strategies {
  const found = compare(plan, planner, topology);
  const base = found.predictions[0]!.us;
  const model = modelOf(plan);
  const rows = found.predictions.map((prediction, i): StrategyRow => {
    const { resource, rank, us: longest } = bindingStage(prediction);
    return {
      name: strategyName(prediction),
      dispatchUs: prediction.dispatch.us,
      combineUs: prediction.combine.us,
      us: prediction.us,
      speedUp: prediction.us === 0 ? 1 : base / prediction.us,
      bound: longest === 0 ? 'nothing' : `${RESOURCE_NAMES[resource]} of rank ${rank}`,
      isOwn: i === found.own,
      isBest: i === found.best,
      options: planOptionsOf(prediction),
    };
  });
  return {
    machine: topology.name,
    memoryGB: topology.memoryGB,
    rows,
    advice: adviceOf(plan, found, topology),
    memory: rankMemory(plan, model),
    rankBytes: memoryPerRank(plan, model).map(({ total }) => total),
    ...(model === undefined ? {} : { experts: { ...expertTime(plan, model, topology), model: model.name } }),
  };
}
