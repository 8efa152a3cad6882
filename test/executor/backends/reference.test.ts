// Dispatch and combine worked out by hand. Two ranks; experts 0 and 1 live on rank 0, experts 2 and 3 on rank 1.

import { describe, expect, it } from 'vitest';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import {
  bytesOf,
  combined,
  f32,
  floats,
  halves,
  ints,
  POISON,
  planOf,
  poisoned,
  prepare,
  u16,
  u32,
  words,
} from '../../support/buffers.ts';

//   rank 0: token 0 -> experts 0, 2   token 1 -> 3, 0   token 2 -> none, 1
//   rank 1: token 0 -> experts 2, 0
// In blocks of a multiple of 2 rows, by (source rank, token, k):
//   rank 0: expert 0: r0t0k0 r0t1k1 r1t0k1 pad   expert 1: r0t2k1 pad   -> rows 0 1 2 . | 4 .
//   rank 1: expert 2: r0t0k1 r1t0k0              expert 3: r0t1k0 pad   -> rows 0 1 | 2 .
const ROUTING = [
  [
    [0, 2],
    [3, 0],
    [-1, 1],
  ],
  [[2, 0]],
];
const handPlan = (capacity = 0) => planOf(ROUTING, 2, { experts: 4, align: 2, capacity });

const recvSizes = (plan: VerifiedPlan, rowBytes: number) =>
  plan.shards.map((shard) => shard.recvRows * rowBytes);

