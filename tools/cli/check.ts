import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import { formatGolden, readGolden } from '../golden/goldenFile.ts';
import { type Checked, compareGolden, makeAll } from '../golden/goldenPlans.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { ComparisonFailed, command, print, printJson, say } from './io.ts';

const DEFAULT_FILE = 'fusco.golden.json';

/** Whether this runs in continuous integration: the variable that every such service sets. */
function isCi(): boolean {
  const { CI } = process.env;
  return CI !== undefined && !['', '0', 'false'].includes(CI);
}

/** The command that makes the golden entries what the plans are now. */
function updateCommand(file: string): string {
  return file === DEFAULT_FILE ? 'fusco check --update' : `fusco check ${JSON.stringify(file)} --update`;
}

function printChecked(checked: readonly Checked[]): void {
  for (const { name, verdict, reasons } of checked) {
    print(`${verdict.padEnd(8)}  ${name}`);
    if (verdict === 'mismatch') for (const reason of reasons) print(`          ${reason}`);
  }
}

async function check(file: string, options: { update?: boolean; json?: boolean }): Promise<void> {
  if (options.update && isCi()) {
    throw new FuscoError('E_GOLDEN', 'CI is set: golden plans are updated and reviewed by people', {
      path: file,
    });
  }
  const was = await readGolden(file);
  const made = await makeAll(was, file, await loadPlanner());
  const checked = compareGolden(was, made);
  const changed = checked.filter(({ verdict }) => verdict !== 'same');
  if (options.update && changed.length > 0) {
    await writeFileAtomic(file, [new TextEncoder().encode(formatGolden({ plans: was.plans, golden: made }))]);
  }
  const updated = options.update === true && changed.length > 0;
  const update = updateCommand(file);
  if (options.json) printJson({ file, passed: changed.length === 0, updated, checked, update });
  else printChecked(checked);
  if (updated) {
    say(`updated ${changed.length} of ${checked.length} entries in ${file}`);
    return;
  }
  if (changed.length === 0) return;
  if (!options.json)
    say(`${changed.length} of ${checked.length} golden plans differ; if that is meant, run: ${update}`);
  throw new ComparisonFailed();
}

export function checkCommand(): Command {
  return command('check', 'Make the plans that a golden file names and compare them with what they were.')
    .argument('[file]', 'the golden file', DEFAULT_FILE)
    .option('--update', 'write what the plans are now; refused if CI is set')
    .option('--json', 'one JSON object')
    .addHelpText('after', '\nExit 1 if a plan differs or has no golden entry, or a golden entry has no plan.')
    .action(check);
}
