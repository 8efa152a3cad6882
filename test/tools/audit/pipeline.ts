// Dispatch and combine as a program writes them with index_select and all_to_all_single: entries are sorted by destination
// and expert, rows are gathered, exchanged with splits, and gathered again into the order of the experts; combine goes the
// same way back. bf16 rows. Faults are planted by changing what a step leaves.

import { bf16ToFloat, floatToBf16 } from '../../../executor/numeric.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting, randomFrom } from '../../support/workloads.ts';

export const RANKS = 4;
export const TOPK = 3;
export const EXPERTS = 8;
export const ELEMENTS = 64;
const TOKENS = 10;

export type Bf16Row = Uint16Array;

/** One (token, k) of a rank that has an expert. */
export interface Entry {
  readonly source: number;
  readonly token: number;
  readonly k: number;
  readonly expert: number;
}

const hostOf = (expert: number) => Math.floor((expert * RANKS) / EXPERTS);

export interface Step {
  readonly routing: PlainRouting;
  /** [ranks][tokens] */
  readonly input: Bf16Row[][];
  /** [ranks][tokens][topk], multiples of 1/64 that add up to about 1. */
  readonly weights: number[][][];
}

/** A step with rows that no other step has. */
export function stepOf(seed: number): Step {
  const random = randomFrom(seed);
  const normal = () => random() + random() + random() - 1.5;
  const routing = makeRouting({
    family: 'balanced',
    seed: 77,
    ranks: RANKS,
    tokens: TOKENS,
    topk: TOPK,
    experts: EXPERTS,
  });
  const input = routing.map((tokens) =>
    tokens.map(() => Uint16Array.from({ length: ELEMENTS }, () => floatToBf16(normal()))),
  );
  const weights = routing.map((tokens) =>
    tokens.map(() => Array.from({ length: TOPK }, () => (8 + Math.floor(24 * random())) / 64)),
  );
  return { routing, input, weights };
}

/** index_select before the exchange: the entries of a rank by destination, expert and token. */
export function sendOrder({ routing }: Step, source: number): Entry[] {
  const entries = routing[source]!.flatMap((ids, token) =>
    ids.map((expert, k) => ({ source, token, k, expert })),
  );
  return entries.sort((a, b) => a.expert - b.expert || a.token - b.token || a.k - b.k);
}

/** all_to_all_single: [destination][source], each part in the order of its sender. */
export function exchange<T>(sent: readonly (readonly T[])[], destination: (item: T) => number): T[][] {
  return Array.from({ length: RANKS }, (_, rank) =>
    sent.flatMap((items) => items.filter((item) => destination(item) === rank)),
  );
}

export const toExpert = ({ expert }: { expert: number }) => hostOf(expert);

/** index_select after the exchange: by expert, each in the order of arrival. Rows of a block, padded with undefined. */
export function expertOrder<T extends { expert: number }>(
  arrived: readonly T[],
  rank: number,
  align: number,
) {
  const rows: (T | undefined)[] = [];
  for (let expert = 0; expert < EXPERTS; expert++) {
    if (hostOf(expert) !== rank) continue;
    rows.push(...arrived.filter((item) => item.expert === expert));
    while (rows.length % align !== 0) rows.push(undefined);
  }
  return rows;
}

/** What each rank has received, by slot. */
export function placesOf(step: Step, align: number): (Entry | undefined)[][] {
  const sent = step.routing.map((_, source) => sendOrder(step, source));
  return exchange(sent, toExpert).map((arrived, rank) => expertOrder(arrived, rank, align));
}

/** Rows of entries; padding is zero. */
export function gather(step: Step, entries: readonly (Entry | undefined)[]): Bf16Row[] {
  return entries.map((entry) =>
    entry === undefined ? new Uint16Array(ELEMENTS) : step.input[entry.source]![entry.token]!.slice(),
  );
}

/** Each expert multiplies each element by another number. */
export function expertOutput(row: Bf16Row, expert: number): Bf16Row {
  return row.map((bits, i) => floatToBf16(bf16ToFloat(bits) * (1 + ((7 * expert + i) % 16) / 16)));
}

export function joined(rows: readonly Bf16Row[]): Uint16Array {
  const all = new Uint16Array(rows.length * ELEMENTS);
  rows.forEach((row, i) => {
    all.set(row, i * ELEMENTS);
  });
  return all;
}

/** A term of a token's sum. */
export interface Term {
  readonly row: Bf16Row;
  readonly weight: number;
  readonly k: number;
  readonly expert: number;
}

/** The terms of every token, with what the experts return. */
export function termsOf(step: Step, source: number): Term[][] {
  return step.routing[source]!.map((ids, token) =>
    ids.map((expert, k) => ({
      row: expertOutput(step.input[source]![token]!, expert),
      weight: step.weights[source]![token]![k]!,
      k,
      expert,
    })),
  );
}

/** Adds terms in float32, one after the other, and rounds once. */
export function sumOf(terms: readonly Term[], round: (value: number) => number = Math.fround): Bf16Row {
  return Uint16Array.from({ length: ELEMENTS }, (_, i) => {
    let sum = 0;
    for (const { row, weight } of terms) sum = round(sum + round(bf16ToFloat(row[i]!) * weight));
    return floatToBf16(Math.fround(sum));
  });
}
