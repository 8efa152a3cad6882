// What a command looks at: a plan file, or a routing or recording that is planned for the purpose.

import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { planId } from '../../planner/format/digest.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { explaining } from '../readers/origins.ts';
import { isPlanFile, readVerifiedPlan } from '../readers/planFile.ts';
import { readRoutings } from '../readers/recording.ts';
import { leastExperts } from '../readers/tables.ts';
import {
  addRangeOptions,
  addRoutingOptions,
  integer,
  type RangeArguments,
  type RoutingArguments,
  recordingChoice,
} from './options.ts';
import { addPlanningOptions, type PlanningArguments, planningOptions } from './plan.ts';

export interface SubjectArguments
  extends Omit<PlanningArguments, 'experts'>,
    RoutingArguments,
    RangeArguments {
  experts?: number;
}

/** One plan to look at. */
export interface Subject {
  readonly plan: VerifiedPlan;
  readonly planId: string;
  readonly step?: number;
  readonly layer?: number;
  /** The number of experts is the largest id plus one. */
  readonly isGuess: boolean;
}

/** Adds the options that say how a routing is planned; `formatFlags` as addRoutingOptions takes them. */
export function addSubjectOptions(command: Command, formatFlags?: string): Command {
  const made = command.option(
    '--experts <n>',
    'logical experts of a routing (default: the largest id plus one)',
    integer(1, MAX_INSTANCES),
  );
  return addRangeOptions(addRoutingOptions(addPlanningOptions(made), formatFlags));
}

/**
 * The plan of a file, or one for each routing that it holds; `notice` takes lines about what was guessed.
 *
 * @throws what the readers and the planner throw
 */
export async function* subjectsOf(
  path: string,
  args: SubjectArguments,
  planner: Planner,
  notice: (text: string) => void,
): AsyncGenerator<Subject> {
  if (isPlanFile(path)) {
    if (args.steps !== undefined || args.layers !== undefined)
      throw new FuscoError('E_USAGE', '--steps and --layers belong to recordings; this is a plan', { path });
    yield { ...(await readVerifiedPlan(path)), isGuess: false };
    return;
  }
  for await (const { tables, ...number } of readRoutings(path, recordingChoice(args, notice))) {
    const experts = args.experts ?? leastExperts(tables);
    const options = await planningOptions({ ...args, experts }, tables.length, notice);
    const plan = await explaining(tables, experts, () => planner.planAll(tables, options));
    yield { plan, planId: await planId(plan, nodeSha256), ...number, isGuess: args.experts === undefined };
  }
}