describe('dispatch', () => {
  it('writes each row to its slots, zeroes the padding and leaves what lies behind alone', async () => {
    const plan = await handPlan();
    const exchange = await prepare(plan);
    expect([exchange.recvRows, exchange.tokens]).toEqual([
      [6, 4],
      [3, 1],
    ]);
    const to = poisoned([6, 4], 3);
    const from = [Uint8Array.of(0x10, 0x11, 0x12), Uint8Array.of(0x20)];
    const report = await exchange.dispatch({ payloads: [{ rowBytes: 1, from, to }] });
    expect(to.map(bytesOf)).toEqual([
      [0x10, 0x11, 0x20, 0, 0x12, 0, POISON, POISON, POISON],
      [0x10, 0x20, 0x11, 0, POISON, POISON, POISON],
    ]);
    expect(from.map(bytesOf)).toEqual([[0x10, 0x11, 0x12], [0x20]]);
    // Four tokens are read, seven slots written.
    expect(report).toMatchObject({ backend: 'reference', strategy: 'flat', bytesRead: 4, bytesWritten: 7 });
    expect(report.nanoseconds).toBeGreaterThan(0);
  });

  it('says where every received row came from', async () => {
    const plan = await handPlan();
    const exchange = await prepare(plan);
    const origins = poisoned([6 * 12, 4 * 12], 4);
    await exchange.dispatch({ payloads: [], origins });
    const none = [-1, -1, -1];
    expect(ints(origins[0]!.subarray(0, 72))).toEqual([
      ...[0, 0, 0],
      ...[0, 1, 1],
      ...[1, 0, 1],
      ...none,
      ...[0, 2, 1],
      ...none,
    ]);
    expect(ints(origins[1]!.subarray(0, 48))).toEqual([...[0, 0, 1], ...[1, 0, 0], ...[0, 1, 0], ...none]);
    expect(bytesOf(origins[0]!.subarray(72))).toEqual([POISON, POISON, POISON, POISON]);
  });

  it('moves rows of odd sizes and the weight of each entry in one call', async () => {
    const plan = await handPlan();
    const exchange = await prepare(plan);
    const sizes = [1, 3, 17];
    const from = sizes.map((size) => [
      Uint8Array.from({ length: 3 * size }, (_, i) => i + 1),
      Uint8Array.from({ length: size }, (_, i) => i + 101),
    ]);
    const to = sizes.map((size) => poisoned(recvSizes(plan, size)));
    const weightsTo = poisoned(recvSizes(plan, 4));
    await exchange.dispatch({
      payloads: [
        ...sizes.map((rowBytes, i) => ({ rowBytes, from: from[i]!, to: to[i]! })),
        {
          rowBytes: 4,
          per: 'entry',
          // The masked entry's weight, 9, belongs to no row.
          from: [f32(0.125, 0.25, 0.5, 0.75, 9, 1), f32(2, 3)],
          to: weightsTo,
        },
      ],
    });
    sizes.forEach((size, i) => {
      const token = (t: number) => Array.from({ length: size }, (_, j) => t * size + j + 1);
      const other = Array.from({ length: size }, (_, j) => j + 101);
      const pad = new Array<number>(size).fill(0);
      expect(bytesOf(to[i]![0]!)).toEqual([token(0), token(1), other, pad, token(2), pad].flat());
      expect(bytesOf(to[i]![1]!)).toEqual([token(0), other, token(1), pad].flat());
    });
    expect(weightsTo.map(floats)).toEqual([
      [0.125, 0.75, 3, 0, 1, 0],
      [0.25, 2, 0.5, 0],
    ]);
  });

  it('keeps every byte of a row, NaN payloads included', async () => {
    const plan = await planOf([[[0]], [[0]]], 1, { experts: 2 });
    const exchange = await prepare(plan);
    const to = poisoned([8, 0]);
    const from = [u32(0x7fa12345), u32(0xff800001)];
    await exchange.dispatch({ payloads: [{ rowBytes: 4, dtype: 'f32', from, to }] });
    expect(words(to[0]!)).toEqual([0x7fa12345, 0xff800001]);
  });

  it('leaves dropped rows out and moves the later rows of other experts as before', async () => {
    // Capacity 2 drops r1t0k1, the third row of expert 0.
    const plan = await handPlan(2);
    const exchange = await prepare(plan);
    expect(exchange.recvRows).toEqual([4, 4]);
    const to = poisoned([4, 4]);
    const from = [Uint8Array.of(0x10, 0x11, 0x12), Uint8Array.of(0x20)];
    await exchange.dispatch({ payloads: [{ rowBytes: 1, from, to }] });
    expect(to.map(bytesOf)).toEqual([
      [0x10, 0x11, 0x12, 0],
      [0x10, 0x20, 0x11, 0],
    ]);
  });

  it('a smaller step in the same buffers shows no row of the step before', async () => {
    const options = { experts: 4, align: 4 };
    const four = await planOf(
      [
        [[0], [0], [1], [2]],
        [[0], [1], [3], [3]],
      ],
      1,
      options,
    );
    const one = await planOf([[[0]], [[3]]], 1, options);
    const to = poisoned([8, 8]);
    const rows = [Uint8Array.of(1, 2, 3, 4), Uint8Array.of(5, 6, 7, 8)];
    await (await prepare(four)).dispatch({ payloads: [{ rowBytes: 1, from: rows, to }] });
    expect(to.map(bytesOf)).toEqual([
      [1, 2, 5, 0, 3, 6, 0, 0],
      [4, 0, 0, 0, 7, 8, 0, 0],
    ]);
    const origins = poisoned([4 * 12, 4 * 12]);
    const again = await prepare(one);
    expect(again.recvRows).toEqual([4, 4]);
    await again.dispatch({ payloads: [{ rowBytes: 1, from: rows, to }], origins });
    expect(to.map((buffer) => bytesOf(buffer).slice(0, 4))).toEqual([
      [1, 0, 0, 0],
      [5, 0, 0, 0],
    ]);
    expect(ints(origins[0]!).slice(3)).toEqual(new Array(9).fill(-1));
  });
});

