// What an audit says: the verdict, the first difference, counts by kind.

import type { AuditKind } from '../../executor/native/audit.ts';
import { formatCount, rows } from '../figures/format.ts';
import { escapeCommand, escapeMarkdown, escapeTitle, junitText } from '../report/ciText.ts';
import type { AuditResult, Difference, RankReport, Stage } from './audit.ts';

/** What each kind means, in a few words; docs/audit.md says more. */
export const KIND_TEXT: Readonly<Record<AuditKind, string>> = {
  'other-token': 'the row of another token',
  zeros: 'zeros in place of a token',
  stale: 'a row of the step before',
  partial: 'only a part of the row is right',
  rounding: 'bits that differ by rounding',
  nan: 'NaN in place of a number',
  values: 'other values',
  padding: 'padding that is not zero',
  missing: 'the buffer ends before this row',
  extra: 'a row behind the last one',
  duplicate: 'a row that is there already',
  'term-missing': 'the row of one k was not added',
  'term-twice': 'the row of one k was added twice',
  unweighted: 'added without weights',
  scaled: 'all elements multiplied by one factor',
};

/** An audit as it is reported. */
export interface AuditReport extends AuditResult {
  readonly planId: string;
  readonly layout: string;
  /** The requested order of addition. */
  readonly order?: string | undefined;
}

/** Whether every row is right. */
export function isRight({ ranks }: AuditResult): boolean {
  return ranks.every(({ wrong }) => wrong === 0);
}

function ofStage({ ranks }: AuditResult, stage: Stage): RankReport[] {
  return ranks.filter((rank) => rank.stage === stage);
}

function sumOf(ranks: readonly RankReport[], value: (rank: RankReport) => number): number {
  return ranks.reduce((sum, rank) => sum + value(rank), 0);
}

/** Wrong rows by kind, of all ranks. */
export function countsOf(ranks: readonly RankReport[]): Partial<Record<AuditKind, number>> {
  const counts: Partial<Record<AuditKind, number>> = {};
  for (const rank of ranks) {
    for (const [kind, count] of Object.entries(rank.counts) as [AuditKind, number][])
      counts[kind] = (counts[kind] ?? 0) + count;
  }
  return counts;
}

/** Orders of addition that give the bits on all ranks that have tokens. */
function ordersOf(ranks: readonly RankReport[]): string[] {
  const [first, ...more] = ranks.filter((rank) => rank.rows > 0);
  return (first?.orders ?? []).filter((order) => more.every(({ orders }) => orders.includes(order)));
}

function expectedText({ stage, source, token, k }: Difference): string {
  if (source < 0) return 'nothing belongs there';
  if (stage === 'combine') return '';
  return `token ${token} of rank ${source}${k < 0 ? '' : ` (k ${k})`} belongs there`;
}

function foundText(difference: Difference): string {
  const { kind, found, foundSource, foundToken, precision, factor, k, firstByte, endByte } = difference;
  const who = `token ${foundToken} of rank ${foundSource}`;
  const what = {
    unknown: '',
    nothing: '',
    zeros: kind === 'zeros' ? '' : 'zeros',
    token: who,
    previous: `${who} of the step before`,
  }[found];
  const more = [
    what,
    kind === 'partial' || kind === 'values' ? `bytes ${firstByte} to ${endByte} are wrong` : '',
    precision > 0 ? `${precision} significant bits explain it` : '',
    kind === 'scaled' ? `factor ${Number(factor.toPrecision(6))}` : '',
    kind === 'term-missing' || kind === 'term-twice' ? `k ${k}` : '',
  ].filter((part) => part !== '');
  return `${KIND_TEXT[kind]}${more.length === 0 ? '' : `: ${more.join(', ')}`}`;
}

/** `rank 1 slot 17: token 4 of rank 0 (k 2) belongs there; found the row of another token: token 9 of rank 3` */
export function differenceText(difference: Difference): string {
  const { stage, rank, row } = difference;
  const place = stage === 'dispatch' ? `rank ${rank} slot ${row}` : `rank ${rank} token ${row}, combined`;
  const expected = expectedText(difference);
  return `${place}: ${expected === '' ? '' : `${expected}; found `}${foundText(difference)}`;
}

/** What was looked at, and what was right of it. */
function stageLines(report: AuditReport): string[] {
  const lines: string[] = [];
  const dispatched = ofStage(report, 'dispatch');
  if (dispatched.length > 0) {
    const [all, wrong] = [sumOf(dispatched, (rank) => rank.rows), sumOf(dispatched, (rank) => rank.wrong)];
    lines.push(`dispatch: ${formatCount(all - wrong)} of ${rows(all)} right, byte for byte`);
  }
  const combined = ofStage(report, 'combine');
  if (combined.length === 0) return lines;
  const all = sumOf(combined, (rank) => rank.rows);
  const within = all - sumOf(combined, (rank) => rank.wrong - rank.reordered);
  const largest = Math.max(0, ...combined.map(({ largestError }) => largestError));
  lines.push(
    `combine: ${formatCount(within)} of ${rows(all)} within the bound of rounding errors` +
      `${within === 0 ? '' : ` (largest error ${(100 * largest).toFixed(0)} % of its bound)`}`,
  );
  const orders = ordersOf(combined);
  lines.push(
    orders.length > 0
      ? `orders of addition that give these bits: ${orders.join(', ')}`
      : 'no known order of addition gives these bits',
  );
  const reordered = sumOf(combined, (rank) => rank.reordered);
  if (report.order !== undefined && reordered > 0)
    lines.push(`${rows(reordered)} within the bound, with other bits than order ${report.order}`);
  return lines;
}

