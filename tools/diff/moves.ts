// Entries (token, k) whose destination changed, and why. Root causes are listed before the shifts that they cause: if one
// token changes its expert, every later row of both experts moves by one.

import { SLOT_MASKED } from '../../planner/format/layout.ts';
import type { Plan } from '../../planner/plan.ts';

/**
 * Why an entry moved:
 * id         the router chose another expert, or masked the entry, or no longer does
 * placement  its expert lives on another rank, or another replica takes it
 * capacity   the limit of its expert changed, or rows in front of it did, so that it is dropped or no longer is
 * alignment  its expert's block starts elsewhere because blocks are padded to another multiple
 * shift      rows in front of it, in its own block or in an earlier one, came or went
 * absent     one of the plans has no such rank, token or k
 */
export type Cause = 'id' | 'placement' | 'capacity' | 'alignment' | 'absent' | 'shift';

/** Root causes first. */
export const CAUSES: readonly Cause[] = ['id', 'placement', 'capacity', 'alignment', 'absent', 'shift'];

/** An entry whose destination changed: expert, rank and row, or why it has none. */
export interface Move {
  rank: number;
  token: number;
  k: number;
  from: string;
  to: string;
  why: Cause;
}

export interface Moves {
  count: number;
  /** Number of moved entries for each cause. */
  causes: Record<Cause, number>;
  /** The first moved entries with a root cause, then the first shifted ones. */
  first: Move[];
}

/** One entry's place in a plan. `expert` and `host` are -1 if it is masked. */
interface Place {
  readonly slot: number;
  readonly expert: number;
  readonly host: number;
  /** First row of its expert's block at the destination; -1 without a slot. */
  readonly base: number;
}

function placeOf(plan: Plan, rank: number, token: number, k: number): Place | undefined {
  const { shards, spec } = plan;
  const shard = shards[rank];
  if (shard === undefined || token >= shard.tokens || k >= spec.topk) return undefined;
  const entry = token * spec.topk + k;
  const slot = shard.entrySlot[entry]!;
  if (slot === SLOT_MASKED) return { slot, expert: -1, host: -1, base: -1 };
  const { instanceExpert, instanceRank, rankFirst } = spec.placement;
  const instance = shard.entryInstance[entry]!;
  const host = instanceRank[instance]!;
  const base = slot < 0 ? -1 : (shards[host]?.expertOffset[instance - rankFirst[host]!] ?? -1);
  return { slot, expert: instanceExpert[instance]!, host, base };
}

function describe(place: Place | undefined): string {
  if (place === undefined) return 'absent';
  if (place.slot === SLOT_MASKED) return 'masked';
  const where = `expert ${place.expert} on rank ${place.host}`;
  return place.slot < 0 ? `${where}, dropped` : `${where}, row ${place.slot}`;
}

function causeOf(a: Place | undefined, b: Place | undefined, sameAlign: boolean): Cause {
  if (a === undefined || b === undefined) return 'absent';
  if (a.expert !== b.expert) return 'id';
  if (a.host !== b.host) return 'placement';
  if (a.slot < 0 || b.slot < 0) return 'capacity';
  return !sameAlign && a.slot - a.base === b.slot - b.base ? 'alignment' : 'shift';
}

/**
 * Whether two entries of a rank end in the same place; both must exist. It runs for every entry, so it reads no more than
 * necessary.
 */
function sameEnds(a: Plan, b: Plan, rank: number): (left: number, right: number) => boolean {
  const [slotA, slotB] = [a.shards[rank]?.entrySlot, b.shards[rank]?.entrySlot];
  const [toA, toB] = [a.shards[rank]?.entryInstance, b.shards[rank]?.entryInstance];
  const [placeA, placeB] = [a.spec.placement, b.spec.placement];
  return (left, right) => {
    if (slotA![left] !== slotB![right]) return false;
    if (slotA![left] === SLOT_MASKED) return true;
    const [i, j] = [toA![left]!, toB![right]!];
    return (
      placeA.instanceExpert[i] === placeB.instanceExpert[j] &&
      placeA.instanceRank[i] === placeB.instanceRank[j]
    );
  };
}

/** Calls `moved` for every entry whose destination changed, in the order of rank, token and k. */
function forEachMove(a: Plan, b: Plan, moved: (rank: number, token: number, k: number) => void): void {
  const topk = Math.max(a.spec.topk, b.spec.topk);
  for (let rank = 0; rank < Math.max(a.shards.length, b.shards.length); rank++) {
    const [inA, inB] = [a.shards[rank]?.tokens ?? 0, b.shards[rank]?.tokens ?? 0];
    const same = sameEnds(a, b, rank);
    for (let token = 0; token < Math.max(inA, inB); token++) {
      for (let k = 0; k < topk; k++) {
        const isLeft = token < inA && k < a.spec.topk;
        const isRight = token < inB && k < b.spec.topk;
        if (!isLeft && !isRight) continue;
        if (isLeft && isRight && same(token * a.spec.topk + k, token * b.spec.topk + k)) continue;
        moved(rank, token, k);
      }
    }
  }
}

/**
 * Finds the entries whose destination changed. Entries of the two plans correspond by rank, token and k.
 *
 * @param most maximum number of entries to list
 */
export function findMoves(a: Plan, b: Plan, most: number): Moves {
  const causes: Record<Cause, number> = {
    id: 0,
    placement: 0,
    capacity: 0,
    alignment: 0,
    absent: 0,
    shift: 0,
  };
  const roots: Move[] = [];
  const shifts: Move[] = [];
  const sameAlign = a.spec.align === b.spec.align;
  let count = 0;
  forEachMove(a, b, (rank, token, k) => {
    const [left, right] = [placeOf(a, rank, token, k), placeOf(b, rank, token, k)];
    const why = causeOf(left, right, sameAlign);
    count++;
    causes[why]++;
    const list = why === 'shift' ? shifts : roots;
    if (list.length < most) list.push({ rank, token, k, from: describe(left), to: describe(right), why });
  });
  return { count, causes, first: [...roots, ...shifts].slice(0, most) };
}