describe('scaled dispatch', () => {
  it('multiplies each copy by the weight of its entry', async () => {
    const exchange = await prepare(await handPlan());
    const to = poisoned([24, 16]);
    await exchange.dispatch({
      payloads: [{ rowBytes: 4, dtype: 'f32', from: [f32(1, 10, 100), f32(1000)], to }],
      scale: [f32(0.5, 2, 3, -1, 9, 0.25), f32(4, 5)],
    });
    expect(to.map(floats)).toEqual([
      [0.5, -10, 5000, 0, 25, 0],
      [2, 4000, 30, 0],
    ]);
  });

  it('rounds once to the dtype, keeps -0 and subnormals, and makes a NaN canonical', async () => {
    const exchange = await prepare(await planOf([[[0]]], 1, { experts: 1 }));
    const scaled = async (dtype: 'f32' | 'f16' | 'bf16', row: Uint8Array, weight: number) => {
      const to = poisoned([row.length]);
      const payload = { rowBytes: row.length, dtype, from: [row], to };
      await exchange.dispatch({ payloads: [payload], scale: [f32(weight)] });
      return to[0]!;
    };
    // (1 + 2^-7) * 1.5 lies halfway between 0x3fc1 and 0x3fc2.
    expect(halves(await scaled('bf16', u16(0x3f81, 0x8000, 0x7fa1, 0x0001, 0xff80), 1.5))).toEqual([
      0x3fc2, 0x8000, 0x7fc0, 0x0002, 0xff80,
    ]);
    expect(halves(await scaled('f16', u16(0x3c01, 0x8000, 0x7d01, 0x0001, 0x7bff), 1.5))).toEqual([
      0x3e02, 0x8000, 0x7e00, 0x0002, 0x7c00,
    ]);
    expect(words(await scaled('f32', u32(0x80000000, 0x7fa12345, 0x00000002, 0x7f800000), 0.5))).toEqual([
      0x80000000, 0x7fc00000, 0x00000001, 0x7f800000,
    ]);
    // Infinity times zero.
    expect(words(await scaled('f32', u32(0xff800000), 0))).toEqual([0x7fc00000]);
  });

  it('leaves payloads per entry unscaled', async () => {
    const exchange = await prepare(await handPlan());
    const to = poisoned([6, 4]);
    await exchange.dispatch({
      payloads: [
        { rowBytes: 1, per: 'entry', from: [Uint8Array.of(1, 2, 3, 4, 5, 6), Uint8Array.of(7, 8)], to },
      ],
      scale: [f32(2, 2, 2, 2, 2, 2), f32(2, 2)],
    });
    expect(to.map(bytesOf)).toEqual([
      [1, 4, 8, 0, 6, 0],
      [2, 7, 3, 0],
    ]);
  });
});

describe('combine', () => {
  // A distinct power of two per row; NaN in the padding, which nobody may read.
  const Y = [f32(1, 2, 4, Number.NaN, 8, Number.NaN), f32(16, 32, 64, Number.NaN)];

  it('adds the rows of a token, unweighted', async () => {
    const out = await combined(await handPlan(), 'f32', 4, Y);
    // r0: t0 = row 0 of rank 0 + row 0 of rank 1; t1 = row 2 of rank 1 + row 1 of rank 0; t2 has only expert 1.
    expect(out.map(floats)).toEqual([[1 + 16, 64 + 2, 8], [32 + 4]]);
  });

  it('weighs each row with the weight of its entry', async () => {
    const out = await combined(await handPlan(), 'f32', 4, Y, [
      f32(3, 0.5, 2, -1, Number.NaN, 0.25),
      f32(1, 10),
    ]);
    expect(out.map(floats)).toEqual([[3 + 8, 128 - 2, 2], [32 + 40]]);
  });

  it('leaves dropped entries out', async () => {
    const y = [f32(1, 2, 8, Number.NaN), f32(16, 32, 64, Number.NaN)];
    const weights = [f32(1, 1, 1, 1, 1, 1), f32(1, Number.NaN)];
    expect((await combined(await handPlan(2), 'f32', 4, y, weights)).map(floats)).toEqual([
      [17, 66, 8],
      [32],
    ]);
  });

  it('gives +0 to tokens without entries and writes nothing else', async () => {
    const plan = await planOf(
      [
        [
          [-1, -1],
          [1, -1],
        ],
        [],
      ],
      2,
      { experts: 2 },
    );
    const exchange = await prepare(plan);
    const to = poisoned([8, 0], 4);
    await exchange.combine({ dtype: 'f32', rowBytes: 4, from: [f32(), f32(7)], to });
    expect(words(to[0]!)).toEqual([0, 0x40e00000, 0xaaaaaaaa]);
    expect(words(to[1]!)).toEqual([0xaaaaaaaa]);
  });

  it('reads and writes at odd addresses', async () => {
    const odd = (bytes: Uint8Array) => {
      const memory = new Uint8Array(bytes.length + 1);
      memory.set(bytes, 1);
      return memory.subarray(1);
    };
    const weights = [odd(f32(1, 1, 1, 1, 1, 1)), odd(f32(1, 1))];
    const exchange = await prepare(await handPlan());
    const to = [odd(new Uint8Array(12)), odd(new Uint8Array(4))];
    await exchange.combine({ dtype: 'f32', rowBytes: 4, from: Y.map(odd), to, weights });
    expect(to.map(floats)).toEqual([[17, 66, 8], [36]]);
  });
});

