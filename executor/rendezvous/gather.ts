// The server's side of the calls that all ranks make together. A rank makes its next call only when it has the result
// of the last one, so there is one open call at a time and its parts are all that is kept.

import { encodeFrame, FrameError } from './frames.ts';
import { type Failure, nameRanks } from './report.ts';

/** One all-gather: every rank gives a part, and when all are there each rank gets all of them. */
export class Gathering {
  #seq = 0;
  #what = '';
  readonly #parts: (Uint8Array | undefined)[];
  readonly #arrived: number[] = [];

  constructor(worldSize: number) {
    this.#parts = new Array(worldSize).fill(undefined);
  }

  /** Whether a call with this number waits for ranks. */
  isOpen(seq: number): boolean {
    return this.#seq === seq && this.#arrived.length > 0;
  }

  /** What the open call is for. */
  get what(): string {
    return this.#what;
  }

  /** Ranks that have not come to the open call; none where no call is open. */
  missing(): number[] {
    if (this.#arrived.length === 0) return [];
    return [...this.#parts.keys()].filter((rank) => this.#parts[rank] === undefined);
  }

  /**
   * A rank comes with its part. Gives the frame for all ranks if it was the last one, or why the group cannot go on.
   *
   * @throws FrameError where the rank is not at this call
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
    const involved = [rank, ...others];
    return {
      code: 'E_PEER_MISMATCH',
      text,
      ranks: involved.map((one) => ({
        rank: one,
        lastCall: undefined,
        silentMs: undefined,
        state: 'behind',
      })),
    };
  }
}
