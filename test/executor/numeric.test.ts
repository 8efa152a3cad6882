// The conversions against a table of every finite value of a dtype, spelt out from the definition of the format.
// Midpoints of neighbours are exact in double precision, so "nearest, ties to even" is a comparison, not arithmetic.

import { describe, expect, it } from 'vitest';
import {
  bf16ToFloat,
  bitsFromFloat,
  f16ToFloat,
  floatFromBits,
  floatToBf16,
  floatToF16,
  rowCodec,
} from '../../executor/numeric.ts';
import { FuscoError } from '../../planner/errors.ts';
import { randomFrom } from '../support/workloads.ts';

interface Format {
  name: 'f16' | 'bf16';
  exponentBits: number;
  fractionBits: number;
  nan: number;
  decode: (bits: number) => number;
  encode: (value: number) => number;
}

const F16: Format = {
  name: 'f16',
  exponentBits: 5,
  fractionBits: 10,
  nan: 0x7e00,
  decode: f16ToFloat,
  encode: floatToF16,
};
const BF16: Format = {
  name: 'bf16',
  exponentBits: 8,
  fractionBits: 7,
  nan: 0x7fc0,
  decode: bf16ToFloat,
  encode: floatToBf16,
};

/** Value of every non-negative bit pattern up to and including infinity's, as IEEE 754 defines it. */
function valuesOf({ exponentBits, fractionBits }: Format): number[] {
  const bias = 2 ** (exponentBits - 1) - 1;
  const values: number[] = [];
  for (let exponent = 0; exponent < 2 ** exponentBits - 1; exponent++) {
    for (let fraction = 0; fraction < 2 ** fractionBits; fraction++) {
      const part = fraction / 2 ** fractionBits;
      values.push(exponent === 0 ? part * 2 ** (1 - bias) : (1 + part) * 2 ** (exponent - bias));
    }
  }
  values.push(Number.POSITIVE_INFINITY);
  return values;
}

/** Halfway from value `i` to the next; the step past the largest finite value is as wide as the one before it. */
function midpoint(values: readonly number[], i: number): number {
  const next = values[i + 1]!;
  return Number.isFinite(next) ? (values[i]! + next) / 2 : values[i]! + (values[i]! - values[i - 1]!) / 2;
}

/** The bits nearest to a value that is not NaN, by bisection. */
function nearest(values: readonly number[], value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  let low = 0;
  let high = values.length - 1;
  // The first pattern whose upper midpoint is not below the value.
  while (low < high) {
    const middle = (low + high) >> 1;
    const border = midpoint(values, middle);
    if (size < border || (size === border && middle % 2 === 0)) high = middle;
    else low = middle + 1;
  }
  return sign | low;
}

/** The float32 that follows (or, with -1, precedes) a positive one. */
function neighbour(value: number, step: 1 | -1): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  view.setUint32(0, view.getUint32(0) + step);
  return view.getFloat32(0);
}

const hex = (bits: number) => `0x${bits.toString(16).padStart(4, '0')}`;

describe.each([F16, BF16])('$name', (format) => {
  const { decode, encode, nan } = format;
  const values = valuesOf(format);
  const infinity = values.length - 1;

  it('decodes all 65,536 patterns to what the format defines', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const magnitude = bits & 0x7fff;
      const expected =
        magnitude > infinity ? Number.NaN : bits < 0x8000 ? values[bits]! : -values[magnitude]!;
      if (!Object.is(decode(bits), expected))
        expect([hex(bits), decode(bits)]).toEqual([hex(bits), expected]);
    }
  });

  it('encodes every decoded pattern to itself, and every NaN to the canonical one', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const expected = (bits & 0x7fff) > infinity ? nan : bits;
      const actual = encode(decode(bits));
      if (actual !== expected) expect([hex(bits), hex(actual)]).toEqual([hex(bits), hex(expected)]);
    }
  });

  it('rounds the midpoint of every two neighbours to the even one, and a hair beside it to the nearer', () => {
    for (let bits = 0; bits < infinity; bits++) {
      const middle = midpoint(values, bits);
      const even = bits % 2 === 0 ? bits : bits + 1;
      const cases: [number, number][] = [
        [middle, even],
        [neighbour(middle, -1), bits],
        [neighbour(middle, 1), bits + 1],
      ];
      for (const [value, expected] of cases) {
        if (encode(value) !== expected || encode(-value) !== (expected | 0x8000)) {
          expect([value, hex(encode(value)), hex(encode(-value))]).toEqual([
            value,
            hex(expected),
            hex(expected | 0x8000),
          ]);
        }
      }
    }
  });

  it('agrees with the table for random float32 patterns', () => {
    const random = randomFrom(7);
    for (let i = 0; i < 200_000; i++) {
      const value = floatFromBits(Math.floor(random() * 2 ** 32));
      if (Number.isNaN(value)) continue;
      const expected = nearest(values, value);
      if (encode(value) !== expected) expect([value, hex(encode(value))]).toEqual([value, hex(expected)]);
    }
  });

  it('agrees with the table inside the range that the format resolves', () => {
    const random = randomFrom(8);
    for (let i = 0; i < 200_000; i++) {
      const value = Math.fround((random() * 2 - 1) * 2 ** Math.floor(random() * 44 - 27));
      const expected = nearest(values, value);
      if (encode(value) !== expected) expect([value, hex(encode(value))]).toEqual([value, hex(expected)]);
    }
  });
});

