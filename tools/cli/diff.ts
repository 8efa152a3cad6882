import type { Command } from 'commander';
import { diffFiles, machineFor } from '../diff/diffPlans.ts';
import { checkLimits, parseLimits } from '../diff/limits.ts';
import { measure } from '../diff/metrics.ts';
import {
  type DiffReport,
  renderGithub,
  renderJunit,
  renderMarkdown,
  renderText,
  reportOf,
} from '../diff/render.ts';
import { readPlan } from '../readers/planFile.ts';
import { findTopology } from '../simulate/topology.ts';
import { ComparisonFailed, command, print, printJson } from './io.ts';
import { choice } from './options.ts';

const RENDERERS = {
  text: renderText,
  markdown: renderMarkdown,
  junit: renderJunit,
  github: renderGithub,
} as const;

interface DiffArguments {
  format: keyof typeof RENDERERS | 'json';
  json?: boolean;
  all?: boolean;
  failOn?: string;
  topology?: string;
}

function printReport(report: DiffReport, { format, json, all }: DiffArguments): void {
  if (!json && format !== 'json') {
    print(RENDERERS[format](report, all ?? false));
    return;
  }
  const { from, to, diff, limits, broken, failed } = report;
  const verdict =
    limits === undefined
      ? {}
      : { failOn: limits.map(({ text }) => text), broken: broken.map(({ text }) => text), failed };
  printJson({ from, to, ...diff, ...verdict });
}

async function diff(fileA: string, fileB: string, args: DiffArguments): Promise<void> {
  const limits = args.failOn === undefined ? undefined : parseLimits(args.failOn);
  const [a, b] = [await readPlan(fileA), await readPlan(fileB)];
  const topology =
    args.topology === undefined ? machineFor(a.plan, b.plan) : await findTopology(args.topology);
  if (limits !== undefined) checkLimits(limits, [measure(a.plan, topology), measure(b.plan, topology)]);
  const found = diffFiles(a, b, { topology, ...(args.all && { maxMoves: Number.POSITIVE_INFINITY }) });
  const report = reportOf(a.planId, b.planId, found, limits);
  printReport(report, args);
  if (report.failed) throw new ComparisonFailed();
}

export function diffCommand(): Command {
  return command('diff', 'Show how two plans differ: by how much, where, and which tokens moved and why.')
    .argument('<a>', 'a plan file')
    .argument('<b>', 'a plan file')
    .addOption(choice('--format <format>', 'output format', ['text', 'json', 'markdown', 'junit', 'github']))
    .option('--json', 'the same as --format json')
    .option('--all', 'show every rank, expert, link and token, not only the largest changes')
    .option(
      '--fail-on <limits>',
      "exit with 1 only if one of these is broken, for example 'predicted>+2%,level>=result'; none: never",
    )
    .option('--topology <name|file>', 'machine for which times are predicted, as for simulate')
    .addHelpText(
      'after',
      '\nThe exit code is 1 if the plans differ or, with --fail-on, if a limit is broken.',
    )
    .action(diff);
}
