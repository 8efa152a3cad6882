// The runner of all benches. A workload declares its candidates; every round runs each of them once, in turn, because
// the machines are shared and their speed drifts.

import { median, type Timed } from './measure.ts';

/** What the benches of exchanges have in common. */
export interface ExchangeOptions {
  /** bf16 elements of a row; on GPUs a multiple of 8. */
  readonly hidden: number;
  readonly topk: number;
  readonly experts: number;
  readonly rounds: number;
}

/** One thing to measure. */
export interface Candidate {
  /** Runs it once and returns its nanoseconds. */
  readonly run: Timed;
  /** Bytes that one run reads and writes, for the rate. */
  readonly bytes?: number;
  /** Called once, right after the first run. Throws if the result is wrong. */
  readonly check?: () => void;
}

/** What a candidate took: a median over the rounds. */
export interface Row {
  readonly ns: number;
  readonly ms: number;
  /** GB/s of the candidate's bytes; NaN if it declares none. */
  readonly rate: number;
}

export interface Rounds {
  /** Rounds that count. */
  readonly rounds: number;
  /** Rounds before them that do not. Default 1. */
  readonly warmUps?: number;
  /** One figure for the times of all rounds. Default: their median. */
  readonly summarize?: (times: readonly number[]) => number | Promise<number>;
}

/** Something for each candidate; undefined for each candidate that is undefined. */
export type ForEach<T, R> = { readonly [K in keyof T]: R | Extract<T[K], undefined> };

/** Every row's time, in units of `ns` nanoseconds. */
export function timesOf<T extends Readonly<Record<string, Row | undefined>>>(
  rows: T,
  ns: number,
): ForEach<T, number> {
  const times = Object.entries(rows).map(([name, row]) => [name, row && row.ns / ns]);
  return Object.fromEntries(times) as ForEach<T, number>;
}

/** Measures all candidates; a function is a candidate without bytes and check. */
export async function measure<T extends Readonly<Record<string, Candidate | Timed | undefined>>>(
  candidates: T,
  { rounds, warmUps = 1, summarize = median }: Rounds,
): Promise<ForEach<T, Row>> {
  const measured = Object.entries(candidates).flatMap(([name, given]) => {
    if (given === undefined) return [];
    const candidate: Candidate = typeof given === 'function' ? { run: given } : given;
    return [{ name, candidate, times: [] as number[] }];
  });
  for (let round = -warmUps; round < rounds; round++) {
    for (const { candidate, times } of measured) {
      const nanoseconds = await candidate.run();
      if (round >= 0) times.push(nanoseconds);
      if (round === -warmUps) candidate.check?.();
    }
  }
  const rows: Record<string, Row> = {};
  for (const { name, candidate, times } of measured) {
    const ns = await summarize(times);
    rows[name] = { ns, ms: ns / 1e6, rate: (candidate.bytes ?? Number.NaN) / ns };
  }
  return rows as ForEach<T, Row>;
}
