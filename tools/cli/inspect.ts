import { basename } from 'node:path';
import type { Command } from 'commander';
import type { FuscoError } from '../../planner/errors.ts';
import type { DecodedPlan } from '../../planner/format/decode.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { factsOf, memoryFact } from '../figures/facts.ts';
import { formatBytes, formatFacts } from '../figures/format.ts';
import { figuresOf } from '../figures/planFigures.ts';
import { type Summary, summarize } from '../figures/summary.ts';
import { readPlan } from '../readers/planFile.ts';
import { encodeReport } from '../report/write.ts';
import { styleOf } from '../terminal/style.ts';
import { drawTraffic } from '../terminal/traffic.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, ErrorsShown, errorLine, print, printJson, say } from './io.ts';

const MAX_PROBLEMS = 20;

/** The facts of a plan, a label and a value a line. */
export function factLines(summary: Summary): string {
  return formatFacts(factsOf(summary));
}

/** The traffic matrix and the loads, as standard output can show them. */
export function trafficLines(summary: Summary): string {
  return drawTraffic(summary, styleOf(process.stdout));
}

function printSummary(file: string, decoded: DecodedPlan, summary: Summary, verified: boolean): void {
  print(`${file}`);
  print(`plan ${decoded.planId}`);
  print(
    `format ${decoded.version.join('.')}, written by ${decoded.producer}, ${verified ? 'verified' : 'BROKEN'}\n`,
  );
  print(formatFacts([...factsOf(summary), memoryFact(summary)]));
  print(`\n${trafficLines(summary)}`);
}

async function writeReport(
  path: string,
  file: string,
  decoded: DecodedPlan,
  problems: readonly FuscoError[],
): Promise<void> {
  const { plan, planId, producer, version } = decoded;
  const figures = figuresOf(plan, problems.length === 0);
  const input = { file: basename(file), planId, producer, version, figures, problems };
  const bytes = await encodeReport(input);
  await writeFileAtomic(path, [bytes]);
  say(`report of plan ${planId.slice(0, 12)}: ${formatBytes(bytes.length)} -> ${path}`);
}

async function inspect(file: string, options: { json?: boolean; html?: string }): Promise<void> {
  const problems: FuscoError[] = [];
  const report = (error: FuscoError) => void problems.push(error);
  const decoded = await readPlan(file, report);
  verifyPlan(decoded.plan, report);
  if (options.html !== undefined) await writeReport(options.html, file, decoded, problems);
  const summary = summarize(decoded.plan);
  if (options.json) {
    const { planId, version, producer } = decoded;
    const found = problems.map(({ code, message }) => ({ code, message }));
    printJson({ planId, version, producer, verified: problems.length === 0, problems: found, ...summary });
  } else {
    printSummary(file, decoded, summary, problems.length === 0);
  }
  for (const problem of problems.slice(0, MAX_PROBLEMS - 1)) say(errorLine(problem));
  if (problems.length >= MAX_PROBLEMS) say(`… and ${problems.length - MAX_PROBLEMS + 1} more`);
  if (problems.length > 0) throw new ErrorsShown();
}

export function inspectCommand(): Command {
  return command('inspect', 'Show what a plan does, on one screen. Shows a broken plan as far as it can.')
    .argument('<file>', 'a plan file')
    .option('--json', 'one JSON object')
    .option('--html <file>', 'also write a report with charts: one HTML file that needs no network')
    .action(inspect);
}
