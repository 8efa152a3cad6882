// `fusco simulate FILE --sweep NAME=VALUES`: the same routing under every combination of tokens, ranks, capacity,
// replicas and machine, one line each.

import { InvalidArgumentError } from 'commander';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROWS } from '../../../planner/format/layout.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Planner } from '../../../planner/planner.ts';
import { sum } from '../../../planner/totals.ts';
import { formatCount, formatGrid, formatUs, percent } from '../../figures/format.ts';
import { maxOverMean } from '../../figures/summary.ts';
import { strategyName } from '../../simulate/advice.ts';
import { type Comparison, compare, type StrategyName } from '../../simulate/compare.ts';
import { expertTime, modelOf } from '../../simulate/experts.ts';
import { type Change, planAgain } from '../../simulate/planAgain.ts';
import { LABEL } from '../../simulate/predictionText.ts';
import { print, printJson } from '../io.ts';
import { integer } from '../options.ts';
import { lostEntries } from '../planNotes.ts';
import { machineOf, type SimulateOptions } from './plans.ts';

/** Values to try, by the property that they change. */
export interface Sweep {
  ranks?: readonly number[];
  tokens?: readonly number[];
  capacity?: readonly number[];
  replicas?: readonly number[];
  topology?: readonly string[];
}

const NUMBERS = {
  ranks: integer(1, MAX_RANKS),
  tokens: integer(1, MAX_ROWS),
  capacity: integer(0, MAX_ROWS),
  replicas: integer(0, MAX_INSTANCES),
} as const;

/** An argument parser for `NAME=V1,V2,…`, which adds to earlier values. */
export function sweepOption(text: string, before: Sweep = {}): Sweep {
  const [name, list] = text.split('=', 2) as [string, string | undefined];
  const values = (list ?? '').split(',').filter((value) => value !== '');
  if (values.length === 0) throw new InvalidArgumentError('It must be like tokens=512,4096.');
  if (name === 'topology') return { ...before, topology: values };
  if (!Object.hasOwn(NUMBERS, name))
    throw new InvalidArgumentError('It must sweep tokens, ranks, capacity, replicas or topology.');
  return { ...before, [name]: values.map((value) => NUMBERS[name as keyof typeof NUMBERS](value)) };
}

type Combination = Change & { readonly topology?: string };

/** Every combination of the values: numbers in the order they were given, machines last. */
function combinations({ topology = [], ...numbers }: Sweep): Combination[] {
  const lists = Object.entries({ ...numbers, topology }).filter(([, values]) => values.length > 0);
  return lists.reduce<Record<string, number | string>[]>(
    (all, [name, values]) => all.flatMap((made) => values.map((value) => ({ ...made, [name]: value }))),
    [{}],
  );
}

const SHOWN: readonly StrategyName[] = ['unfused', 'flat fused', 'hier', 'once per rank'];

/** The best time of each strategy, and the fastest of all. */
function timeCells({ predictions, best }: Comparison): string[] {
  const times = SHOWN.map((name) => {
    const found = predictions.filter(({ strategy }) => strategy === name).map(({ us }) => us);
    return found.length === 0 ? '-' : formatUs(Math.min(...found));
  });
  return [...times, strategyName(predictions[best]!)];
}

/** The prediction for one combination. */
interface Swept {
  readonly change: Change;
  readonly topology: string;
  readonly made: VerifiedPlan;
  readonly found: Comparison;
  /** Of the experts; undefined if their sizes are not known. */
  readonly expertUs: number | undefined;
  readonly rankMaxOverMean: number;
}

async function sweepOne(
  plan: VerifiedPlan,
  planner: Planner,
  { topology: name, ...change }: Combination,
  args: SimulateOptions,
): Promise<Swept> {
  const made = planAgain(plan, planner, change);
  const topology = await machineOf(name === undefined ? args : { ...args, topology: name }, made.spec);
  const found = compare(made, planner, topology);
  const model = args.model ?? modelOf(made);
  const expertUs = model === undefined ? undefined : expertTime(made, model, topology).us;
  const rankMaxOverMean = maxOverMean(made.shards.map((shard) => sum(shard.expertRows)));
  return { change, topology: topology.name, made, found, expertUs, rankMaxOverMean };
}

