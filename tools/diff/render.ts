// A difference as text, Markdown, JUnit XML and GitHub workflow commands.

import { formatBytes, formatCount, rows } from '../figures/format.ts';
import { escapeCommand, escapeMarkdown, escapeTitle, junitText } from '../report/ciText.ts';
import { expertMoveText } from './experts.ts';
import { showOption, toldOptions, verdictOf } from './headline.ts';
import type { DiffLevel, Limit } from './limits.ts';
import { formatChange, formatDelta, formatValue, METRICS, type MetricDelta } from './metrics.ts';
import { CAUSES } from './moves.ts';
import type { Delta, LinkDelta, PlanDiff } from './planDiff.ts';

/** The meaning of each level, with which every report begins. */
const LEVEL_TEXT: Readonly<Record<DiffLevel, string>> = {
  result: 'the result changed',
  movement: 'same result, different movement',
  order: 'same movement, different order',
  metadata: 'same plan, other metadata',
  identical: 'identical',
};

/** A comparison as it is reported: the plans' ids, and the limits that it breaks. */
export interface DiffReport {
  readonly from: string;
  readonly to: string;
  readonly diff: PlanDiff;
  /** All requested limits; undefined without `--fail-on`. */
  readonly limits: readonly Limit[] | undefined;
  readonly broken: readonly Limit[];
  /** Whether the comparison fails: with limits, whether one is broken; else whether anything changed. */
  readonly failed: boolean;
}

/** Joins a comparison with its limits. */
export function reportOf(from: string, to: string, diff: PlanDiff, limits?: readonly Limit[]): DiffReport {
  const broken = (limits ?? []).filter(({ breaks }) => breaks(diff.level, diff.metrics));
  return { from, to, diff, limits, broken, failed: limits === undefined ? diff.changed : broken.length > 0 };
}

/** Entries of each list that are shown without `--all`. */
const SHOWN = 8;

function signed(from: number, to: number, format: (value: number) => string): string {
  return to > from ? `+${format(to - from)}` : `-${format(from - to)}`;
}

function deltaLine(name: string, { from, to }: { from: number; to: number }, format = formatCount): string {
  return `${name}: ${format(from)} -> ${format(to)} (${signed(from, to, format)})`;
}

/** The lines of one list, largest change first, and the number of omitted lines. */
function section<T>(what: string, found: readonly T[], all: boolean, line: (item: T) => string): string[] {
  const shown = all ? found : found.slice(0, SHOWN);
  const rest = found.length - shown.length;
  return [...shown.map(line), ...(rest > 0 ? [`${what}: ${formatCount(rest)} more`] : [])];
}

function perRank(what: string, found: readonly Delta[], all: boolean, format = formatCount): string[] {
  return section(what, found, all, (delta) => deltaLine(`${what} ${delta.index}`, delta, format));
}

function linkName({ sender, receiver, between }: LinkDelta): string {
  return `link r${sender} -> r${receiver} ${between === 'nodes' ? 'between nodes' : 'inside a node'}`;
}

/** What was changed in the second plan: options, experts that moved, entries with a root cause. */
export function causeLines(diff: PlanDiff, all = false): string[] {
  const { causes, placement } = diff;
  const options = toldOptions(diff.options).map(
    ({ option, from, to }) => `option ${option}: ${showOption(from)} -> ${showOption(to)}`,
  );
  const experts = section(
    'experts',
    placement,
    all,
    (move) => `${expertMoveText(move)} (${rows(move.rows)})`,
  );
  const moves = diff.moves
    .filter(({ why }) => all || why !== 'shift')
    .map(
      ({ rank, token, k, from, to, why }) => `rank ${rank} token ${token} k ${k}: ${from} -> ${to} (${why})`,
    );
  const counts = CAUSES.filter((cause) => causes[cause] > 0).map(
    (cause) => `${formatCount(causes[cause])} ${cause}`,
  );
  const entries =
    diff.movedEntries > 0 ? [`${formatCount(diff.movedEntries)} entries moved: ${counts.join(', ')}`] : [];
  return [...diff.metadata, ...options, ...experts, ...entries, ...moves];
}

/** The consequences: figures, then ranks, experts and links by size. */
export function consequenceLines(diff: PlanDiff, all = false): string[] {
  const { ranks } = diff;
  return [
    ...changedMetrics(diff).map(formatDelta),
    ...perRank('tokens of rank', ranks.tokens, all),
    ...perRank('rows received by rank', ranks.recvRows, all),
    ...perRank('rows sent by rank', ranks.keptRows, all),
    ...perRank('bytes between nodes of rank', ranks.nicBytes, all, formatBytes),
    ...perRank('rows of expert', diff.experts, all),
    ...section('links', diff.links, all, (link) => deltaLine(linkName(link), link, formatBytes)),
  ];
}

