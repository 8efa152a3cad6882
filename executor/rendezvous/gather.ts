// The server's side of the operations of a session, which are all-gathers. A rank starts one only when it has the result
// of the previous one, so only one is open at a time, and only its parts are stored.

import { encodeFrame, FrameError } from './frames.ts';
import { type Failure, mismatchFailure, nameRanks } from './report.ts';

/** One all-gather: every rank gives a part, and when all have arrived, each rank gets all of them. */
export class Gathering {
  #seq = 0;
  #what = '';
  readonly #parts: (Uint8Array | undefined)[];
  readonly #arrived: number[] = [];

  constructor(worldSize: number) {
    this.#parts = new Array(worldSize).fill(undefined);
  }

  /** Whether the all-gather with this number waits for ranks. */
  isOpen(seq: number): boolean {
    return this.#seq === seq && this.#arrived.length > 0;
  }

  /** The purpose of the open all-gather. */
  get what(): string {
    return this.#what;
  }

  /** Ranks that have not arrived at the open all-gather; empty if none is open. */
  missing(): number[] {
    if (this.#arrived.length === 0) return [];
    return [...this.#parts.keys()].filter((rank) => this.#parts[rank] === undefined);
  }

  /**
   * A rank arrives with its part. Returns the frame for all ranks if it is the last one, or the failure of the session.
   *
   * @throws FrameError if the rank is not at this all-gather
   */
  arrive(rank: number, seq: number, what: string, part: Uint8Array): Uint8Array | Failure | undefined {
    if (seq !== this.#seq || this.#parts[rank] !== undefined)
      throw new FrameError(`gather ${seq} out of turn`);
    if (this.#arrived.length > 0 && what !== this.#what) return this.#mismatch(rank, what);
    this.#what = what;
    this.#parts[rank] = part;
    this.#arrived.push(rank);
    return this.#arrived.length === this.#parts.length ? this.#finish() : undefined;
  }

  #finish(): Uint8Array {
    const parts = this.#parts as Uint8Array[];
    const sizes = parts.map((part) => part.length);
    const isEmpty = sizes.every((size) => size === 0);
    const head = { type: 'gathered', seq: this.#seq };
    const frame = isEmpty
      ? encodeFrame(head)
      : encodeFrame({ ...head, sizes } as typeof head, Buffer.concat(parts));
    this.#seq++;
    this.#parts.fill(undefined);
    this.#arrived.length = 0;
    return frame;
  }

  #mismatch(rank: number, what: string): Failure {
    const others = this.#arrived.toSorted((a, b) => a - b);
    const text = `in operation ${this.#seq} of the session rank ${rank} is in ${what}, ${nameRanks(others)} in ${this.#what}`;
    return mismatchFailure(text, [rank, ...others], () => undefined);
  }
}