/** Dispatch and combine along the fastest strategy, and the experts between them if their sizes are known. */
function costOf({ found, expertUs = 0 }: Swept): number {
  return found.predictions[found.best]!.us + expertUs;
}

/** More replicas must save more than this share of the time to be worth their memory. */
const WORTH = 0.002;

/** Whether replicas help: the smallest number of replicas that is as fast as any, compared with the plan as it is. */
function verdict(asItIs: Swept, results: readonly Swept[]): string {
  const least = Math.min(...results.map(costOf));
  const fewestFirst = [...results].sort((a, b) => a.change.replicas! - b.change.replicas!);
  const best = fewestFirst.find((each) => costOf(each) * (1 - WORTH) <= least)!;
  const what = asItIs.expertUs === undefined ? 'the exchange takes' : 'exchange and experts take';
  const [before, after] = [costOf(asItIs), costOf(best)];
  if (after >= before) return `Replicas do not help: ${what} ${formatUs(before)} with the plan as it is.`;
  const { replicas } = best.change;
  const placed = `experts packed by load with ${replicas} ${replicas === 1 ? 'replica' : 'replicas'}`;
  return `Best: ${placed}; ${what} ${formatUs(after)} instead of ${formatUs(before)} (${percent(1 - after / before)} less).`;
}

function sweptJson({ topology, made, found, expertUs, rankMaxOverMean }: Swept) {
  return {
    ...{ topology, ranks: made.spec.ranks, capacity: made.spec.capacity, best: found.best },
    tokens: made.shards.map((shard) => shard.tokens),
    ...lostEntries(made),
    instances: made.spec.placement.instances,
    rankMaxOverMean,
    expertUs: expertUs ?? null,
    strategies: found.predictions.map(({ strategy, rule, us }) => ({ strategy, rule, us })),
  };
}

function sweptRow({ topology, made, found, expertUs, rankMaxOverMean }: Swept): string[] {
  return [
    topology,
    String(made.spec.ranks),
    formatCount(Math.max(...made.shards.map((shard) => shard.tokens))),
    made.spec.capacity === 0 ? '-' : formatCount(made.spec.capacity),
    formatCount(lostEntries(made).droppedEntries),
    formatCount(made.spec.placement.instances - made.spec.experts),
    `${rankMaxOverMean.toFixed(3)} x`,
    expertUs === undefined ? '-' : formatUs(expertUs),
    ...timeCells(found),
  ];
}

/** Predicts every combination. A sweep of replicas alone also predicts the plan as it is, and states whether they help. */
export async function simulateSweep(
  plan: VerifiedPlan,
  planner: Planner,
  sweep: Sweep,
  args: SimulateOptions,
): Promise<void> {
  const isOfReplicas = Object.keys(sweep).join() === 'replicas';
  const asItIs = isOfReplicas ? await sweepOne(plan, planner, {}, args) : undefined;
  const results: Swept[] = [];
  for (const combination of combinations(sweep))
    results.push(await sweepOne(plan, planner, combination, args));
  if (args.json) {
    const figures = { asItIs: asItIs && sweptJson(asItIs), results: results.map(sweptJson) };
    printJson({ model: true, label: LABEL, ...figures, ...args.notices.fields });
    return;
  }
  args.notices.say();
  print(`${LABEL}\n`);
  const head = [
    ...['machine', 'ranks', 'tokens', 'capacity', 'dropped', 'replicas', 'busiest rank', 'experts'],
    ...SHOWN,
    'fastest',
  ];
  const rows = results.map(sweptRow);
  if (asItIs === undefined) {
    print(formatGrid([head, ...rows]));
    return;
  }
  const first = sweptRow(asItIs).with(head.indexOf('replicas'), 'as it is');
  print(formatGrid([head, first, ...rows]));
  print(`\n${verdict(asItIs, results)}`);
}
