// SplitMix with 32-bit words: a counter that grows by the golden ratio, and a mixer of it. Integers only, so that
// a sequence is the same on every machine and in every language.

const GOLDEN = 0x9e3779b9;

/** A bijection of u32 that spreads every bit (the two-round xorshift-multiply mixer of splitmix32). */
function mix(value: number): number {
  let z = value >>> 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

/** One sequence of u32; sequences of different keys start at unrelated points. */
export class Stream {
  #state: number;

  /** @param key integers in [0, 2^32), for example seed, step and rank. */
  constructor(...key: readonly number[]) {
    this.#state = key.reduce((state, part) => mix((mix(state) + part + GOLDEN) >>> 0), 0);
  }

  /** The next u32. */
  next(): number {
    this.#state = (this.#state + GOLDEN) >>> 0;
    return mix(this.#state);
  }

  /** An integer in [0, limit), limit in 1..2^32. Doubles round the same on every machine, and never up to the limit. */
  below(limit: number): number {
    return Math.floor((this.next() * limit) / 2 ** 32);
  }

  /** A permutation of 0..count-1 (Fisher and Yates). */
  shuffle(count: number): number[] {
    const items = Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j]!, items[i]!];
    }
    return items;
  }
}
