// Routing tables as pure functions of (family, seed, sizes): the same on every machine, in any id dtype.

import { ARRAY_TYPES } from '../../executor/training/npy.ts';
import type { IdArray, RoutingTable } from '../../planner/routing.ts';
import type { PlainRouting } from './obviousPlan.ts';

/** A generator of floats in [0, 1): mulberry32. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const FAMILIES = [
  'balanced',
  'hotExperts',
  'hotRank',
  'spreadHotExperts',
  'raggedSources',
  'rankWithoutRows',
  'rotatingHotSpot',
  'burst',
] as const;
export type Family = (typeof FAMILIES)[number];

export interface Workload {
  family: Family;
  seed: number;
  /** Training step, for the families that move with time. Default 0. */
  step?: number;
  ranks: number;
  /** Tokens of a rank; families with uneven sources use it as the most. */
  tokens: number;
  topk: number;
  experts: number;
  /** Share of entries that are -1, 0..1. Default 0. */
  masked?: number;
}

/** Tokens of each rank. */
function tokensOf(workload: Workload, random: () => number): number[] {
  const { family, ranks, tokens, step = 0 } = workload;
  return Array.from({ length: ranks }, (_, rank) => {
    if (family === 'raggedSources') return Math.floor(tokens * random());
    if (family === 'rankWithoutRows') return rank === ranks - 1 ? 0 : tokens;
    if (family === 'burst') return rank === step % ranks ? tokens : Math.min(tokens, 1);
    return tokens;
  });
}

/** Relative weight of each expert. */
function weightsOf(workload: Workload): number[] {
  const { family, ranks, experts, step = 0 } = workload;
  return Array.from({ length: experts }, (_, expert) => {
    const owner = Math.floor((expert * ranks) / experts);
    if (family === 'hotExperts') return expert < Math.max(1, experts / 16) ? 20 : 1;
    if (family === 'hotRank') return owner === 0 ? 20 : 1;
    if (family === 'spreadHotExperts')
      return expert % Math.max(2, Math.floor(experts / ranks)) === 0 ? 20 : 1;
    if (family === 'rotatingHotSpot') return owner === step % ranks ? 20 : 1;
    return 1;
  });
}

/** `count` distinct experts, each draw proportional to the weights of those that are left. */
function drawExperts(weights: readonly number[], count: number, random: () => number): number[] {
  const left = [...weights];
  const drawn: number[] = [];
  let total = left.reduce((sum, weight) => sum + weight, 0);
  while (drawn.length < count) {
    let at = random() * total;
    let expert = 0;
    while (expert < left.length - 1 && (left[expert] === 0 || at >= left[expert]!)) at -= left[expert++]!;
    while (left[expert] === 0) expert = (expert + 1) % left.length;
    total -= left[expert]!;
    left[expert] = 0;
    drawn.push(expert);
  }
  return drawn;
}

/** ids[rank][token][k] of a workload. Needs topk <= experts. */
export function makeRouting(workload: Workload): PlainRouting {
  const { seed, topk, masked = 0, step = 0 } = workload;
  const random = randomFrom(seed * 8191 + step);
  const weights = weightsOf(workload);
  return tokensOf(workload, random).map((tokens) =>
    Array.from({ length: tokens }, () =>
      drawExperts(weights, topk, random).map((expert) => (random() < masked ? -1 : expert)),
    ),
  );
}

/** Expert -> rank(s): blocks, one scattered rank each, or two or three ranks for every third expert. */
export function placementOf(kind: string, experts: number, ranks: number): (number | number[])[] {
  if (kind === 'blocks') return [];
  return Array.from({ length: experts }, (_, expert) => {
    const home = (expert * 7 + 3) % ranks;
    if (kind === 'scattered' || expert % 3 !== 0) return home;
    return [...new Set([home, (home + 1) % ranks, (home + Math.ceil(ranks / 2)) % ranks])];
  });
}

export const ID_DTYPES = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64'] as const;
export type IdDtype = (typeof ID_DTYPES)[number];

function idArray(ids: readonly number[], dtype: IdDtype): IdArray {
  if (dtype === 'i64') return BigInt64Array.from(ids, BigInt);
  if (dtype === 'u64') return BigUint64Array.from(ids, BigInt);
  return ARRAY_TYPES[dtype].from(ids);
}

/** One table per rank, as the planner takes them. */
export function toTables(routing: PlainRouting, topk: number, dtype: IdDtype = 'i32'): RoutingTable[] {
  return routing.map((tokens) => ({ ids: idArray(tokens.flat(), dtype), tokens: tokens.length, topk }));
}
