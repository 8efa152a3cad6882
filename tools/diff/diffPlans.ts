// What changed between two plans, for the people who use them: how serious it is, by how much, where, and for which
// tokens. The other files of tools/diff/ contain the parts.

import type { DecodedPlan } from '../../planner/format/decode.ts';
import type { Plan } from '../../planner/plan.ts';
import { type PlanSpec, specFields } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import type { Summary } from '../figures/summary.ts';
import { defaultTopology, type Topology } from '../simulate/topology.ts';
import { expertMoves, expertRows } from './experts.ts';
import { headlineOf } from './headline.ts';
import type { DiffLevel } from './limits.ts';
import { compareMetrics, type Measured, measure } from './metrics.ts';
import { findMoves } from './moves.ts';
import type { Delta, LinkDelta, OptionDelta, PlanDiff } from './planDiff.ts';

const DEFAULT_MOVES = 10;
/** Options that change how rows travel, but not where they end. */
const MOVEMENT_OPTIONS = new Set(['strategy', 'ranksPerNode', 'balance', 'partial', 'sum']);
const ORDER_OPTIONS = new Set(['sliceRows', 'tileTokens']);

function bySize(a: { from: number; to: number }, b: { from: number; to: number }): number {
  return Math.abs(b.to - b.from) - Math.abs(a.to - a.from);
}

function deltas(from: readonly number[], to: readonly number[]): Delta[] {
  const found: Delta[] = [];
  for (let index = 0; index < Math.max(from.length, to.length); index++) {
    const [a, b] = [from[index] ?? 0, to[index] ?? 0];
    if (a !== b) found.push({ index, from: a, to: b });
  }
  return found.sort((a, b) => bySize(a, b) || a.index - b.index);
}

function linkDeltas(a: Summary, b: Summary): LinkDelta[] {
  const found: LinkDelta[] = [];
  const ranks = Math.max(a.ranks, b.ranks);
  for (const [between, key] of [
    ['ranks', 'intraNodeBytes'],
    ['nodes', 'interNodeBytes'],
  ] as const) {
    const [left, right] = [a.traffic[key], b.traffic[key]];
    for (let sender = 0; sender < ranks; sender++) {
      for (let receiver = 0; receiver < ranks; receiver++) {
        const from = left[sender]?.[receiver] ?? 0;
        const to = right[sender]?.[receiver] ?? 0;
        if (from !== to && sender !== receiver) found.push({ sender, receiver, between, from, to });
      }
    }
  }
  return found.sort((x, y) => bySize(x, y) || x.sender - y.sender || x.receiver - y.receiver);
}

function optionDeltas(a: PlanSpec, b: PlanSpec): OptionDelta[] {
  const from = specFields(a);
  const to = specFields(b);
  const keys = Object.keys({ ...from, ...to }).sort() as (keyof typeof from)[];
  return (
    keys
      .filter((key) => JSON.stringify(from[key]) !== JSON.stringify(to[key]))
      // Fields that a header omits at their default are fields of the spec.
      .map((option) => ({ option, from: from[option] ?? a[option], to: to[option] ?? b[option] }))
  );
}

/** The larger of what a rank sends and receives between nodes. */
function nicBytes({ traffic }: Summary): number[] {
  const { interNodeBytes: bytes } = traffic;
  return bytes.map((row, rank) => Math.max(sum(row), sum(bytes.map((other) => other[rank]!))));
}

