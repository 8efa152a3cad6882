// One routing of a recording in a few figures: for the list that the viewer draws over time.

import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { sum } from '../../planner/totals.ts';
import { compare } from '../simulate/compare.ts';
import { modelOf, rankMemory } from '../simulate/experts.ts';
import { defaultTopology } from '../simulate/topology.ts';
import { summarize } from './summary.ts';

export interface RecordedFigures {
  readonly step?: number;
  readonly layer?: number;
  readonly tokens: number;
  readonly rankMaxOverMean: number;
  readonly expertMaxOverMean: number;
  /** Predicted time of dispatch and combine along the plan, and along the fastest one. */
  readonly us: number;
  readonly bestUs: number;
  readonly best: string;
  /** Of the rank that needs the most. */
  readonly memoryBytes: number;
}

/** The figures of one routing's plan, on the default machine. */
export function recordedFigures(
  plan: VerifiedPlan,
  planner: Planner,
  number: { readonly step?: number; readonly layer?: number },
): RecordedFigures {
  const { imbalance, tokens } = summarize(plan);
  const { predictions, own, best } = compare(plan, planner, defaultTopology(plan.spec));
  return {
    ...number,
    tokens: sum(tokens),
    ...imbalance,
    us: predictions[own]!.us,
    bestUs: predictions[best]!.us,
    best: predictions[best]!.strategy,
    memoryBytes: rankMemory(plan, modelOf(plan)).total,
  };
}
