// `fusco simulate FILE --sweep NAME=VALUES`: the same routing under every combination of tokens, ranks, capacity,
// replicas and machine, one line each.

import { InvalidArgumentError } from 'commander';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROWS } from '../../../planner/format/layout.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Planner } from '../../../planner/planner.ts';
import { sum } from '../../../planner/totals.ts';
import { formatCount, formatGrid, formatUs } from '../../figures/format.ts';
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

/** Every combination of the values: numbers in the order they were given, machines last. */
function combinations({ topology = [], ...numbers }: Sweep): (Change & { topology?: string })[] {
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

/** Predicts every combination. */
export async function simulateSweep(
  plan: VerifiedPlan,
  planner: Planner,
  sweep: Sweep,
  args: SimulateOptions,
): Promise<void> {
  const results = [];
  for (const { topology: name, ...change } of combinations(sweep)) {
    const made = planAgain(plan, planner, change);
    const topology = await machineOf(name === undefined ? args : { ...args, topology: name }, made.spec);
    const found = compare(made, planner, topology);
    const model = args.model ?? modelOf(made);
    const expertUs = model === undefined ? undefined : expertTime(made, model, topology).us;
    const rankMaxOverMean = maxOverMean(made.shards.map((shard) => sum(shard.expertRows)));
    results.push({ topology: topology.name, made, found, expertUs, rankMaxOverMean });
  }
  if (args.json) {
    printJson({
      model: true,
      label: LABEL,
      results: results.map(({ topology, made, found, expertUs, rankMaxOverMean }) => ({
        ...{ topology, ranks: made.spec.ranks, capacity: made.spec.capacity, best: found.best },
        tokens: made.shards.map((shard) => shard.tokens),
        ...lostEntries(made),
        instances: made.spec.placement.instances,
        rankMaxOverMean,
        expertUs: expertUs ?? null,
        strategies: found.predictions.map(({ strategy, rule, us }) => ({ strategy, rule, us })),
      })),
      ...args.notices.fields,
    });
    return;
  }
  args.notices.say();
  print(`${LABEL}\n`);
  const head = [
    ...['machine', 'ranks', 'tokens', 'capacity', 'dropped', 'replicas', 'busiest rank', 'experts'],
    ...SHOWN,
    'fastest',
  ];
  const rows = results.map(({ topology, made, found, expertUs, rankMaxOverMean }) => [
    topology,
    String(made.spec.ranks),
    formatCount(Math.max(...made.shards.map((shard) => shard.tokens))),
    made.spec.capacity === 0 ? '-' : formatCount(made.spec.capacity),
    formatCount(lostEntries(made).droppedEntries),
    formatCount(made.spec.placement.instances - made.spec.experts),
    `${rankMaxOverMean.toFixed(3)} x`,
    expertUs === undefined ? '-' : formatUs(expertUs),
    ...timeCells(found),
  ]);
  print(formatGrid([head, ...rows]));
}