function sameWords(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Whether the picked sections of every shard are the same. */
function sameSections(
  a: Plan,
  b: Plan,
  pick: (shard: Plan['shards'][number]) => readonly ArrayLike<number>[],
): boolean {
  return a.shards.every((shard, rank) => {
    const others = pick(b.shards[rank]!);
    return pick(shard).every((section, i) => sameWords(section, others[i]!));
  });
}

/** Whether rows travel the same way. Sections are compared, not bytes: another minor version may store them differently. */
function sameMovement(a: Plan, b: Plan): boolean {
  if (a.decision.rule !== b.decision.rule || !sameWords(a.decision.groups, b.decision.groups)) return false;
  return sameSections(a, b, (s) => [s.sendEntry, s.forwardToken, s.forwardTarget, s.distributeEntry]);
}

function sameOrder(a: Plan, b: Plan): boolean {
  return sameSections(a, b, (s) => [[s.tileTokens], s.slices, s.forwardSlices, s.tileOrder]);
}

function levelOf(a: Plan, b: Plan, options: readonly OptionDelta[], moved: number): DiffLevel {
  const isMovement = ({ option }: OptionDelta) => MOVEMENT_OPTIONS.has(option);
  const isOrder = ({ option }: OptionDelta) => ORDER_OPTIONS.has(option);
  const isResult = (delta: OptionDelta) => !isMovement(delta) && !isOrder(delta);
  if (moved > 0 || options.some(isResult) || a.shards.length !== b.shards.length) return 'result';
  if (options.some(isMovement) || !sameMovement(a, b)) return 'movement';
  return options.length > 0 || !sameOrder(a, b) ? 'order' : 'identical';
}

/** Options of a comparison. */
export interface DiffChoice {
  /** Maximum number of moved entries to list. Default 10. */
  readonly maxMoves?: number;
  /** The machine of the predicted times and of the links. Default: H100, in the nodes of the plans. */
  readonly topology?: Topology;
}

/** The machine on which two plans are compared: one with room for both, in nodes of the plan that has the larger ones. */
export function machineFor(a: Plan, b: Plan): Topology {
  const largest = (pick: (spec: PlanSpec) => number) => Math.max(pick(a.spec), pick(b.spec));
  return defaultTopology({
    ranks: largest(({ ranks }) => ranks),
    ranksPerNode: largest(({ ranksPerNode }) => ranksPerNode),
  });
}

/** Compares two plans; neither needs to be verified, both must be well-formed. */
export function diffPlans(a: Plan, b: Plan, choice: DiffChoice = {}): PlanDiff {
  const { topology = machineFor(a, b), maxMoves = DEFAULT_MOVES } = choice;
  return compareMeasured(a, b, [measure(a, topology), measure(b, topology)], maxMoves, topology.name);
}

function compareMeasured(
  a: Plan,
  b: Plan,
  measured: readonly [Measured, Measured],
  maxMoves: number,
  machine: string,
): PlanDiff {
  const options = optionDeltas(a.spec, b.spec);
  const moves = findMoves(a, b, maxMoves);
  const level = levelOf(a, b, options, moves.count);
  const [left, right] = [measured[0].summary, measured[1].summary];
  const found = {
    level,
    changed: level !== 'identical',
    machine,
    metrics: compareMetrics(...measured),
    options,
    placement: expertMoves(a, b),
    ranks: {
      tokens: deltas(left.tokens, right.tokens),
      recvRows: deltas(left.recvRows, right.recvRows),
      keptRows: deltas(left.keptRows, right.keptRows),
      nicBytes: deltas(nicBytes(left), nicBytes(right)),
    },
    experts: deltas(expertRows(a), expertRows(b)),
    links: linkDeltas(left, right),
    movedEntries: moves.count,
    causes: moves.causes,
    moves: moves.first,
    metadata: [],
  };
  return { ...found, headline: headlineOf(found) };
}

/** diffPlans for two files: plans with the same id may still differ in producer, format version and reason. */
export function diffFiles(a: DecodedPlan, b: DecodedPlan, choice: DiffChoice = {}): PlanDiff {
  const diff = diffPlans(a.plan, b.plan, choice);
  if (diff.level !== 'identical') return diff;
  const facts: [string, string, string][] = [
    ['format', a.version.join('.'), b.version.join('.')],
    ['producer', a.producer, b.producer],
    ['reason', a.plan.decision.reason, b.plan.decision.reason],
  ];
  const metadata = facts
    .filter(([, from, to]) => from !== to)
    .map(([name, from, to]) => `${name}: ${from || 'none'} -> ${to || 'none'}`);
  if (metadata.length === 0) return diff;
  const told = { ...diff, level: 'metadata', changed: true, metadata } as const;
  return { ...told, headline: headlineOf(told) };
}