describe('the arithmetic of combine', () => {
  // One rank; the single token chooses `ids`, in which position is k. Row of expert e is y[e].
  const oneToken = async (
    dtype: 'f32' | 'f16' | 'bf16',
    ids: number[],
    y: Uint8Array,
    weights?: Uint8Array,
  ): Promise<Uint8Array> => {
    const plan = await planOf([[ids]], ids.length, { experts: ids.length });
    const rowBytes = y.length / ids.length;
    return (await combined(plan, dtype, rowBytes, [y], weights && [weights]))[0]!;
  };

  it('adds in ascending k, whatever the order of the experts', async () => {
    // k order: 1e8 - 1e8 + 1 = 1. By expert: -1e8 + 1 + 1e8 = 0; from the last k: 1 - 1e8 + 1e8 = 0.
    const y = f32(-1e8, 1, 1e8);
    expect(floats(await oneToken('f32', [2, 0, 1], y))).toEqual([1]);
    expect(floats(await oneToken('f32', [2, 0, 1], y, f32(1, 1, 1)))).toEqual([1]);
    expect(floats(await oneToken('f32', [0, 1, 2], y))).toEqual([0]);
  });

  it('rounds the product before it adds', async () => {
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 ties to 1 + 2^-11; a fused multiply-add would leave 2^-24.
    const y = f32(-(1 + 2 ** -11), 1 + 2 ** -12);
    expect(floats(await oneToken('f32', [0, 1], y, f32(1, 1 + 2 ** -12)))).toEqual([0]);
  });

  it('rounds to the payload dtype once, at the end', async () => {
    // 1 + 2^-8 + 2^-8 in bf16, whose step at 1 is 2^-7: rounding after every addition would stay at 1.
    expect(halves(await oneToken('bf16', [0, 1, 2], u16(0x3f80, 0x3b80, 0x3b80)))).toEqual([0x3f81]);
    // The same in f16 with steps of 2^-10: 2^-11 is 0x1000.
    expect(halves(await oneToken('f16', [0, 1, 2], u16(0x3c00, 0x1000, 0x1000)))).toEqual([0x3c01]);
  });

  it('starts from +0, so that a lone -0 becomes +0', async () => {
    expect(words(await oneToken('f32', [0], u32(0x80000000)))).toEqual([0]);
    expect(words(await oneToken('f32', [0], u32(0x80000000), f32(1)))).toEqual([0]);
    expect(halves(await oneToken('f16', [0], u16(0x8000)))).toEqual([0]);
    expect(halves(await oneToken('bf16', [0], u16(0x8000)))).toEqual([0]);
  });

  it('keeps subnormals', async () => {
    expect(words(await oneToken('f32', [0, 1], u32(1, 2)))).toEqual([3]);
    expect(halves(await oneToken('f16', [0, 1], u16(1, 0x8003)))).toEqual([0x8002]);
    expect(halves(await oneToken('bf16', [0, 1], u16(1, 2)))).toEqual([3]);
  });

  it('gives the canonical NaN and keeps infinities', async () => {
    expect(words(await oneToken('f32', [0], u32(0xffa12345)))).toEqual([0x7fc00000]);
    expect(words(await oneToken('f32', [0, 1], u32(0x7f800000, 0xff800000)))).toEqual([0x7fc00000]);
    expect(words(await oneToken('f32', [0, 1], u32(0xff800000, 0x3f800000)))).toEqual([0xff800000]);
    expect(halves(await oneToken('f16', [0], u16(0xfc01)))).toEqual([0x7e00]);
    expect(halves(await oneToken('bf16', [0, 1], u16(0x7f80, 0xff80)))).toEqual([0x7fc0]);
    // The largest f16 twice overflows the dtype, but not the float32 sum.
    expect(halves(await oneToken('f16', [0, 1], u16(0x7bff, 0x7bff)))).toEqual([0x7c00]);
    expect(halves(await oneToken('f16', [0, 1, 2], u16(0x7bff, 0x7bff, 0xfbff)))).toEqual([0x7bff]);
  });

  it.each([2, 4, 8])('a round trip with weights 1/%i returns the input', async (topk) => {
    const ranks = 4;
    const tokens = 5;
    const routing = Array.from({ length: ranks }, (_, rank) =>
      Array.from({ length: tokens }, (_, token) =>
        Array.from({ length: topk }, (_, k) => (3 * rank + 5 * token + 7 * k) % 16),
      ),
    );
    const plan = await planOf(routing, topk, { experts: 16, align: 4 });
    const exchange = await prepare(plan);
    const x = routing.map((_, rank) =>
      f32(...Array.from({ length: tokens * 3 }, (_, i) => 16 * rank + i - 7)),
    );
    const weights = routing.map(() => f32(...new Array<number>(tokens * topk).fill(1 / topk)));
    const received = poisoned(recvSizes(plan, 12));
    const out = poisoned(routing.map(() => tokens * 12));
    await exchange.dispatch({ payloads: [{ rowBytes: 12, from: x, to: received }] });
    await exchange.combine({ dtype: 'f32', rowBytes: 12, from: received, to: out, weights });
    expect(out.map(bytesOf)).toEqual(x.map(bytesOf));
    // The gradient of dispatch is an unweighted combine: topk times the row.
    await exchange.combine({ dtype: 'f32', rowBytes: 12, from: received, to: out });
    expect(out.map(floats)).toEqual(x.map((row) => floats(row).map((value) => topk * value)));
  });
});

