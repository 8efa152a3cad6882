// Figures of an exchange that can be compared with those of other libraries: what crosses the links, the least time that
// links and memory need for it, and the times of single calls, of consecutive calls, and of pairs of dispatch and
// combine.

import type { Plan } from '../../planner/plan.ts';
import { largest, sum } from '../../planner/totals.ts';
import { LinkTotals, rowMatrix, type visitEntries, visitPlan } from '../../planner/traffic.ts';
import type { Timed } from './measure.ts';
import { type Candidate, measure, type Rounds, type Row } from './runner.ts';

/** Calls that follow one another without a pause in a chained measurement. */
export const CHAIN_CALLS = 10;
const MIB = 2 ** 20;

/** Rows of the busiest rank in one dispatch, or in a combine, which moves them back. */
export interface MovedRows {
  /** Over its links, the larger of both directions. */
  readonly link: number;
  /** Tokens and slots: what is read once and written once in its memory at least. */
  readonly memory: number;
  /** Pairs of a token and a rank, the local one included, of the busiest source. */
  readonly toRanks: number;
  /** Entries that reach a slot, likewise. */
  readonly toSlots: number;
}

/** Pairs of a token of this rank and a rank that hosts one of its experts. */
function rankPairs({ spec, shards }: Plan, rank: number): number {
  const { instanceRank } = spec.placement;
  const { entrySlot, entryInstance, topk } = shards[rank]!;
  const lastToken = new Int32Array(spec.ranks).fill(-1);
  let pairs = 0;
  for (const [entry, slot] of entrySlot.entries()) {
    if (slot < 0) continue;
    const owner = instanceRank[entryInstance[entry]!]!;
    const token = Math.floor(entry / topk);
    if (lastToken[owner] !== token) pairs++;
    lastToken[owner] = token;
  }
  return pairs;
}

/**
 * What a plan makes its busiest rank move.
 *
 * @param visit visitPlan: rows as the plan forwards them; visitEntries: every row separately, as in a sum by token
 */
export function movedRows(plan: Plan, visit: typeof visitPlan | typeof visitEntries = visitPlan): MovedRows {
  const { shards } = plan;
  const links = new LinkTotals(shards.length);
  visit(plan, { inter: links.add, intra: links.add });
  return {
    link: largest(shards.map((_, rank) => links.rows(rank))),
    memory: largest(shards.map(({ tokens, expertRows }) => tokens + sum(expertRows))),
    toRanks: largest(shards.map((_, rank) => rankPairs(plan, rank))),
    toSlots: largest(rowMatrix(plan).map(sum)),
  };
}

/** Rates of the same machine in the same run, GB/s a rank. */
export interface Ceilings {
  /** Of a copy to another rank, in one direction; undefined if there is no link to copy over. */
  readonly linkGBs: number | undefined;
  /** Bytes read and written by a copy within a rank's memory. */
  readonly memoryGBs: number;
}

/** Nanoseconds of one exchange. */
export interface StageTimes {
  /** From the call, with the plan given, until the slowest rank is done. */
  readonly callNs: number;
  /** Of one of CHAIN_CALLS consecutive calls. */
  readonly chainedNs: number;
}

export interface CaseTimes {
  readonly dispatch: StageTimes;
  readonly combine: StageTimes;
  /** Of one of CHAIN_CALLS pairs of a dispatch and a combine, each of which starts when the previous one is done. */
  readonly pairNs: number;
}

export interface StageFigures {
  readonly ms: number;
  readonly chainedMs: number;
  /** Bytes over the links of the busiest rank. */
  readonly linkMiB: number;
  /** Microseconds that those bytes take at the link's rate. */
  readonly linkFloorUs: number | undefined;
  /** Microseconds that the bytes which must be read and written take at the rate of a local copy. */
  readonly memoryFloorUs: number;
  /** The floors over the time of a call: 1 is as fast as the link or memory allows. */
  readonly linkShare: number | undefined;
  readonly memoryShare: number;
  /** Rates of a rank with each row counted once per destination rank, and once per slot. */
  readonly toRanksGBs: number;
  readonly toSlotsGBs: number;
  /** SMs of each device that the exchange may use; undefined if the backend does not report it. */
  readonly sms: number | undefined;
}

