// Lines that `fusco plan` prints in addition to the name of the file: its assumptions, lost entries, and the choice of
// `auto`.

import type { Command } from 'commander';
import { defaultRanksPerNode } from '../../planner/placement.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { formatCount, formatUs, percent } from '../figures/format.ts';
import { planOptionsOf } from '../simulate/advice.ts';
import { type Prediction, predictPlan, type StrategyName, strategyOf } from '../simulate/compare.ts';
import { defaultTopology, linkedRanks } from '../simulate/topology.ts';

/** Entries that reach no expert. */
export function lostEntries({ shards }: VerifiedPlan): { maskedEntries: number; droppedEntries: number } {
  return {
    maskedEntries: sum(shards.map(({ masked }) => masked)),
    droppedEntries: sum(shards.map(({ dropped }) => dropped)),
  };
}

/** The defaults on which bytes and times are based, in one line; no line if all were given. */
export function assumedLines(
  command: Command,
  { ranksPerNode, hidden, dtype, strategy }: PlanOptions,
): string[] {
  const facts: [option: string, text: string][] = [
    ['hidden', `hidden ${hidden}`],
    ['dtype', `${dtype}`],
    ['ranksPerNode', `${ranksPerNode} ranks per node`],
    ['strategy', `${strategy}`],
  ];
  const given = (option: string) => command.getOptionValueSource(option) === 'cli';
  const isGiven = (option: string) => given(option) || (option === 'ranksPerNode' && given('nodeSizes'));
  const assumed = facts
    .filter(([option]) => !isGiven(option))
    .map(([option, text]) => {
      const flag = command.options.find((each) => each.attributeName() === option)!.long;
      return `${text} (${flag})`;
    });
  return assumed.length === 0 ? [] : [`  assumed: ${assumed.join(', ')}`];
}

/** Dropped and masked entries, one line each; no line if nothing was lost. */
export function lostLines(plan: VerifiedPlan): string[] {
  const { maskedEntries, droppedEntries } = lostEntries(plan);
  const all = sum(plan.shards.map(({ tokens, topk }) => tokens * topk));
  const line = (count: number, what: string) =>
    count === 0
      ? []
      : [`  ${formatCount(count)} of ${formatCount(all)} entries (${percent(count / all)}) ${what}`];
  return [
    ...line(
      droppedEntries,
      `dropped: beyond the capacity of ${formatCount(plan.spec.capacity)} rows per expert`,
    ),
    ...line(maskedEntries, 'masked: they choose no expert'),
  ];
}

/** A strategy that `auto` could have chosen, with its predicted time; `planned` is the one that it chose. */
export interface Choice {
  readonly strategy: StrategyName;
  readonly us: number;
  readonly isPlanned: boolean;
  /** Options of `fusco plan` that select it. */
  readonly options: string;
}

/** Predicts both strategies that `auto` compared, and once per rank, on the default machine. */
export function predictChoices(
  planner: Planner,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  planned: VerifiedPlan,
): { topology: string; choices: Choice[] } {
  const ranksPerNode = options.ranksPerNode ?? defaultRanksPerNode(options.ranks);
  const topology = defaultTopology({
    ranks: options.ranks,
    ranksPerNode: options.ranksPerHost ?? ranksPerNode,
  });
  const other = (more: Partial<PlanOptions>) => planner.planAll(tables, { ...options, ...more });
  const plans = [
    () => other({ strategy: 'flat' }),
    ...(linkedRanks(topology, options.ranks) < options.ranks ? [() => other({ strategy: 'hier' })] : []),
    () => other({ strategy: 'hier', ranksPerNode: 1, balance: 'static' }),
  ];
  const choice = (prediction: Prediction, isPlanned: boolean): Choice => {
    const { strategy, us } = prediction;
    return { strategy, us, isPlanned, options: planOptionsOf(prediction) };
  };
  const own = strategyOf(planned);
  const others = plans
    .map((make) => predictPlan(make(), topology))
    .filter(({ strategy }) => strategy !== own)
    .map((prediction) => choice(prediction, false));
  return { topology: topology.name, choices: [choice(predictPlan(planned, topology), true), ...others] };
}

/** The choice of `auto`, the predicted times, and faster strategies. */
export function choiceLines({ topology, choices }: ReturnType<typeof predictChoices>): string[] {
  const [own, ...others] = choices as [Choice, ...Choice[]];
  const times = others.map(({ strategy, us }) => `${strategy} ${formatUs(us)}`).join(', ');
  const lines = [
    `  auto chose ${own.strategy}: predicted ${formatUs(own.us)} for dispatch and combine; ${times} (model, ${topology})`,
  ];
  const best = others.reduce((least, each) => (each.us < least.us ? each : least), own);
  if (best.us < 0.99 * own.us) lines.push(`  ${best.strategy} is predicted to be faster: ${best.options}`);
  return lines;
}