describe('the gradient of the weights', () => {
  it('is the dot product of each entry, and 0 where masked or dropped', async () => {
    const exchange = await prepare(await handPlan(2));
    const to = poisoned([24, 8], 4);
    // Two elements a row; capacity 2 drops r1t0k1.
    await exchange.weightGradient({
      dtype: 'f32',
      rowBytes: 8,
      outputGradient: [f32(1, 2, 3, 4, 5, 6), f32(7, 8)],
      from: [
        f32(1, 10, 2, 20, 3, 30, Number.NaN, Number.NaN),
        f32(4, 40, 5, 50, 6, 60, Number.NaN, Number.NaN),
      ],
      to,
    });
    expect(floats(to[0]!.subarray(0, 24))).toEqual([1 + 20, 4 + 80, 18 + 240, 6 + 80, 0, 15 + 180]);
    expect(floats(to[1]!.subarray(0, 8))).toEqual([35 + 400, 0]);
    expect(to.map((buffer) => bytesOf(buffer.subarray(-4)))).toEqual(
      new Array(2).fill([POISON, POISON, POISON, POISON]),
    );
  });

  const dot = async (elements: Record<number, number>, length: number, factor = 1): Promise<number[]> => {
    const exchange = await prepare(await planOf([[[0]]], 1, { experts: 1 }));
    const y = Array.from({ length }, (_, i) => elements[i] ?? 0);
    const to = poisoned([4]);
    await exchange.weightGradient({
      dtype: 'f32',
      rowBytes: 4 * length,
      outputGradient: [f32(...new Array<number>(length).fill(factor))],
      from: [f32(...y)],
      to,
    });
    return floats(to[0]!);
  };

  it('adds elements 32 apart in one lane first', async () => {
    // Lane 0 takes 1e8 and -1e8, lane 1 takes 1. One element after the other would lose the 1.
    expect(await dot({ 0: 1e8, 1: 1, 32: -1e8 }, 33)).toEqual([1]);
    // Inside a lane the order ascends: 1 + 1e8 - 1e8 = 0.
    expect(await dot({ 3: 1, 35: 1e8, 67: -1e8 }, 68)).toEqual([0]);
  });

  it.each([16, 8, 4, 2, 1])('adds lanes pairwise at distance 16, 8, 4, 2, 1: %i', async (distance) => {
    // Lanes 0 and `distance` cancel first; the 1 waits in a lane that joins lane 0 one step later. Nothing is later
    // than distance 1: there the 1 comes from lane 2, one step too early, and is lost.
    const smaller = distance / 2;
    if (distance === 1) expect(await dot({ 0: 1e8, 1: -1e8, 2: 1 }, 32)).toEqual([0]);
    else expect(await dot({ 0: 1e8, [distance]: -1e8, [smaller]: 1 }, 32)).toEqual([1]);
  });

  it('rounds each product, and makes a NaN canonical', async () => {
    // The square of 1 + 2^-12 ties to 1 + 2^-11, as in combine.
    const exchange = await prepare(await planOf([[[0]]], 1, { experts: 1 }));
    const to = poisoned([4]);
    const row = new Float32Array(33);
    const y = new Float32Array(33);
    [row[0], y[0], row[32], y[32]] = [1, -(1 + 2 ** -11), 1 + 2 ** -12, 1 + 2 ** -12];
    await exchange.weightGradient({ dtype: 'f32', rowBytes: 132, outputGradient: [row], from: [y], to });
    expect(floats(to[0]!)).toEqual([0]);
    y[5] = Number.POSITIVE_INFINITY;
    await exchange.weightGradient({ dtype: 'f32', rowBytes: 132, outputGradient: [row], from: [y], to });
    expect(words(to[0]!)).toEqual([0x7fc00000]);
  });

  it('takes bf16 and f16 rows and gives float32', async () => {
    const exchange = await prepare(await planOf([[[0]]], 1, { experts: 1 }));
    for (const [dtype, one, half] of [
      ['bf16', 0x3f80, 0x3f00],
      ['f16', 0x3c00, 0x3800],
    ] as const) {
      const to = poisoned([4]);
      await exchange.weightGradient({
        dtype,
        rowBytes: 6,
        outputGradient: [u16(one, half, half)],
        from: [u16(half, half, one)],
        to,
      });
      expect(floats(to[0]!)).toEqual([0.5 + 0.25 + 0.5]);
    }
  });
});

