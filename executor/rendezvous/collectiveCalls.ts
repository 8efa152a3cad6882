// The server's memory of the steps that ranks have entered. Every rank announces the same steps with the same digests
// in the same order, so one list serves all: it holds what the fastest rank has entered and the slowest has not.

import { type Failure, nameRanks } from './report.ts';

/** Most steps that the fastest rank may be ahead of the slowest. Exchanges themselves let no rank run far ahead. */
export const MAX_STEPS_AHEAD = 1 << 16;

interface Entry {
  readonly step: number;
  readonly digest: string;
  /** When the first rank entered it, on this process's clock in ms. */
  readonly firstAt: number;
  /** Ranks that have not entered it. */
  missing: number;
  /** Ranks that want to hear when all have. */
  readonly awaiting: number[];
}

/** Steps that all ranks have entered now, with the ranks that wait for this. */
export type Completed = readonly { readonly step: number; readonly awaiting: readonly number[] }[];

export class StepLog {
  /** Entries from number #first on. */
  readonly #entries: Entry[] = [];
  #first = 0;
  /** How many steps each rank has entered. */
  readonly #counts: number[];
  readonly #last: (number | undefined)[];
  /** Milliseconds, over all steps so far, by which each rank entered after the first one. */
  readonly #behindMs: Float64Array;

  constructor(worldSize: number) {
    this.#counts = new Array(worldSize).fill(0);
    this.#last = new Array(worldSize).fill(undefined);
    this.#behindMs = new Float64Array(worldSize);
  }

  /** The step that a rank entered last. */
  lastStep(rank: number): number | undefined {
    return this.#last[rank];
  }

  /** f64[ranks]: milliseconds, over all steps so far, by which each rank entered after the first one. */
  get behindMs(): Float64Array {
    return this.#behindMs;
  }

  /** Ranks that have not entered a step, in ascending order. */
  behind(step: number): number[] {
    return [...this.#last.keys()].filter((rank) => (this.#last[rank] ?? -1) < step);
  }

  /** Whether others have entered a step that this rank has not: it cannot leave without harm. */
  isBehind(rank: number): boolean {
    return this.#counts[rank]! < this.#first + this.#entries.length;
  }

  /** A rank enters a step. Gives the steps that are complete by it, or why the group cannot go on. */
  enter(rank: number, step: number, digest: string, awaited: boolean): Completed | Failure {
    const at = this.#counts[rank]! - this.#first;
    const entry = this.#entries[at];
    if (entry !== undefined && (entry.step !== step || entry.digest !== digest)) {
      return this.#mismatch(rank, step, entry, at);
    }
    if (at >= MAX_STEPS_AHEAD) return this.#tooFarAhead(rank);
    this.#counts[rank]!++;
    this.#last[rank] = step;
    const now = performance.now();
    const entered = entry ?? { step, digest, firstAt: now, missing: this.#counts.length, awaiting: [] };
    this.#behindMs[rank]! += now - entered.firstAt;
    if (entry === undefined) this.#entries.push(entered);
    entered.missing--;
    if (awaited) entered.awaiting.push(rank);
    return this.#takeComplete();
  }

  #takeComplete(): Completed {
    const complete: { step: number; awaiting: readonly number[] }[] = [];
    while (this.#entries[0]?.missing === 0) {
      complete.push(this.#entries.shift()!);
      this.#first++;
    }
    return complete;
  }

  #mismatch(rank: number, step: number, entry: Entry, at: number): Failure {
    const others = [...this.#counts.keys()].filter((other) => this.#counts[other]! > this.#first + at);
    const text =
      entry.step !== step
        ? `rank ${rank} entered step ${step} where ${nameRanks(others)} entered step ${entry.step}`
        : `in step ${step} rank ${rank} does another exchange than ${nameRanks(others)}: the plan, the kind of exchange, the bytes of a row or the dtype differ`;
    const involved = [rank, ...others];
    return {
      code: 'E_PEER_MISMATCH',
      text,
      ranks: involved.map((one) => ({
        rank: one,
        lastStep: this.#last[one],
        silentMs: undefined,
        state: 'behind',
      })),
    };
  }

  #tooFarAhead(rank: number): Failure {
    const slowest = this.#counts.indexOf(Math.min(...this.#counts));
    const text = `rank ${rank} is ${MAX_STEPS_AHEAD} steps ahead of rank ${slowest}`;
    const late = {
      rank: slowest,
      lastStep: this.#last[slowest],
      silentMs: undefined,
      state: 'behind',
    } as const;
    return { code: 'E_PEER_TIMEOUT', text, ranks: [late] };
  }
}