/** Figures that changed. A predicted time counts as changed only if its text differs, because it comes from a model. */
function changedMetrics({ metrics }: PlanDiff): MetricDelta[] {
  const reads = ({ unit, from, to }: MetricDelta) => formatValue(from, unit) !== formatValue(to, unit);
  return metrics.filter((metric) => metric.from !== metric.to && (metric.unit !== 'us' || reads(metric)));
}

/** The description of a broken limit: the figure before and after, and the bound. */
function brokenText({ diff }: DiffReport, { name, bound }: Limit): string {
  if (name === 'level') return `level is ${diff.level}, limit ${bound}`;
  return `${formatDelta(diff.metrics.find((metric) => metric.name === name)!)}, limit ${bound}`;
}

function verdict(report: DiffReport): string[] {
  const { limits, broken } = report;
  if (limits === undefined || limits.length === 0) return [];
  if (broken.length === 0) return [`within ${limits.map(({ text }) => text).join(', ')}`];
  return broken.map((limit) => `beyond ${limit.text}: ${brokenText(report, limit)}`);
}

const shortId = (id: string) => id.slice(0, 12);

/** `the result changed  1f0c… -> 77e3…, times predicted on h100-nvl8` */
function levelLine({ diff, from, to }: DiffReport): string {
  const machine =
    diff.changed && diff.level !== 'metadata' ? `; times are a model's, for ${diff.machine}` : '';
  return `${LEVEL_TEXT[diff.level]}  ${shortId(from)} -> ${shortId(to)}${machine}`;
}

/** Plain text; a single line if the plans are identical. */
export function renderText(report: DiffReport, all: boolean): string {
  const { diff } = report;
  const body = [...causeLines(diff, all), ...consequenceLines(diff, all)].map((line) => `  ${line}`);
  const headline = diff.level === 'identical' ? [] : [diff.headline];
  return [...headline, levelLine(report), ...verdict(report), ...body].join('\n');
}

const MARKS = { better: '🟢', worse: '🔴', 'as fast as before': '⚪' } as const;

/**
 * Changes for a pull request's comment or a job's summary: the sentence, causes, and a table; the rest is in collapsed
 * sections.
 */
export function renderMarkdown(report: DiffReport, all: boolean): string {
  const { diff } = report;
  if (!diff.changed) return `### fusco: identical\n\n${escapeMarkdown(levelLine(report))}`;
  const lines = [`### ${MARKS[verdictOf(diff)]} fusco: ${escapeMarkdown(diff.headline)}`];
  for (const line of verdict(report)) lines.push('', `**${escapeMarkdown(line)}**`);
  lines.push('', escapeMarkdown(levelLine(report)), '');
  lines.push(...causeLines(diff, false).map((line) => `- ${escapeMarkdown(line)}`));
  const changed = changedMetrics(diff);
  if (changed.length > 0) {
    lines.push('', '| figure | before | after | change |', '| --- | ---: | ---: | ---: |');
    for (const { name, unit, from, to, change } of changed) {
      const { meaning } = METRICS.find((metric) => metric.name === name)!;
      lines.push(
        `| ${meaning} | ${formatValue(from, unit)} | ${formatValue(to, unit)} | ${formatChange(change)} |`,
      );
    }
  }
  const rest = consequenceLines(diff, all).slice(changed.length);
  if (rest.length > 0) {
    lines.push('', '<details><summary>Ranks, experts and links</summary>', '');
    lines.push(...rest.map((line) => `- ${escapeMarkdown(line)}`), '', '</details>');
  }
  return lines.join('\n');
}

/** JUnit XML: a test case per limit, or one that says whether the plan is unchanged. */
export function renderJunit(report: DiffReport): string {
  const { diff, limits, broken, failed } = report;
  const cases: { name: string; problem?: string }[] =
    limits === undefined || limits.length === 0
      ? [{ name: 'plan is unchanged', ...(failed && { problem: LEVEL_TEXT[diff.level] }) }]
      : limits.map((limit) => ({
          name: limit.text,
          ...(broken.includes(limit) && { problem: brokenText(report, limit) }),
        }));
  return junitText(
    'diff',
    cases.map(({ name, problem }) => ({
      name,
      ...(problem !== undefined && { problem, text: diff.headline }),
    })),
  );
}

/** One workflow command: an error if the comparison fails, else a notice. */
export function renderGithub(report: DiffReport): string {
  const { diff, failed } = report;
  const kind = failed ? 'error' : 'notice';
  const title = escapeTitle(`fusco: ${LEVEL_TEXT[diff.level]}`);
  return `::${kind} title=${title}::${escapeCommand([diff.headline, ...verdict(report)].join('\n'))}`;
}
