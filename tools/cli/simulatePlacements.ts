// `fusco simulate RECORDING --placement A,B,C`: what each placement would have done with a recording.

import { basename } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { PlanOptions, Strategy } from '../../planner/spec.ts';
import { formatBytes } from '../figures/format.ts';
import { readPlacement } from '../readers/placementMap.ts';
import { type RoutingStep, readSteps } from '../readers/steps.ts';
import { encodeWhatIf } from '../report/write.ts';
import { findTopology, type Topology } from '../simulate/topology.ts';
import { type NamedPlacement, type PlannedStep, type WhatIf, whatIf } from '../simulate/whatIf.ts';
import { overallLines, stepLines } from '../simulate/whatIfText.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { print, printJson, say } from './io.ts';

export interface WhatIfArguments {
  placement: string;
  topology?: string;
  calibration?: string;
  experts?: number;
  strategy?: Strategy | 'auto';
  expertBytes?: number;
  html?: string;
  json?: boolean;
}

const BLOCKS = 'blocks';
const RECORDED = 'recorded';

/** The placements of a comma-separated list: `blocks`, `recorded` (that of the recording), or files. */
async function readPlacements(list: string, steps: readonly RoutingStep[]): Promise<NamedPlacement[]> {
  const placements: NamedPlacement[] = [];
  for (const name of list.split(',')) {
    if (name === RECORDED) {
      const { options } = steps[0]!;
      if (options === undefined) throw new FuscoError('E_USAGE', `--placement ${RECORDED} needs a recording`);
      placements.push({ name, map: options.placement ?? [] });
    } else {
      placements.push({ name, map: name === BLOCKS ? [] : await readPlacement(name) });
    }
  }
  return placements;
}

/** The steps with the options of their plans: recorded ones, and what the command line says. */
async function* plannedSteps(
  steps: readonly RoutingStep[],
  args: WhatIfArguments,
  { ranksPerNode }: Topology,
): AsyncGenerator<PlannedStep> {
  for (const { step, options: recorded, tables: read } of steps) {
    const tables = await read();
    const experts = args.experts ?? recorded?.experts;
    if (experts === undefined)
      throw new FuscoError('E_USAGE', 'a routing that is no recording needs --experts');
    const options: PlanOptions = {
      ...(recorded ?? { ranksPerNode: Math.min(ranksPerNode, tables.length) }),
      ...{ experts, ranks: tables.length },
      ...(args.strategy === undefined ? {} : { strategy: args.strategy }),
    };
    yield { step, tables, options };
  }
}

export async function simulatePlacements(file: string, args: WhatIfArguments, label: string): Promise<void> {
  if (args.topology === undefined) throw new FuscoError('E_USAGE', '--placement needs --topology');
  const topology = await findTopology(args.topology, args.calibration);
  const steps = await readSteps(file);
  if (steps.length === 0) throw new FuscoError('E_FORMAT', 'the recording has no steps', { path: file });
  const placements = await readPlacements(args.placement, steps);
  const planner = await loadPlanner();
  const { expertBytes = 0 } = args;
  const found = await whatIf(plannedSteps(steps, args, topology), placements, {
    planner,
    topology,
    expertBytes,
  });
  if (args.html !== undefined) {
    const bytes = await encodeWhatIf({ file: basename(file), topology: topology.name, found });
    await writeFileAtomic(args.html, [bytes]);
    say(`report of ${placements.length} placements: ${formatBytes(bytes.length)} -> ${args.html}`);
  }
  if (args.json) printJson({ model: true, label, topology, ...found });
  else printWhatIf(file, topology, found, label);
}

function printWhatIf(file: string, topology: Topology, found: WhatIf, label: string): void {
  const { length: steps } = found.steps;
  print(`${file}: ${steps} ${steps === 1 ? 'step' : 'steps'} on ${topology.name}\n${label}\n`);
  if (steps > 1) print(`${stepLines(found)}\n\nall steps`);
  print(overallLines(found));
}