/** @param rowBytes of all payloads of a token together */
export function stageFigures(
  { callNs, chainedNs }: StageTimes,
  rows: MovedRows,
  rowBytes: number,
  { linkGBs, memoryGBs }: Ceilings,
  sms?: number,
): StageFigures {
  // GB/s are bytes per nanosecond.
  const linkNs = linkGBs === undefined ? undefined : (rows.link * rowBytes) / linkGBs;
  const memoryNs = (rows.memory * rowBytes) / memoryGBs;
  return {
    ms: callNs / 1e6,
    chainedMs: chainedNs / 1e6,
    linkMiB: (rows.link * rowBytes) / MIB,
    linkFloorUs: linkNs === undefined ? undefined : linkNs / 1e3,
    memoryFloorUs: memoryNs / 1e3,
    linkShare: linkNs === undefined ? undefined : linkNs / callNs,
    memoryShare: memoryNs / callNs,
    toRanksGBs: (rows.toRanks * rowBytes) / callNs,
    toSlotsGBs: (rows.toSlots * rowBytes) / callNs,
    sms,
  };
}

/** Makes one call. */
export type Call = () => unknown;

/** Measures calls that follow one another `times` times: nanoseconds of all of them together. */
export type ChainClock = (calls: readonly Call[], times: number) => Timed;

export interface CaseCalls {
  readonly dispatch: Call;
  readonly combine: Call;
}

/** What is measured of a case. `dispatch` and `combine` can be replaced by candidates that time a single call otherwise. */
export function caseCandidates({ dispatch, combine }: CaseCalls, clock: ChainClock) {
  const each = (calls: readonly Call[]): Timed => {
    const run = clock(calls, CHAIN_CALLS);
    return async () => (await run()) / CHAIN_CALLS;
  };
  return {
    dispatch: clock([dispatch], 1),
    combine: clock([combine], 1),
    chainedDispatch: each([dispatch]),
    chainedCombine: each([combine]),
    pair: each([dispatch, combine]),
  };
}

/** The times of caseCandidates. */
export function caseTimes(rows: Record<keyof ReturnType<typeof caseCandidates>, Row>): CaseTimes {
  return {
    dispatch: { callNs: rows.dispatch.ns, chainedNs: rows.chainedDispatch.ns },
    combine: { callNs: rows.combine.ns, chainedNs: rows.chainedCombine.ns },
    pairNs: rows.pair.ns,
  };
}

/** Measures all cases, and other candidates, in turn in every round. */
export async function measureCases<Name extends string, Other extends string>(
  cases: Readonly<Record<Name, CaseCalls>>,
  clock: ChainClock,
  others: Readonly<Record<Other, Candidate>>,
  rounds: Rounds,
): Promise<{ cases: Record<Name, CaseTimes>; others: Record<Other, Row> }> {
  const named = Object.entries<CaseCalls>(cases).map(
    ([name, calls]) => [name, Object.entries<Timed>(caseCandidates(calls, clock))] as const,
  );
  // Prefixes keep the names of cases and of other candidates apart.
  const candidates: Record<string, Candidate | Timed> = {};
  for (const [name, other] of Object.entries<Candidate>(others)) candidates[`other ${name}`] = other;
  for (const [name, timed] of named) for (const [what, run] of timed) candidates[`${what} of ${name}`] = run;
  const rows = (await measure(candidates, rounds)) as Record<string, Row>;
  const pick = (names: readonly string[], key: (name: string) => string) =>
    Object.fromEntries(names.map((name) => [name, rows[key(name)]!]));
  return {
    cases: Object.fromEntries(
      named.map(([name, timed]) => [
        name,
        caseTimes(
          pick(
            timed.map(([what]) => what),
            (what) => `${what} of ${name}`,
          ) as never,
        ),
      ]),
    ) as Record<Name, CaseTimes>,
    others: pick(Object.keys(others), (name) => `other ${name}`) as Record<Other, Row>,
  };
}
