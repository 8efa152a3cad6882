// The numbered calls that ranks have entered. Every rank enters the same calls with the same digests in the same order,
// so one list serves all ranks. It contains the calls that the fastest rank has entered and the slowest has not.

import { behindRank, type Failure, mismatchFailure, nameRanks } from './report.ts';

/**
 * Maximum number of calls by which the fastest rank may be ahead of the slowest. Exchanges keep ranks much closer
 * together.
 */
export const MAX_CALLS_AHEAD = 1 << 16;

interface Entry {
  readonly call: number;
  readonly digest: string;
  /** When the first rank entered it, on this process's clock in ms. */
  readonly firstAt: number;
  /** Ranks that have not entered it. */
  missing: number;
  /** Ranks that wait for all ranks to enter it. */
  readonly awaiting: number[];
}

/** Calls that all ranks have entered now, with the ranks that wait for this. */
export type Completed = readonly { readonly call: number; readonly awaiting: readonly number[] }[];

export class CallLog {
  /** Entries from number #first on. */
  readonly #entries: Entry[] = [];
  #first = 0;
  /** How many calls each rank has entered. */
  readonly #counts: number[];
  readonly #last: (number | undefined)[];
  /** Milliseconds, over all calls so far, by which each rank entered after the first one. */
  readonly #behindMs: Float64Array;

  constructor(worldSize: number) {
    this.#counts = new Array(worldSize).fill(0);
    this.#last = new Array(worldSize).fill(undefined);
    this.#behindMs = new Float64Array(worldSize);
  }

  /** The call that a rank entered last. */
  lastCall(rank: number): number | undefined {
    return this.#last[rank];
  }

  /** f64[ranks]: milliseconds, over all calls so far, by which each rank entered after the first one. */
  get behindMs(): Float64Array {
    return this.#behindMs;
  }

  /** Ranks that have not entered a call, in ascending order. */
  behind(call: number): number[] {
    return [...this.#last.keys()].filter((rank) => (this.#last[rank] ?? -1) < call);
  }

  /** Whether other ranks have entered a call that this rank has not. */
  isBehind(rank: number): boolean {
    return this.#counts[rank]! < this.#first + this.#entries.length;
  }

  /** A rank enters a call. Returns the calls that this completes, or the failure of the session. */
  enter(rank: number, call: number, digest: string, awaited: boolean): Completed | Failure {
    const at = this.#counts[rank]! - this.#first;
    const entry = this.#entries[at];
    if (entry !== undefined && (entry.call !== call || entry.digest !== digest)) {
      return this.#mismatch(rank, call, entry, at);
    }
    if (at >= MAX_CALLS_AHEAD) return this.#tooFarAhead(rank);
    this.#counts[rank]!++;
    this.#last[rank] = call;
    const now = performance.now();
    const entered = entry ?? { call, digest, firstAt: now, missing: this.#counts.length, awaiting: [] };
    this.#behindMs[rank]! += now - entered.firstAt;
    if (entry === undefined) this.#entries.push(entered);
    entered.missing--;
    if (awaited) entered.awaiting.push(rank);
    return this.#takeComplete();
  }

  #takeComplete(): Completed {
    const complete: { call: number; awaiting: readonly number[] }[] = [];
    while (this.#entries[0]?.missing === 0) {
      complete.push(this.#entries.shift()!);
      this.#first++;
    }
    return complete;
  }

  #mismatch(rank: number, call: number, entry: Entry, at: number): Failure {
    const others = [...this.#counts.keys()].filter((other) => this.#counts[other]! > this.#first + at);
    const text =
      entry.call !== call
        ? `rank ${rank} entered call ${call} where ${nameRanks(others)} entered call ${entry.call}`
        : `in call ${call} rank ${rank} makes a different exchange from ${nameRanks(others)}: the plan, the kind of exchange, the bytes of a row or the dtype differ`;
    return mismatchFailure(text, [rank, ...others], (one) => this.#last[one]);
  }

  #tooFarAhead(rank: number): Failure {
    const slowest = this.#counts.indexOf(Math.min(...this.#counts));
    const text = `rank ${rank} is ${MAX_CALLS_AHEAD} calls ahead of rank ${slowest}`;
    return { code: 'E_PEER_TIMEOUT', text, ranks: [behindRank(slowest, this.#last[slowest])] };
  }
}
