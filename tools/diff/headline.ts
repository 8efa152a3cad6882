// A comparison in one sentence: the root causes, their consequences, and the predicted time before and after.

import { formatCount, rows } from '../figures/format.ts';
import { expertMoveText } from './experts.ts';
import { formatChange, formatValue, type MetricDelta } from './metrics.ts';
import type { Move } from './moves.ts';
import type { OptionDelta, PlanDiff } from './planDiff.ts';

/** A smaller relative change of the predicted time is ignored, because the model is not that accurate. */
const SAME = 0.005;
const MAX_OPTION_TEXT = 24;

export function showOption(value: unknown): string {
  if (typeof value === 'string') return value;
  const text = value === undefined ? 'default' : JSON.stringify(value);
  return text.length > MAX_OPTION_TEXT ? `${text.slice(0, MAX_OPTION_TEXT - 1)}…` : text;
}

/** Options of hierarchical plans, which come and go with the strategy. */
const FOLLOWERS = ['balance', 'partial', 'sum'];

/** The common name of a strategy: a hierarchical plan with one rank per node sends "once per rank". */
function named({ strategy }: { readonly strategy: unknown }, ranksPerNode: unknown): unknown {
  return strategy === 'hier' && ranksPerNode === 1 ? 'once per rank' : strategy;
}

/**
 * Options that other lines do not cover: a changed placement is shown by the experts that moved, and consequences of
 * another strategy are omitted.
 */
export function toldOptions(options: readonly OptionDelta[]): OptionDelta[] {
  const told = options.filter(({ option }) => option !== 'placement');
  const strategy = told.find(({ option }) => option === 'strategy');
  if (strategy === undefined) return told;
  const nodes = told.find(({ option }) => option === 'ranksPerNode');
  const from = named({ strategy: strategy.from }, nodes?.from);
  const to = named({ strategy: strategy.to }, nodes?.to);
  const isOnce = from === 'once per rank' || to === 'once per rank';
  const rest = told.filter(
    ({ option }) =>
      option !== 'strategy' && !FOLLOWERS.includes(option) && !(isOnce && option === 'ranksPerNode'),
  );
  return [{ option: 'strategy', from, to }, ...rest];
}

function metricOf({ metrics }: Pick<PlanDiff, 'metrics'>, name: string): MetricDelta {
  return metrics.find((metric) => metric.name === name)!;
}

/** The destination of an entry, without the parts that both sides have in common: `expert 102 -> 17`. */
function choiceText({ rank, token, from, to }: Move): string {
  const expert = (text: string) => /^expert (\d+)/.exec(text)?.[1];
  const [a, b] = [expert(from), expert(to)];
  const where = `rank ${rank} token ${token}`;
  return a === undefined || b === undefined ? `${where}: ${from} -> ${to}` : `${where}: expert ${a} -> ${b}`;
}

function causesOf(diff: Omit<PlanDiff, 'headline'>): string[] {
  const { causes, moves, placement } = diff;
  const options = toldOptions(diff.options).map(
    ({ option, from, to }) => `${option} ${showOption(from)} -> ${showOption(to)}`,
  );
  const [expert] = placement;
  const experts = expert === undefined ? [] : [placementText(diff)];
  const choice = moves.find(({ why }) => why === 'id');
  const what = causes.id === 1 ? '1 choice' : `${formatCount(causes.id)} choices`;
  const first = causes.id === 1 ? '' : 'first ';
  const ids = choice === undefined ? [] : [`${what} changed (${first}${choiceText(choice)})`];
  const dropped = metricOf(diff, 'droppedEntries');
  const capacity =
    dropped.from === dropped.to
      ? []
      : [`dropped entries ${formatCount(dropped.from)} -> ${formatCount(dropped.to)}`];
  const tokens = metricOf(diff, 'tokens');
  const count =
    tokens.from === tokens.to ? [] : [`tokens ${formatCount(tokens.from)} -> ${formatCount(tokens.to)}`];
  return [...options, ...experts, ...ids, ...capacity, ...count];
}

function placementText({ placement }: Pick<PlanDiff, 'placement'>): string {
  const [first] = placement;
  const text = `${expertMoveText(first!)}, ${rows(first!.rows)}`;
  return placement.length === 1
    ? text
    : `${formatCount(placement.length)} experts moved (most rows: ${text})`;
}

/** The most important figures, if they changed. */
const FELT: readonly (readonly [name: string, label: string])[] = [
  ['imbalance', 'imbalance'],
  ['busiestNicBytes', 'busiest NIC'],
  ['busiestNvlinkBytes', 'busiest NVLink'],
];

function consequencesOf(diff: Omit<PlanDiff, 'headline'>): string {
  const felt = FELT.flatMap(([name, label]) => {
    const { unit, from, to, change } = metricOf(diff, name);
    if (formatValue(from, unit) === formatValue(to, unit)) return [];
    return [`${label} ${formatValue(from, unit)} -> ${formatValue(to, unit)} (${formatChange(change)})`];
  });
  return felt.length === 0 ? 'load and traffic unchanged' : felt.join(', ');
}

/** By the predicted time. */
export function verdictOf(diff: Pick<PlanDiff, 'metrics'>): 'better' | 'worse' | 'as fast as before' {
  const { change, from, to } = metricOf(diff, 'predicted');
  if (change !== null && Math.abs(change) < SAME) return 'as fast as before';
  return to < from ? 'better' : 'worse';
}

/** The sentence. */
export function headlineOf(diff: Omit<PlanDiff, 'headline'>): string {
  if (diff.level === 'identical') return 'identical';
  if (diff.level === 'metadata') return `the same plan; ${diff.metadata.join(', ')}`;
  const causes = causesOf(diff);
  const cause = causes.length === 0 ? 'rows travel differently' : causes.join(', ');
  const { from, to, change } = metricOf(diff, 'predicted');
  const times = `predicted ${formatValue(from, 'us')} -> ${formatValue(to, 'us')} (${formatChange(change)})`;
  return `${cause}; ${consequencesOf(diff)}; ${times}: ${verdictOf(diff)}`;
}