describe('both gradients of a combine', () => {
  it('scale each copy of the output gradient, and are the dot products', async () => {
    const exchange = await prepare(await handPlan(2));
    const [to, weightsGradient, origins] = [poisoned([32, 32]), poisoned([24, 8]), poisoned([48, 48])];
    const report = await exchange.combineGradient({
      ...{ dtype: 'f32', rowBytes: 8 },
      outputGradient: [f32(1, 2, 3, 4, 5, 6), f32(7, 8)],
      from: [f32(1, 10, 2, 20, 3, 30, Number.NaN, 0), f32(4, 40, 5, 50, 6, 60, Number.NaN, 0)],
      weights: [f32(2, 3, 4, 5, 99, 7), f32(8, 99)],
      ...{ to, weightsGradient, origins },
    });
    expect(to.map(floats)).toEqual([
      [2, 4, 15, 20, 35, 42, 0, 0],
      [3, 6, 56, 64, 12, 16, 0, 0],
    ]);
    expect(weightsGradient.map(floats)).toEqual([
      [21, 84, 258, 86, 0, 195],
      [435, 0],
    ]);
    expect(origins.map(ints)).toEqual([
      [0, 0, 0, 0, 1, 1, 0, 2, 1, -1, -1, -1],
      [0, 0, 1, 1, 0, 0, 0, 1, 0, -1, -1, -1],
    ]);
    // Four tokens and six rows of experts are read; six slots and eight gradients of weights are written.
    expect(report).toMatchObject({ bytesRead: 10 * 8, bytesWritten: 6 * 8 + 8 * 4 });
  });
});
