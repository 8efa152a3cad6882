import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { encodePlanChunks } from '../../planner/format/encode.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { Planner } from '../../planner/planner.ts';
import { formatGolden, type GoldenFile, readGolden } from '../golden/goldenFile.ts';
import { type Checked, compareGolden, makeAll, planOf } from '../golden/goldenPlans.ts';
import { escapeCommand, escapeTitle } from '../report/ciText.ts';
import { OutputDirectory, writeFileAtomic } from '../writers/outputFile.ts';
import { ComparisonFailed, command, print, printJson, say } from './io.ts';
import { choice } from './options.ts';

const DEFAULT_FILE = 'fusco.golden.json';

/** Whether this runs in continuous integration; all such services set this variable. */
function isCi(): boolean {
  const { CI } = process.env;
  return CI !== undefined && !['', '0', 'false'].includes(CI);
}

/** The command that updates the golden entries to the current plans. */
function updateCommand(file: string): string {
  return file === DEFAULT_FILE ? 'fusco check --update' : `fusco check ${JSON.stringify(file)} --update`;
}

function printChecked(checked: readonly Checked[]): void {
  for (const { name, verdict, reasons } of checked) {
    print(`${verdict.padEnd(8)}  ${name}`);
    if (verdict === 'mismatch') for (const reason of reasons) print(`          ${reason}`);
  }
}

/** One workflow command of GitHub for each plan that differs. */
function printCommands(file: string, checked: readonly Checked[]): void {
  for (const { name, verdict, reasons } of checked) {
    if (verdict === 'same') continue;
    const title = escapeTitle(`fusco: ${verdict} ${name}`);
    print(`::error file=${escapeTitle(file)},title=${title}::${escapeCommand(reasons.join('\n'))}`);
  }
}

interface CheckArguments {
  update?: boolean;
  json?: boolean;
  format: 'text' | 'json' | 'github' | 'none';
  plans?: string;
}

/** Writes every plan as NAME.fusco. */
async function writePlans(golden: GoldenFile, file: string, planner: Planner, path: string): Promise<void> {
  const directory = await OutputDirectory.create(path);
  for (const [name, entry] of golden.plans) {
    const { plan } = await planOf(entry, file, planner);
    await directory.write(`${name}.fusco`, (await encodePlanChunks(plan, nodeSha256)).chunks);
  }
}

async function check(file: string, options: CheckArguments): Promise<void> {
  if (options.update && isCi()) {
    throw new FuscoError('E_GOLDEN', 'CI is set: golden plans are updated and reviewed by people', {
      path: file,
    });
  }
  const was = await readGolden(file);
  const planner = await loadPlanner();
  if (options.plans !== undefined) await writePlans(was, file, planner, options.plans);
  const made = await makeAll(was, file, planner);
  const checked = compareGolden(was, made);
  const changed = checked.filter(({ verdict }) => verdict !== 'same');
  if (options.update && changed.length > 0) {
    await writeFileAtomic(file, [new TextEncoder().encode(formatGolden({ plans: was.plans, golden: made }))]);
  }
  const updated = options.update === true && changed.length > 0;
  const update = updateCommand(file);
  const format = options.json ? 'json' : options.format;
  if (format === 'json') printJson({ file, passed: changed.length === 0, updated, checked, update });
  else if (format === 'github') printCommands(file, checked);
  else if (format === 'text') printChecked(checked);
  if (updated) {
    say(`updated ${changed.length} of ${checked.length} entries in ${file}`);
    return;
  }
  if (changed.length === 0) return;
  if (format !== 'json')
    say(`${changed.length} of ${checked.length} golden plans differ; if that is meant, run: ${update}`);
  throw new ComparisonFailed();
}

export function checkCommand(): Command {
  return command(
    'check',
    'Make the plans that a golden file lists and compare them with their golden entries.',
  )
    .argument('[file]', 'the golden file', DEFAULT_FILE)
    .option('--update', 'write the current plans into the golden file; refused if CI is set')
    .addOption(choice('--format <format>', 'output format', ['text', 'json', 'github', 'none']))
    .option('--json', 'the same as --format json')
    .option('--plans <dir>', 'also write each plan as NAME.fusco, whether it differs or not')
    .addHelpText(
      'after',
      '\nThe exit code is 1 if a plan differs or has no golden entry, or if a golden entry has no plan.',
    )
    .action(check);
}
