// What changed between two plans, in the terms of the people who own them.

import { SLOT_MASKED } from '../planner/layout.ts';
import type { Plan } from '../planner/plan.ts';
import { type PlanSpec, specFields } from '../planner/spec.ts';
import { formatCount } from './format.ts';

/** Worst first. `movement` and `order` need plans whose results are equal. */
export type DiffLevel = 'result' | 'movement' | 'order' | 'metadata' | 'identical';

export interface OptionDelta {
  option: string;
  from: unknown;
  to: unknown;
}

/** One rank or expert whose figure changed. */
export interface Delta {
  index: number;
  from: number;
  to: number;
}

/** An entry whose destination changed: expert, rank and row, or why it has none. */
export interface Move {
  rank: number;
  token: number;
  k: number;
  from: string;
  to: string;
}

export interface PlanDiff {
  level: DiffLevel;
  changed: boolean;
  options: OptionDelta[];
  ranks: { tokens: Delta[]; recvRows: Delta[]; keptRows: Delta[] };
  /** Rows per logical expert. */
  experts: Delta[];
  movedEntries: number;
  /** The first moved entries, at most MAX_MOVES. */
  moves: Move[];
  /** The same for people, most important first. */
  lines: string[];
}

const MAX_MOVES = 10;
/** Options that change how rows travel, but not where they end. */
const MOVEMENT_OPTIONS = new Set(['strategy', 'ranksPerNode', 'balance']);

function deltas(from: readonly number[], to: readonly number[]): Delta[] {
  const found: Delta[] = [];
  for (let index = 0; index < Math.max(from.length, to.length); index++) {
    const [a, b] = [from[index] ?? 0, to[index] ?? 0];
    if (a !== b) found.push({ index, from: a, to: b });
  }
  return found.sort((a, b) => Math.abs(b.to - b.from) - Math.abs(a.to - a.from) || a.index - b.index);
}

function optionDeltas(a: PlanSpec, b: PlanSpec): OptionDelta[] {
  const from = specFields(a);
  const to = specFields(b);
  const keys = Object.keys(from).sort() as (keyof typeof from)[];
  return keys
    .filter((key) => JSON.stringify(from[key]) !== JSON.stringify(to[key]))
    .map((option) => ({ option, from: from[option], to: to[option] }));
}

/** Rows that every logical expert receives, over its replicas. */
function expertRows(plan: Plan): number[] {
  const { experts, instanceExpert, rankFirst } = plan.spec.placement;
  const rows = new Array<number>(experts).fill(0);
  for (const shard of plan.shards) {
    shard.expertRows.forEach((count, j) => {
      rows[instanceExpert[rankFirst[shard.rank]! + j]!]! += count;
    });
  }
  return rows;
}

/** Index of (token, k) among a rank's entries; undefined where the plan has no such rank, token or k. */
function entryAt({ shards, spec }: Plan, rank: number, token: number, k: number): number | undefined {
  const shard = shards[rank];
  if (shard === undefined || token >= shard.tokens || k >= spec.topk) return undefined;
  return token * spec.topk + k;
}

function destination(plan: Plan, rank: number, entry: number | undefined): string {
  if (entry === undefined) return 'absent';
  const shard = plan.shards[rank]!;
  const slot = shard.entrySlot[entry]!;
  if (slot === SLOT_MASKED) return 'masked';
  const { instanceExpert, instanceRank } = plan.spec.placement;
  const instance = shard.entryInstance[entry]!;
  const where = `expert ${instanceExpert[instance]} on rank ${instanceRank[instance]}`;
  return slot < 0 ? `${where}, dropped` : `${where}, row ${slot}`;
}

/** Counts moved entries and names the first; an entry is the same one in both plans by its rank, token and k. */
function findMoves(a: Plan, b: Plan): { count: number; moves: Move[] } {
  const moves: Move[] = [];
  let count = 0;
  const topk = Math.max(a.spec.topk, b.spec.topk);
  for (let rank = 0; rank < Math.max(a.shards.length, b.shards.length); rank++) {
    const tokens = Math.max(a.shards[rank]?.tokens ?? 0, b.shards[rank]?.tokens ?? 0);
    const same = placesEqual(a, b, rank);
    for (let token = 0; token < tokens; token++) {
      for (let k = 0; k < topk; k++) {
        const left = entryAt(a, rank, token, k);
        const right = entryAt(b, rank, token, k);
        if (same(left, right)) continue;
        count++;
        if (moves.length >= MAX_MOVES) continue;
        const [from, to] = [destination(a, rank, left), destination(b, rank, right)];
        moves.push({ rank, token, k, from, to });
      }
    }
  }
  return { count, moves };
}

