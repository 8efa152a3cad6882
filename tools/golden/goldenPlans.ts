// Golden plans: makes the plans that a file lists, and compares them with their golden entries.

import { dirname, resolve } from 'node:path';
import { hex } from '../../planner/format/bytes.ts';
import { planId } from '../../planner/format/digest.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { formatChange, formatValue, METRICS, measure, relativeChange } from '../diff/metrics.ts';
import { type RoutingChoice, readAnyRouting } from '../readers/anyRouting.ts';
import { numbersOf, parseAxes, parseRanges } from '../readers/choice.ts';
import { explaining } from '../readers/origins.ts';
import { readPlacementFile } from '../readers/placementMap.ts';
import { defaultTopology } from '../simulate/topology.ts';
import type { GoldenEntry, GoldenFile, GoldenRead, PlanEntry } from './goldenFile.ts';

/** `missing`: a plan without a golden entry; `obsolete`: a golden entry without a plan. */
export type Verdict = 'same' | 'mismatch' | 'missing' | 'obsolete';

/** The verdict for one name. */
export interface Checked {
  readonly name: string;
  readonly verdict: Verdict;
  /** The reasons, one line each: the routing, the plan id, and the figures that differ. */
  readonly reasons: readonly string[];
}

/** Decimal places of a ratio, so that a difference in the last bit is not a mismatch. */
const RATIO_DIGITS = 6;

/** SHA-256 of all ids as 32-bit words, with each rank's tokens and topk, independent of their file and dtype. */
export async function routingDigest(tables: readonly RoutingTable[]): Promise<string> {
  const chunks: Uint8Array[] = [];
  for (const { ids, tokens, topk } of tables) {
    const words = new Int32Array(2 + ids.length);
    words.set([tokens, topk]);
    for (let i = 0; i < ids.length; i++) words[2 + i] = Number(ids[i]);
    chunks.push(new Uint8Array(words.buffer));
  }
  return hex(await nodeSha256(chunks));
}

/** The figures of a plan that a reviewer can assess: strategy, balancer's rule and every metric of docs/diff.md. */
export function goldenSummary(plan: VerifiedPlan): Record<string, number | string> {
  const measured = measure(plan, defaultTopology(plan.spec));
  const figures: Record<string, number | string> = {
    strategy: plan.spec.strategy,
    rule: plan.decision.rule,
  };
  for (const { name, unit, of } of METRICS) {
    const value = unit === 'us' ? Math.round(of(measured)) : of(measured);
    figures[name] = unit === 'ratio' ? Number(value.toFixed(RATIO_DIGITS)) : value;
  }
  return figures;
}

/** What to read from a routing. Throws E_OPTION for invalid lists or axes. */
function choiceOf({ axes, ranksFrom, maskIds, ...read }: GoldenRead): RoutingChoice {
  const ranges = (name: string, text: string | undefined) =>
    text === undefined ? undefined : parseRanges(name, text);
  const from = ranges('ranksFrom', ranksFrom);
  return {
    ...read,
    axes: axes === undefined ? undefined : parseAxes(axes),
    ranksFrom: from === undefined ? undefined : numbersOf('ranksFrom', from, MAX_RANKS - 1),
    maskIds: ranges('maskIds', maskIds),
  };
}

/** Plans one entry of a golden file. Throws what the readers and the planner throw. */
export async function planOf(
  entry: PlanEntry,
  file: string,
  planner: Planner,
): Promise<{ plan: VerifiedPlan; tables: readonly RoutingTable[] }> {
  const folder = dirname(file);
  const { placement, ranks, ...options } = entry.options;
  const { experts } = options;
  const choice = { ...choiceOf(entry.read), ranks, experts };
  const tables = await readAnyRouting(resolve(folder, entry.routing), choice);
  const map = typeof placement === 'string' ? await readPlacementFile(resolve(folder, placement)) : placement;
  const plan = await explaining(tables, experts, () =>
    planner.planAll(tables, {
      ...options,
      ranks: tables.length,
      ...(map === undefined ? {} : { placement: map }),
    }),
  );
  return { plan, tables };
}

/** The golden entry of one plan. Throws what planOf throws. */
async function makeGolden(entry: PlanEntry, file: string, planner: Planner): Promise<GoldenEntry> {
  const { plan, tables } = await planOf(entry, file, planner);
  return {
    routingDigest: await routingDigest(tables),
    planId: await planId(plan, nodeSha256),
    summary: goldenSummary(plan),
  };
}

/** Makes every plan of the file, in its order. */
export async function makeAll(
  { plans }: GoldenFile,
  file: string,
  planner: Planner,
  onPlan?: (done: number, total: number) => void,
): Promise<Map<string, GoldenEntry>> {
  const made = new Map<string, GoldenEntry>();
  for (const [name, entry] of plans) {
    made.set(name, await makeGolden(entry, file, planner));
    onPlan?.(made.size, plans.size);
  }
  return made;
}

/** `rows 100 -> 120 (+20.0 %)`, in the unit of the figure. */
function figureText(
  name: string,
  from: number | string | undefined,
  to: number | string | undefined,
): string {
  const unit = METRICS.find((metric) => metric.name === name)?.unit;
  if (unit === undefined || typeof from !== 'number' || typeof to !== 'number')
    return `${name} ${from ?? 'absent'} -> ${to ?? 'absent'}`;
  return `${name} ${formatValue(from, unit)} -> ${formatValue(to, unit)} (${formatChange(relativeChange(from, to))})`;
}

/** A changed predicted time alone is not a difference: the model may change between versions, while the plan does not. */
function isModel(name: string): boolean {
  return METRICS.some((metric) => metric.name === name && metric.unit === 'us');
}

/** The differences. Figures that an older entry does not have are ignored. */
function reasonsOf(was: GoldenEntry, is: GoldenEntry): string[] {
  const reasons: string[] = [];
  if (was.routingDigest !== is.routingDigest) reasons.push('the routing itself changed');
  if (was.planId !== is.planId)
    reasons.push(`plan id ${was.planId.slice(0, 12)} -> ${is.planId.slice(0, 12)}`);
  const changed = Object.keys(was.summary).filter((name) => was.summary[name] !== is.summary[name]);
  const isDifferent = reasons.length > 0 || changed.some((name) => !isModel(name));
  for (const name of isDifferent ? changed : [])
    reasons.push(figureText(name, was.summary[name], is.summary[name]));
  return reasons;
}

/** Compares golden entries with current plans: plans in their order, then obsolete entries. */
export function compareGolden(
  { plans, golden }: GoldenFile,
  made: ReadonlyMap<string, GoldenEntry>,
): Checked[] {
  const checked: Checked[] = [];
  for (const name of plans.keys()) {
    const was = golden.get(name);
    if (was === undefined) {
      checked.push({ name, verdict: 'missing', reasons: ['it has no golden entry'] });
      continue;
    }
    const reasons = reasonsOf(was, made.get(name)!);
    checked.push({ name, verdict: reasons.length === 0 ? 'same' : 'mismatch', reasons });
  }
  for (const name of golden.keys()) {
    if (!plans.has(name)) checked.push({ name, verdict: 'obsolete', reasons: ['no plan has this name'] });
  }
  return checked;
}
