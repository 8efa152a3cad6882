// The routing of several steps: a recording that `Recorder` wrote, or any file of one step.

import { readRecordedTables, readRecording } from '../../executor/training/recorder.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { type RoutingChoice, readAnyRouting } from './anyRouting.ts';
import { openSource } from './source.ts';

/** The index of a recording that `Recorder` wrote. */
const INDEX = 'index.jsonl';

/** One step; its tables are read each time they are requested. */
export interface RoutingStep {
  readonly step: number;
  /** How it was planned, if that is recorded. */
  readonly options: PlanOptions | undefined;
  readonly tables: () => Promise<RoutingTable[]>;
}

/** Whether a path is a directory that `Recorder` wrote. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
export function isRecording(path: string): boolean {
  using source = openSource(path);
  return source.kind === 'directory' && source.names.includes(INDEX);
}

/**
 * The steps of a recording, in order; one step for any other file that readAnyRouting accepts.
 *
 * @param choice for files of one step
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ; reading tables throws what readRecordedTables or readAnyRouting throws
 */
export async function readSteps(path: string, choice: RoutingChoice = {}): Promise<RoutingStep[]> {
  if (!isRecording(path)) {
    return [{ step: choice.step ?? 0, options: undefined, tables: () => readAnyRouting(path, choice) }];
  }
  const steps = await readRecording(path);
  return steps.map((recorded) => ({
    step: recorded.step,
    options: recorded.options,
    tables: () => readRecordedTables(path, recorded),
  }));
}