/** Whether two entries of a rank end in the same place, or are both absent. */
function placesEqual(a: Plan, b: Plan, rank: number): (left?: number, right?: number) => boolean {
  const [slotA, slotB] = [a.shards[rank]?.entrySlot, b.shards[rank]?.entrySlot];
  const [toA, toB] = [a.shards[rank]?.entryInstance, b.shards[rank]?.entryInstance];
  const [placeA, placeB] = [a.spec.placement, b.spec.placement];
  return (left, right) => {
    if (left === undefined || right === undefined) return left === right;
    if (slotA![left] !== slotB![right]) return false;
    if (slotA![left] === SLOT_MASKED) return true;
    const [i, j] = [toA![left]!, toB![right]!];
    return (
      placeA.instanceExpert[i] === placeB.instanceExpert[j] &&
      placeA.instanceRank[i] === placeB.instanceRank[j]
    );
  };
}

function levelOf(a: Plan, b: Plan, options: readonly OptionDelta[], moved: number): DiffLevel {
  const resultOptions = options.filter(
    ({ option }) => !MOVEMENT_OPTIONS.has(option) && option !== 'sliceRows',
  );
  if (moved > 0 || resultOptions.length > 0 || a.shards.length !== b.shards.length) return 'result';
  if (options.some(({ option }) => MOVEMENT_OPTIONS.has(option))) return 'movement';
  if (options.length > 0) return 'order';
  const same = a.shards.every((shard, rank) => Buffer.compare(shard.bytes, b.shards[rank]!.bytes) === 0);
  return same ? 'identical' : 'order';
}

/** Compares two plans; neither needs to be verified, both must be well-formed. */
export function diffPlans(a: Plan, b: Plan): PlanDiff {
  const options = optionDeltas(a.spec, b.spec);
  const { count, moves } = findMoves(a, b);
  const level = levelOf(a, b, options, count);
  const per = (pick: (shard: Plan['shards'][number]) => number) =>
    deltas(a.shards.map(pick), b.shards.map(pick));
  const diff = {
    level,
    changed: level !== 'identical',
    options,
    ranks: {
      tokens: per((shard) => shard.tokens),
      recvRows: per((shard) => shard.recvRows),
      keptRows: per((shard) => shard.kept),
    },
    experts: deltas(expertRows(a), expertRows(b)),
    movedEntries: count,
    moves,
  };
  return { ...diff, lines: describe(diff) };
}

const MAX_LINES = 8;

function describe(diff: Omit<PlanDiff, 'lines'>): string[] {
  const show = (value: unknown) => {
    const text = JSON.stringify(value);
    return text.length > 24 ? `${text.slice(0, 23)}…` : text;
  };
  const lines = diff.options.map(({ option, from, to }) => `option ${option}: ${show(from)} -> ${show(to)}`);
  const list = (name: string, found: readonly Delta[]) => {
    for (const { index, from, to } of found.slice(0, MAX_LINES)) {
      const change = to > from ? `+${formatCount(to - from)}` : `-${formatCount(from - to)}`;
      lines.push(`${name} ${index}: ${formatCount(from)} -> ${formatCount(to)} (${change})`);
    }
    if (found.length > MAX_LINES) lines.push(`${name}: ${found.length - MAX_LINES} more`);
  };
  list('tokens of rank', diff.ranks.tokens);
  list('rows received by rank', diff.ranks.recvRows);
  list('rows sent by rank', diff.ranks.keptRows);
  list('rows of expert', diff.experts);
  if (diff.movedEntries > 0) lines.push(`${formatCount(diff.movedEntries)} entries moved`);
  for (const { rank, token, k, from, to } of diff.moves) {
    lines.push(`rank ${rank} token ${token} k ${k}: ${from} -> ${to}`);
  }
  return lines;
}
