// A difference as text, Markdown, JUnit XML and GitHub workflow commands.

import { formatBytes, formatCount } from '../figures/format.ts';
import { ENTITIES } from '../report/markup.ts';
import type { Delta, DiffLevel, LinkDelta, PlanDiff } from './diffPlans.ts';
import type { Limit } from './limits.ts';
import { formatChange, formatValue } from './metrics.ts';
import { CAUSES } from './moves.ts';

/** What each level means, as the first words of every report. */
export const LEVEL_TEXT: Readonly<Record<DiffLevel, string>> = {
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
  /** Every limit that was asked for; undefined without `--fail-on`. */
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
const MAX_OPTION_TEXT = 24;

function showOption(value: unknown): string {
  const text = value === undefined ? 'default' : JSON.stringify(value);
  return text.length > MAX_OPTION_TEXT ? `${text.slice(0, MAX_OPTION_TEXT - 1)}…` : text;
}

function signed(from: number, to: number, format: (value: number) => string): string {
  return to > from ? `+${format(to - from)}` : `-${format(from - to)}`;
}

function deltaLine(name: string, { from, to }: { from: number; to: number }, format = formatCount): string {
  return `${name}: ${format(from)} -> ${format(to)} (${signed(from, to, format)})`;
}

/** The lines of one list, largest change first, and how many are left out. */
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

/** Everything below the headline: options and figures, then ranks, experts and links by size, then tokens and why. */
export function bodyLines(diff: PlanDiff, all = false): string[] {
  const { ranks, causes } = diff;
  const lines = [...diff.metadata];
  for (const { option, from, to } of diff.options) {
    lines.push(`option ${option}: ${showOption(from)} -> ${showOption(to)}`);
  }
  for (const { name, unit, from, to, change } of diff.metrics) {
    if (from === to) continue;
    lines.push(`${name}: ${formatValue(from, unit)} -> ${formatValue(to, unit)} (${formatChange(change)})`);
  }
  lines.push(
    ...perRank('tokens of rank', ranks.tokens, all),
    ...perRank('rows received by rank', ranks.recvRows, all),
    ...perRank('rows sent by rank', ranks.keptRows, all),
    ...perRank('bytes between nodes of rank', ranks.nicBytes, all, formatBytes),
    ...perRank('rows of expert', diff.experts, all),
    ...section('links', diff.links, all, (link) => deltaLine(linkName(link), link, formatBytes)),
  );
  if (diff.movedEntries > 0) {
    const why = CAUSES.filter((cause) => causes[cause] > 0).map(
      (cause) => `${formatCount(causes[cause])} ${cause}`,
    );
    lines.push(`${formatCount(diff.movedEntries)} entries moved: ${why.join(', ')}`);
  }
  for (const { rank, token, k, from, to, why } of diff.moves) {
    lines.push(`rank ${rank} token ${token} k ${k}: ${from} -> ${to} (${why})`);
  }
  return lines;
}

function verdict({ limits, broken }: DiffReport): string[] {
  if (limits === undefined) return [];
  if (broken.length === 0) return [`within ${limits.map(({ text }) => text).join(', ')}`];
  return broken.map(({ text }) => `beyond ${text}`);
}

const shortId = (id: string) => id.slice(0, 12);

/** Plain text; a single line if the plans are identical. */
export function renderText(report: DiffReport, all: boolean): string {
  const { diff, from, to } = report;
  const first = `${LEVEL_TEXT[diff.level]}  ${shortId(from)} -> ${shortId(to)}`;
  const figures = diff.changed && diff.level !== 'metadata' ? [diff.headline] : [];
  const body = bodyLines(diff, all).map((line) => `  ${line}`);
  return [first, ...figures, ...verdict(report), ...body].join('\n');
}

/** Changes as tables, for a pull request's comment or a job's summary. */
export function renderMarkdown(report: DiffReport, all: boolean): string {
  const { diff, from, to } = report;
  const lines = [`### fusco: ${LEVEL_TEXT[diff.level]}`, '', `\`${shortId(from)}\` -> \`${shortId(to)}\``];
  for (const line of verdict(report)) lines.push('', `**${escapeMarkdown(line)}**`);
  const changed = diff.metrics.filter((metric) => metric.from !== metric.to);
  if (changed.length > 0) {
    lines.push('', '| figure | before | after | change |', '| --- | ---: | ---: | ---: |');
    for (const { name, unit, from: a, to: b, change } of changed) {
      lines.push(`| ${name} | ${formatValue(a, unit)} | ${formatValue(b, unit)} | ${formatChange(change)} |`);
    }
  }
  // The figures stand in the table.
  const names = new Set(changed.map(({ name }) => `${name}:`));
  const rest = bodyLines(diff, all).filter((line) => !names.has(line.split(' ')[0]!));
  if (rest.length > 0) lines.push('', ...rest.map((line) => `- ${escapeMarkdown(line)}`));
  return lines.join('\n');
}

function escapeMarkdown(text: string): string {
  return text.replace(/[\\`*_<>|[\]]/g, '\\$&');
}

function escapeXml(text: string): string {
  // Control characters have no form at all in XML 1.0.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replace(/[\0-\x08\x0b\x0c\x0e-\x1f]/g, '?').replace(/[&<>"]/g, (char) => ENTITIES[char]!);
}

/** JUnit XML: a test case per limit, or one that says whether the plan is unchanged. */
export function renderJunit(report: DiffReport, all: boolean): string {
  const { diff, limits, broken, failed } = report;
  const cases =
    limits === undefined
      ? [{ name: 'plan is unchanged', fails: failed }]
      : limits.map((limit) => ({ name: `not ${limit.text}`, fails: broken.includes(limit) }));
  const failures = cases.filter(({ fails }) => fails).length;
  const text = escapeXml(renderText(report, all));
  const message = escapeXml(`${LEVEL_TEXT[diff.level]}: ${diff.headline}`);
  const shown = cases.map(({ name, fails }) => {
    const head = `    <testcase classname="fusco.diff" name="${escapeXml(name)}"`;
    if (!fails) return `${head}/>`;
    return `${head}>\n      <failure message="${message}">${text}</failure>\n    </testcase>`;
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<testsuites>',
    `  <testsuite name="fusco diff" tests="${cases.length}" failures="${failures}" errors="0" skipped="0">`,
    ...shown,
    '  </testsuite>',
    '</testsuites>',
  ].join('\n');
}

/** A message of a GitHub workflow command: what would end it is percent-encoded. */
function escapeCommand(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

/** One workflow command: an error if the comparison fails, else a notice. */
export function renderGithub(report: DiffReport, all: boolean): string {
  const { diff, failed } = report;
  const [first, ...rest] = renderText(report, all).split('\n');
  const kind = failed ? 'error' : 'notice';
  const title = escapeCommand(`fusco: ${LEVEL_TEXT[diff.level]}`)
    .replaceAll(':', '%3A')
    .replaceAll(',', '%2C');
  return `::${kind} title=${title}::${escapeCommand([first, ...rest].join('\n'))}`;
}