describe('literal conversions', () => {
  it.each([
    // 1 + 2^-11 lies halfway between 1 and 1 + 2^-10; 1 + 3 * 2^-11 halfway between 0x3c01 and 0x3c02.
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [65504, 0x7bff],
    // 65520 is halfway to 65536, whose pattern is infinity's.
    [65519.996, 0x7bff],
    [65520, 0x7c00],
    [-65520, 0xfc00],
    [3.4e38, 0x7c00],
    [2 ** -14, 0x0400],
    // The largest subnormal, and halfway from it to the smallest normal value.
    [1023 * 2 ** -24, 0x03ff],
    [1023.5 * 2 ** -24, 0x0400],
    [2 ** -24, 0x0001],
    // Half of the smallest subnormal ties to zero; anything above does not.
    [2 ** -25, 0x0000],
    [2 ** -25 * (1 + 2 ** -23), 0x0001],
    [-(2 ** -25), 0x8000],
    [0, 0x0000],
    [-0, 0x8000],
    [Number.NEGATIVE_INFINITY, 0xfc00],
    [Number.NaN, 0x7e00],
  ])('%s is f16 %i', (value, bits) => {
    expect(floatToF16(value)).toBe(bits);
  });

  it.each([
    [1 + 2 ** -8, 0x3f80],
    [1 + 3 * 2 ** -8, 0x3f82],
    // The largest float32 is nearer to 2^128 than to bf16's largest.
    [3.4028234663852886e38, 0x7f80],
    [3.3895313892515355e38, 0x7f7f],
    [2 ** -133, 0x0001],
    [2 ** -134, 0x0000],
    [2 ** -134 + 2 ** -149, 0x0001],
    [-(2 ** -149), 0x8000],
    [-0, 0x8000],
    [Number.NEGATIVE_INFINITY, 0xff80],
    [Number.NaN, 0x7fc0],
  ])('%s is bf16 %i', (value, bits) => {
    expect(floatToBf16(value)).toBe(bits);
  });

  it('keeps float32 bits, subnormals and -0 included, and makes every NaN canonical', () => {
    for (const bits of [0, 1, 0x80000000, 0x007fffff, 0x00800000, 0x3f800000, 0x7f7fffff, 0xff800000]) {
      expect(bitsFromFloat(floatFromBits(bits))).toBe(bits);
    }
    for (const bits of [0x7f800001, 0x7fa12345, 0x7fffffff, 0xff800001, 0xffc00000]) {
      expect(bitsFromFloat(floatFromBits(bits))).toBe(0x7fc00000);
    }
  });
});

describe('rowCodec', () => {
  it.each([
    ['f32', 8, [0x00, 0x00, 0xc0, 0x3f, 0x01, 0x00, 0x00, 0x80], [1.5, -(2 ** -149)]],
    ['f16', 4, [0x00, 0x3e, 0x01, 0x80], [1.5, -(2 ** -24)]],
    ['bf16', 4, [0xc0, 0x3f, 0x01, 0x80], [1.5, -(2 ** -133)]],
  ] as const)('reads and writes little-endian %s rows at odd addresses', (dtype, rowBytes, bytes, values) => {
    const codec = rowCodec(dtype, rowBytes);
    expect(codec.elements).toBe(2);
    const memory = new Uint8Array(1 + 3 * rowBytes).fill(0xaa);
    const rows = memory.subarray(1);
    codec.store(Float32Array.from(values), rows, 1);
    expect([...rows.subarray(rowBytes, 2 * rowBytes)]).toEqual(bytes);
    expect(rows.subarray(0, rowBytes).every((byte) => byte === 0xaa)).toBe(true);
    expect(rows.subarray(2 * rowBytes).every((byte) => byte === 0xaa)).toBe(true);
    const out = new Float32Array(2);
    codec.load(rows, 1, out);
    expect([...out]).toEqual(values);
  });

  it.each([
    ['bytes', 4],
    ['fp8', 4],
    ['f32', 6],
    ['f16', 3],
    ['bf16', 1],
  ] as const)('refuses %s rows of %i bytes with E_DTYPE', (dtype, rowBytes) => {
    expect(() => rowCodec(dtype, rowBytes)).toThrow(FuscoError);
    expect(() => rowCodec(dtype, rowBytes)).toThrow(expect.objectContaining({ code: 'E_DTYPE' }));
  });
});
