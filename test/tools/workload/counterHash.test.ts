// The routing of the CollectiveX benchmark. Expected values come from its published definition in another language, Python's
// hashlib and NumPy.

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { counterTables, counterWeights } from '../../../tools/workload/counterHash.ts';
import { makeWorkload } from '../../../tools/workload/families.ts';

const SMALL = { seed: 67, ranks: 4, tokens: 4, topk: 3, experts: 8 };
const FULL = { seed: 67, ranks: 2, tokens: 4096, topk: 8, experts: 256 };

function digest(parts: readonly (BigInt64Array | Int32Array | Float32Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

/** Ids as the benchmark's own test of its generator hashes them. */
const ids64 = (sizes: typeof SMALL) =>
  counterTables(sizes).map(({ ids }) => BigInt64Array.from(ids as Int32Array, BigInt));

describe('the counter hash', () => {
  const full = counterTables(FULL).map(({ ids }) => ids as Int32Array);

  it('gives the digest that the benchmark pins: ids, weights, and rows of rank 2 of 64 elements', () => {
    // Its rows of a source token s: (131 s + 17 column + 19 seed) mod 257 - 128, over 64, and the bits of s as -1 and 1.
    const rows = Float32Array.from({ length: 4 * 64 }, (_, i) => {
      const [source, column] = [8 + Math.floor(i / 64), i % 64];
      if (column < 32) return Math.floor(source / 2 ** column) % 2 === 1 ? 1 : -1;
      return (((131 * source + 17 * column + 19 * 67) % 257) - 128) / 64;
    });
    expect(digest([...ids64(SMALL), ...counterWeights(SMALL), rows])).toBe(
      '6c6c3350805252e7f587b208c9d9192a9725cacaeeb1a35215fd1216a71e6765',
    );
  });

  it('gives the first and the last token of a full case', () => {
    expect([...full[0]!.subarray(0, 8)]).toEqual([180, 34, 145, 49, 232, 21, 192, 77]);
    expect([...full[1]!.subarray(-8)]).toEqual([63, 255, 137, 222, 197, 45, 0, 125]);
  });

  it('gives the bytes of a full case', () => {
    expect(digest(full)).toBe('f16f31ac4dff134ba144e6bcb8da9bb4d3b7b35f94d6500f18dc8c1d3e732086');
    expect(digest(counterWeights(FULL))).toBe(
      'f9de5e28a606e74752bfb46aba7445faf5125f70b47e8554583c5e2091a89739',
    );
  });

  it('numbers tokens over all ranks: other ranks have other parts of one table', () => {
    const whole = counterTables({ ...SMALL, ranks: 1, tokens: 16 })[0]!;
    expect(SMALL.ranks * SMALL.tokens).toBe(16);
    expect(counterTables(SMALL).flatMap(({ ids }) => [...ids])).toEqual([...whole.ids]);
  });
});

describe('the family collectivex', () => {
  it('is this routing', () => {
    expect(makeWorkload({ family: 'collectivex', ...SMALL })).toEqual(counterTables(SMALL));
  });

  it('goes on with further tokens in further steps', () => {
    const both = counterTables({ ...SMALL, ranks: 8 });
    expect(makeWorkload({ family: 'collectivex', ...SMALL, step: 1 })).toEqual(both.slice(4));
    expect(counterWeights({ ...SMALL, step: 1 })).toEqual(counterWeights({ ...SMALL, ranks: 8 }).slice(4));
  });

  it('refuses more experts of a token than there are', () => {
    expect(() => makeWorkload({ family: 'collectivex', ...SMALL, topk: 9 })).toThrow(
      expect.objectContaining({ code: 'E_OPTION' }),
    );
  });
});
