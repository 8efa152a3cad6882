// The input of a command: a plan file, or a routing or recording that is planned first.

import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { planId } from '../../planner/format/digest.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { optionsOf, type PlanOptions } from '../../planner/spec.ts';
import { explaining } from '../readers/origins.ts';
import { isPlanFile, readVerifiedPlan } from '../readers/planFile.ts';
import {
  type ListedRouting,
  listRoutings,
  type RecordingChoice,
  readRoutings,
} from '../readers/recording.ts';
import { leastExperts } from '../readers/tables.ts';
import { routingOf } from '../simulate/compare.ts';
import { planAgain } from '../simulate/planAgain.ts';
import {
  addRangeOptions,
  addRoutingOptions,
  integer,
  type RangeArguments,
  type RoutingArguments,
  recordingChoice,
} from './options.ts';
import { addPlanningOptions, PLANNING_GROUP, type PlanningArguments, planningOptions } from './plan.ts';

export interface SubjectArguments
  extends Omit<PlanningArguments, 'experts'>,
    RoutingArguments,
    RangeArguments {
  experts?: number;
  /** Names of the planning options on the command line. */
  given?: ReadonlySet<string>;
}

/** One plan to show. */
export interface Subject {
  readonly plan: VerifiedPlan;
  readonly planId: string;
  readonly step?: number;
  readonly layer?: number;
  /** The number of experts is the largest id plus one. */
  readonly isGuess: boolean;
}

/** Adds the options that say how a routing is planned; `formatFlags` as in addRoutingOptions. */
export function addSubjectOptions(command: Command, formatFlags?: string): Command {
  const made = command
    .optionsGroup(PLANNING_GROUP)
    .option(
      '--experts <n>',
      'logical experts of a routing (default: the largest id plus one)',
      integer(1, MAX_INSTANCES),
    );
  addRangeOptions(addRoutingOptions(addPlanningOptions(made), formatFlags));
  return made.hook('preAction', (_, called) => {
    const names = called.options
      .filter(({ helpGroupHeading }) => helpGroupHeading === PLANNING_GROUP)
      .map((option) => option.attributeName());
    const given = names.filter((name) => called.getOptionValueSource(name) === 'cli');
    called.setOptionValue('given', new Set(given));
  });
}

/** The routing of a plan with the plan's options, or the routings that listRoutings finds. */
export async function routingsOf(path: string, choice: RecordingChoice): Promise<ListedRouting[]> {
  if (!isPlanFile(path)) return listRoutings(path, choice);
  const { plan } = await readVerifiedPlan(path);
  const { ranks = plan.spec.ranks } = choice;
  if (ranks !== plan.spec.ranks)
    throw new FuscoError('E_RANKS', `the plan has ${plan.spec.ranks} ranks, not the ${ranks} requested`, {
      path,
      hint: 'Leave out --ranks.',
    });
  return [{ options: optionsOf(plan.spec), tables: async () => routingOf(plan) }];
}

/** The plan of a plan file; its routing is planned again if the command line has planning options. */
async function planOf(
  path: string,
  args: SubjectArguments,
  planner: Planner,
  notice: (text: string) => void,
): Promise<Subject> {
  const read = await readVerifiedPlan(path);
  const { given = new Set() } = args;
  if (given.size === 0) return { ...read, isGuess: false };
  const { ranks = read.plan.spec.ranks, experts = read.plan.spec.experts } = args;
  const wanted = await planningOptions({ ...args, experts }, ranks, notice);
  const isWanted = (name: string) => given.has(name) || (name === 'ranksPerNode' && given.has('nodeSizes'));
  const options: Partial<PlanOptions> = Object.fromEntries(
    Object.entries(wanted).filter(([name]) => isWanted(name)),
  );
  const plan = planAgain(read.plan, planner, { options });
  const id = await planId(plan, nodeSha256);
  if (id !== read.planId)
    notice(`${path}: its tokens are planned again with the options of the command line`);
  return { plan, planId: id, isGuess: false };
}

/**
 * The plan of a file, or one for each routing that it contains; `notice` receives a line for every guess.
 *
 * @throws errors of the readers and of the planner
 */
export async function* subjectsOf(
  path: string,
  args: SubjectArguments,
  planner: Planner,
  notice: (text: string) => void,
): AsyncGenerator<Subject> {
  if (isPlanFile(path)) {
    if (args.steps !== undefined || args.layers !== undefined)
      throw new FuscoError('E_USAGE', '--steps and --layers are only valid for recordings; this is a plan', {
        path,
      });
    yield await planOf(path, args, planner, notice);
    return;
  }
  for await (const { tables, ...number } of readRoutings(path, recordingChoice(args, notice))) {
    const experts = args.experts ?? leastExperts(tables);
    const options = await planningOptions({ ...args, experts }, tables.length, notice);
    const plan = await explaining(tables, experts, () => planner.planAll(tables, options));
    yield { plan, planId: await planId(plan, nodeSha256), ...number, isGuess: args.experts === undefined };
  }
}
