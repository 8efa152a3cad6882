// Draws a token's experts: distinct, each with a probability proportional to the weights of the remaining experts.

import { FuscoError } from '../../planner/errors.ts';
import type { Stream } from './random.ts';

/** Weights are scaled to about this sum, so that one lookup finds a drawn expert. */
const MOST_TICKETS = 1 << 20;
/** Number of draws of experts that are already taken, after which the remaining experts are searched one by one. */
const MOST_REDRAWS = 32;

/** Experts to draw from, with integer weights. */
export class Urn {
  /** Ticket -> expert: an expert holds as many tickets as its weight. */
  readonly #tickets: Uint16Array;
  readonly #held: Map<number, number>;

  /**
   * @param weights of each expert, integers from 0; an expert of weight 0 is never drawn. Sums above 2^20 are
   *   scaled down, in which a positive weight keeps at least one ticket
   * @param first id of the first expert
   */
  constructor(weights: ArrayLike<number>, first = 0) {
    const all = Array.from(weights);
    const total = all.reduce((sum, weight) => sum + weight, 0);
    const scaled = (weight: number) => Math.max(1, Math.floor((weight / total) * MOST_TICKETS));
    const held = all.map((weight) => (total <= MOST_TICKETS || weight === 0 ? weight : scaled(weight)));
    this.#tickets = new Uint16Array(held.reduce((sum, count) => sum + count, 0));
    this.#held = new Map();
    let at = 0;
    held.forEach((count, i) => {
      if (count > 0) this.#held.set(first + i, count);
      this.#tickets.fill(first + i, at, (at += count));
    });
  }

  /** Experts that can be drawn. */
  get size(): number {
    return this.#held.size;
  }

  /** Throws E_OPTION if a token cannot choose `topk` distinct experts. */
  checkRoom(topk: number, what: string): void {
    if (topk <= this.size) return;
    throw new FuscoError('E_OPTION', `topk ${topk} of the ${this.size} experts ${what}`, {
      limit: this.size,
      hint: `Give --topk at most ${this.size}, or more experts.`,
    });
  }

  /** Writes `topk` distinct experts to ids[at..at + topk). Needs checkRoom. */
  draw(stream: Stream, ids: Int32Array, at: number, topk: number): void {
    for (let k = 0; k < topk; k++) {
      let expert = -1;
      for (let tries = 0; expert < 0 && tries < MOST_REDRAWS; tries++) {
        const drawn = this.#tickets[stream.below(this.#tickets.length)]!;
        let seen = at;
        while (seen < at + k && ids[seen] !== drawn) seen++;
        if (seen === at + k) expert = drawn;
      }
      ids[at + k] = expert >= 0 ? expert : this.#drawLeft(stream, ids.subarray(at, at + k));
    }
  }

  #drawLeft(stream: Stream, taken: Int32Array): number {
    const left = [...this.#held].filter(([expert]) => !taken.includes(expert));
    let ticket = stream.below(left.reduce((sum, [, count]) => sum + count, 0));
    for (const [expert, count] of left) {
      if (ticket < count) return expert;
      ticket -= count;
    }
    throw new FuscoError('E_INTERNAL', 'a token asked for more experts than there are');
  }
}