function kindLines(report: AuditReport): string[] {
  return Object.entries(countsOf(report.ranks)).map(
    ([kind, count]) => `${rows(count)}: ${kind} (${KIND_TEXT[kind as AuditKind]})`,
  );
}

/** The whole answer in one line. */
function headline(report: AuditReport): string {
  const [first] = report.differences;
  const wrong = sumOf(report.ranks, (rank) => rank.wrong);
  if (first === undefined) return `right: nothing differs from the plan in the layout ${report.layout}`;
  return `wrong: ${rows(wrong)}, the first at ${differenceText(first)}`;
}

export function renderAuditText(report: AuditReport): string {
  const listed = report.differences.map(differenceText);
  const body = [...stageLines(report), ...kindLines(report), ...listed].map((line) => `  ${line}`);
  return [headline(report), ...body].join('\n');
}

export function renderAuditMarkdown(report: AuditReport): string {
  const mark = isRight(report) ? '🟢' : '🔴';
  const lines = [`### ${mark} fusco audit: ${escapeMarkdown(headline(report))}`, ''];
  lines.push(...stageLines(report).map((line) => `- ${escapeMarkdown(line)}`));
  const counts = Object.entries(countsOf(report.ranks)) as [AuditKind, number][];
  if (counts.length > 0) {
    lines.push('', '| kind | rows | meaning |', '| --- | ---: | --- |');
    for (const [kind, count] of counts)
      lines.push(`| ${kind} | ${formatCount(count)} | ${KIND_TEXT[kind]} |`);
    lines.push('', '<details><summary>First differences</summary>', '');
    lines.push(...report.differences.map((difference) => `- ${escapeMarkdown(differenceText(difference))}`));
    lines.push('', '</details>');
  }
  return lines.join('\n');
}

/** A test case per stage and rank. */
export function renderAuditJunit(report: AuditReport): string {
  const cases = report.ranks.map(({ stage, rank, wrong, differences }) => {
    const name = `${stage} of rank ${rank}`;
    if (wrong === 0) return { name };
    const texts = differences.map((difference) => differenceText({ ...difference, stage, rank }));
    return { name, problem: `${rows(wrong)} wrong: ${texts[0] ?? ''}`, text: texts.join('\n') };
  });
  return junitText('audit', cases);
}

/** One workflow command: an error if a row is wrong, else a notice. */
export function renderAuditGithub(report: AuditReport): string {
  const kind = isRight(report) ? 'notice' : 'error';
  const text = [headline(report), ...stageLines(report), ...kindLines(report)].join('\n');
  const title = escapeTitle(`fusco audit: ${isRight(report) ? 'right' : 'wrong'}`);
  return `::${kind} title=${title}::${escapeCommand(text)}`;
}

/** -1 stands for none, and is left out. */
function known(fields: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value >= 0));
}

/** A difference as JSON. */
function differenceJson(difference: Difference) {
  const { stage, rank, row, source, token, k, kind, found, foundSource, foundToken } = difference;
  const expected = source < 0 ? null : known({ sourceRank: source, token, k });
  return {
    stage,
    rank,
    slot: row,
    expected,
    found: {
      kind,
      what: found,
      ...known({ sourceRank: foundSource, token: foundToken }),
      bytes: [difference.firstByte, difference.endByte],
      ...(difference.precision > 0 && { precision: difference.precision }),
      ...(kind === 'scaled' && { factor: difference.factor }),
    },
  };
}

function stageJson(ranks: readonly RankReport[]) {
  return {
    rows: sumOf(ranks, (rank) => rank.rows),
    wrong: sumOf(ranks, (rank) => rank.wrong),
    differences: countsOf(ranks),
  };
}

/** The fields of `--json`. */
export function auditJson(report: AuditReport): object {
  const dispatched = ofStage(report, 'dispatch');
  const combined = ofStage(report, 'combine');
  const differences = report.differences.map(differenceJson);
  return {
    ok: isRight(report),
    planId: report.planId,
    layout: report.layout,
    first: differences[0] ?? null,
    differences: countsOf(report.ranks),
    ...(dispatched.length > 0 && { dispatch: stageJson(dispatched) }),
    ...(combined.length > 0 && {
      combine: {
        ...stageJson(combined),
        orders: ordersOf(combined),
        reordered: sumOf(combined, (rank) => rank.reordered),
        largestError: Math.max(0, ...combined.map(({ largestError }) => largestError)),
      },
    }),
    listed: differences,
  };
}
