import { basename } from 'node:path';
import type { Command } from 'commander';
import type { FuscoError } from '../../planner/errors.ts';
import type { DecodedPlan } from '../../planner/format/decode.ts';
import { sum } from '../../planner/totals.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { formatBytes, formatCount, formatFacts } from '../figures/format.ts';
import { figuresOf } from '../figures/planFigures.ts';
import { type Summary, summarize } from '../figures/summary.ts';
import { readPlan } from '../readers/planFile.ts';
import { encodeReport } from '../report/write.ts';
import { styleOf } from '../terminal/style.ts';
import { drawTraffic } from '../terminal/traffic.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, ErrorsShown, errorLine, print, printJson, say } from './io.ts';

const MAX_PROBLEMS = 20;

function span(values: readonly number[]): string {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return low === high ? formatCount(low) : `${formatCount(low)} to ${formatCount(high)}`;
}

/** The facts of a plan, a label and a value a line. */
export function factLines(summary: Summary): string {
  const { imbalance, copiesPerToken } = summary;
  const entries = sum(summary.keptRows) + summary.maskedEntries + summary.droppedEntries;
  const capacity = summary.capacity === 0 ? 'none' : `${formatCount(summary.capacity)} rows per expert`;
  const facts: [string, string][] = [
    [
      'group',
      `${summary.ranks} ranks, ${summary.ranksPerNode} a node, ${summary.experts} experts, top-${summary.topk}`,
    ],
    ['row', `${summary.hidden} x ${summary.dtype} = ${formatBytes(summary.rowBytes)}`],
    ['strategy', `${summary.strategy}, align ${summary.align}, capacity ${capacity}`],
    ['tokens', `${formatCount(sum(summary.tokens))} (${span(summary.tokens)} a rank)`],
    [
      'entries',
      `${formatCount(entries)}: ${formatCount(sum(summary.keptRows))} routed, ` +
        `${formatCount(summary.maskedEntries)} masked, ${formatCount(summary.droppedEntries)} dropped`,
    ],
    [
      'received',
      `${span(summary.recvRows)} rows a rank, ${formatCount(summary.paddingRows)} of them padding in all`,
    ],
    [
      'imbalance',
      `busiest expert ${imbalance.expertMaxOverMean.toFixed(2)} x the mean, ` +
        `busiest rank ${imbalance.rankMaxOverMean.toFixed(2)} x`,
    ],
    [
      'copies',
      `${copiesPerToken.sent.toFixed(2)} rows sent per token (${copiesPerToken.flat.toFixed(2)} experts per token)`,
    ],
    ['descriptors', `${formatCount(summary.segments)} segments, ${formatCount(summary.slices)} slices`],
  ];
  const { forwarding, busiestNicBytes } = summary;
  if (summary.ranks > summary.ranksPerNode) {
    facts.push(['busiest NIC', `${formatBytes(busiestNicBytes)} sent or received between nodes by one rank`]);
  }
  if (forwarding !== undefined) {
    const { forwardedRows, stagedRows, groupLoads, rule, metadataBytes } = forwarding;
    facts.push(
      [
        'forwarding',
        `${formatCount(forwardedRows)} rows between nodes, ${formatCount(stagedRows)} of them staged`,
      ],
      [
        'groups',
        `${rule}: ${span(groupLoads)} rows a group; ${formatBytes(metadataBytes)} of metadata travel along`,
      ],
    );
  }
  if (summary.reason !== '') facts.push(['auto', summary.reason]);
  for (const [name, value] of Object.entries(summary.rules ?? {})) facts.push([name, value]);
  if (summary.extra !== undefined) facts.push(['extra', summary.extra.join(', ')]);
  return formatFacts(facts);
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
  print(factLines(summary));
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
