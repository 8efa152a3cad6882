// `fusco simulate RECORDING --placement A,B,C`: evaluates placements on a recording.

import { basename } from 'node:path';
import { FuscoError } from '../../../planner/errors.ts';
import { loadPlanner } from '../../../planner/node.ts';
import type { PlanOptions, Strategy } from '../../../planner/spec.ts';
import { formatBytes } from '../../figures/format.ts';
import { readPlacement } from '../../readers/placementMap.ts';
import type { ListedRouting } from '../../readers/recording.ts';
import { encodeWhatIf } from '../../report/write.ts';
import { LABEL } from '../../simulate/predictionText.ts';
import type { Topology } from '../../simulate/topology.ts';
import { type NamedPlacement, type PlannedStep, type WhatIf, whatIf } from '../../simulate/whatIf.ts';
import { overallLines, stepLines } from '../../simulate/whatIfText.ts';
import { writeFileAtomic } from '../../writers/outputFile.ts';
import { Notices, print, printJson, say } from '../io.ts';
import {
  type NodeArguments,
  oneLayer,
  type RangeArguments,
  type RoutingArguments,
  ranksPerNodeOf,
  recordingChoice,
} from '../options.ts';
import { routingsOf } from '../subject.ts';
import { type MachineArguments, machineOf } from './plans.ts';

export interface WhatIfArguments extends RoutingArguments, RangeArguments, NodeArguments, MachineArguments {
  placements: string;
  ranks?: number;
  experts?: number;
  /** Default: as recorded. */
  strategy?: Strategy | 'auto';
  expertBytes?: number;
  html?: string;
  json?: boolean;
}

const RECORDED = 'recorded';

/** The number of experts that the command line or the recording states. Throws E_USAGE if neither does. */
function expertsOf({ options }: ListedRouting, { experts = options?.experts }: WhatIfArguments): number {
  if (experts !== undefined) return experts;
  throw new FuscoError('E_USAGE', 'a routing that is not a recording needs --experts');
}

/** The placements of a comma-separated list: names of rules, `recorded` (that of the recording), or files. */
async function readPlacements(
  steps: readonly ListedRouting[],
  args: WhatIfArguments,
  ranks: number,
): Promise<NamedPlacement[]> {
  const first = steps[0]!;
  const { options } = first;
  const names = args.placements.split(',');
  if (options === undefined && names.includes(RECORDED))
    throw new FuscoError('E_USAGE', `--placement ${RECORDED} needs a recording with its options`);
  const experts = expertsOf(first, args);
  const placements: NamedPlacement[] = [];
  for (const name of names) {
    const map = name === RECORDED ? (options?.placement ?? []) : await readPlacement(name, experts, ranks);
    placements.push({ name, map });
  }
  return placements;
}

/** The steps with the options of their plans: the recorded options, overridden by the command line. */
async function* plannedSteps(
  steps: readonly ListedRouting[],
  args: WhatIfArguments,
  ranksPerNode: number,
): AsyncGenerator<PlannedStep> {
  for (const recordedStep of steps) {
    const { step = args.step ?? 0, options: recorded } = recordedStep;
    const tables = await recordedStep.tables();
    const experts = expertsOf(recordedStep, args);
    const options: PlanOptions = {
      ...(recorded ?? { ranksPerNode }),
      ...{ experts, ranks: tables.length },
      ...(args.strategy === undefined ? {} : { strategy: args.strategy }),
    };
    yield { step, tables, options };
  }
}

export async function simulatePlacements(file: string, args: WhatIfArguments): Promise<void> {
  const notices = new Notices();
  const steps = await routingsOf(file, recordingChoice(args, notices.add));
  oneLayer(steps, file);
  const first = steps[0]!;
  const ranks = first.options?.ranks ?? (await first.tables()).length;
  const ranksPerNode = first.options?.ranksPerNode ?? ranksPerNodeOf(args, ranks, notices.add);
  const topology = await machineOf(args, { ranks, ranksPerNode });
  const placements = await readPlacements(steps, args, ranks);
  const planner = await loadPlanner();
  const { expertBytes = 0 } = args;
  const found = await whatIf(plannedSteps(steps, args, ranksPerNode), placements, {
    planner,
    topology,
    expertBytes,
  });
  if (args.html !== undefined) {
    const bytes = await encodeWhatIf({ file: basename(file), topology: topology.name, found });
    await writeFileAtomic(args.html, [bytes]);
    say(`report of ${placements.length} placements: ${formatBytes(bytes.length)} -> ${args.html}`);
  }
  if (args.json) {
    printJson({ model: true, label: LABEL, topology, ...found, ...notices.fields });
    return;
  }
  notices.say();
  printWhatIf(file, topology, found);
}

function printWhatIf(file: string, topology: Topology, found: WhatIf): void {
  const { length: steps } = found.steps;
  print(`${file}: ${steps} ${steps === 1 ? 'step' : 'steps'} on ${topology.name}\n${LABEL}\n`);
  if (steps > 1) print(`${stepLines(found)}\n\nall steps`);
  print(overallLines(found));
}
