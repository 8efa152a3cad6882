// The output of `fusco run --json`: how long an execution of a plan took.

import { type Check, type Checked, hasFields, isMatch, isNumber, isText } from '../../executor/fields.ts';
import { FuscoError } from '../../planner/errors.ts';
import { readWhole } from './file.ts';
import { jsonOf } from './json.ts';

const isDuration: Check<number> = (value): value is number =>
  isNumber(value) && Number.isFinite(value) && value >= 0;
const isExchange = hasFields({ nanoseconds: isDuration });

const FIELDS = {
  planId: isMatch(/^[0-9a-f]{64}$/),
  backend: isText(64),
  dispatch: isExchange,
  combine: isExchange,
};

/** A run of a plan. */
export type RunReport = Checked<typeof FIELDS>;

/** Whether a value is a run's report. */
export const isRunReport: Check<RunReport> = hasFields(FIELDS);

/** Throws E_FORMAT for any other text. */
function parseRunReport(text: string, path: string): RunReport {
  const value = jsonOf(text, path);
  if (isRunReport(value)) return value;
  throw new FuscoError('E_FORMAT', 'it is not the output of `fusco run --json`', {
    path,
    hint: 'Save the output of `fusco run PLAN … --json`.',
  });
}

/** Throws E_OPTION unless the run executed this plan. */
function checkRunOf(run: RunReport, planId: string, path: string): void {
  if (run.planId === planId) return;
  const text = `the run executed plan ${run.planId.slice(0, 12)}, not ${planId.slice(0, 12)}`;
  throw new FuscoError('E_OPTION', text, { path, hint: 'Give the plan that was run.' });
}

/** The report of a run of this plan. Throws E_FORMAT, E_OPTION, E_FILE_NOT_FOUND, E_FILE_READ. */
export async function readRunReport(path: string, planId: string): Promise<RunReport> {
  const run = parseRunReport(new TextDecoder().decode(await readWhole(path)), path);
  checkRunOf(run, planId, path);
  return run;
}
