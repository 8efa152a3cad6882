import { afterEach, describe, expect, it } from 'vitest';
import type { BackendName } from '../../../executor/backends/types.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { findAddon } from '../../../executor/native/addon.ts';
import { bitsFromFloat, type FloatDtype, floatFromBits } from '../../../executor/numeric.ts';
import {
  dequantizeRows,
  E4M3_NAN,
  e4m3ToFloat,
  FP8_BLOCK,
  floatToE4m3,
  quantizeRows,
  scaleBlocks,
} from '../../../executor/training/fp8.ts';
import { poisoned } from '../../support/buffers.ts';
import { toRows } from '../../support/layerPass.ts';
import { specialRows } from '../../support/rowWork.ts';
import { randomFrom } from '../../support/workloads.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];

let group: Group | undefined;
afterEach(() => group?.close());

/** The numbers of codes 0x00 to 0x7e, by the definition: 7 steps of 2^-9, then 15 binades of 8 steps each. */
const SIZES = [
  ...[0, 1, 2, 3, 4, 5, 6, 7].map((step) => step / 512),
  ...Array.from({ length: 15 }, (_, binade) =>
    [8, 9, 10, 11, 12, 13, 14, 15].map((step) => (step * 2 ** binade) / 512),
  ).flat(),
].slice(0, 127);

const up = (value: number) => floatFromBits(bitsFromFloat(value) + 1);
const down = (value: number) => floatFromBits(bitsFromFloat(value) - 1);

describe('e4m3', () => {
  it('has 448 as its largest number and 2^-9 as its smallest', () => {
    expect([SIZES.length, SIZES[1], SIZES[8], SIZES[0x38], SIZES[126]]).toEqual([
      127,
      2 ** -9,
      2 ** -6,
      1,
      448,
    ]);
  });

  it('gives every one of the 256 codes its number', () => {
    for (let code = 0; code < 256; code++) {
      const size = (code & 0x7f) === 0x7f ? Number.NaN : SIZES[code & 0x7f]!;
      expect(e4m3ToFloat(code), `code ${code}`).toBe(code & 0x80 ? -size : size);
    }
  });

  it('gives every number its code, zeros with their sign, and NaN one code', () => {
    for (let code = 0; code < 256; code++) {
      const back = (code & 0x7f) === 0x7f ? E4M3_NAN : code;
      expect(floatToE4m3(e4m3ToFloat(code)), `code ${code}`).toBe(back);
    }
  });

  it('rounds to the nearest number, half way to the even code', () => {
    for (let code = 0; code < 126; code++) {
      const half = (SIZES[code]! + SIZES[code + 1]!) / 2;
      expect(Math.fround(half)).toBe(half);
      const even = code + (code & 1);
      expect([down(half), half, up(half)].map(floatToE4m3), `above ${code}`).toEqual([code, even, code + 1]);
      expect([down(half), half, up(half)].map((value) => floatToE4m3(-value))).toEqual(
        [code, even, code + 1].map((size) => size | 0x80),
      );
    }
  });

  it.each([
    ['464, half way to where the next number would be', 464, 0x7e],
    ['just above 464', up(464), E4M3_NAN],
    ['just below -464', -up(464), E4M3_NAN],
    ['the largest float32', floatFromBits(0x7f7fffff), E4M3_NAN],
    ['infinity', Number.POSITIVE_INFINITY, E4M3_NAN],
    ['-infinity', Number.NEGATIVE_INFINITY, E4M3_NAN],
    ['NaN', Number.NaN, E4M3_NAN],
    ['the smallest float32', floatFromBits(1), 0],
    ['a subnormal below zero', -floatFromBits(0x7fffff), 0x80],
  ])('of %s', (_, value, code) => {
    expect(floatToE4m3(value)).toBe(code);
  });
});

/** Rounds one row and gives codes and scales. */
function quantized(values: readonly number[]): { codes: number[]; scales: number[] } {
  const hidden = values.length;
  const codes = new Uint8Array(hidden);
  const scales = new Float32Array(scaleBlocks(hidden));
  quantizeRows({ dtype: 'f32', rows: 1, hidden }, Float32Array.from(values), codes, scales);
  return { codes: [...codes], scales: [...scales] };
}

describe('a block', () => {
  it('is scaled so that its largest size becomes 448', () => {
    // 448 / 7 = 64 is exact: 7 -> 448, 3.5 -> 224, -1 -> -64, 0.015625 -> 1.
    expect(quantized([7, 3.5, -1, 0.015625, 0])).toEqual({
      codes: [0x7e, 0x76, 0xe8, 0x38, 0],
      scales: [1 / 64],
    });
  });

  it('of zeros, or of less than 1e-4, is scaled as if its largest size were 1e-4', () => {
    const scale = Math.fround(Math.fround(1e-4) / 448);
    expect(quantized([0, -0])).toEqual({ codes: [0, 0x80], scales: [scale] });
    expect(quantized([5e-5]).scales).toEqual([scale]);
  });

  it('has 128 elements, the last one of a row the rest', () => {
    const row = [...new Array(FP8_BLOCK).fill(448), 1];
    const { codes, scales } = quantized(row);
    expect(scales).toEqual([1, Math.fround(1 / 448)]);
    expect(codes).toEqual(new Array(FP8_BLOCK + 1).fill(0x7e));
    expect([1, 127, 128, 129, 256].map(scaleBlocks)).toEqual([1, 1, 1, 2, 2]);
  });

  it('with a NaN is NaN, its neighbours are not', () => {
    const row = new Array(2 * FP8_BLOCK).fill(448);
    row[5] = Number.NaN;
    const { codes, scales } = quantized(row);
    expect(scales).toEqual([Number.NaN, 1]);
    expect(codes).toEqual([...new Array(FP8_BLOCK).fill(E4M3_NAN), ...new Array(FP8_BLOCK).fill(0x7e)]);
  });

  it('with an infinity keeps nothing of its numbers', () => {
    expect(quantized([Number.NEGATIVE_INFINITY, 2])).toEqual({
      codes: [E4M3_NAN, 0],
      scales: [Number.POSITIVE_INFINITY],
    });
  });

  it('comes back within half a step of e4m3', () => {
    const random = randomFrom(1);
    const values = Float32Array.from(
      { length: 1000 },
      () => (random() - 0.5) * 2 ** Math.floor(8 * random()),
    );
    const shape = { dtype: 'f32', rows: 1, hidden: 1000 } as const;
    const codes = new Uint8Array(1000);
    const scales = new Float32Array(8);
    const back = new Float32Array(1000);
    quantizeRows(shape, values, codes, scales);
    dequantizeRows(shape, codes, scales, back);
    values.forEach((value, i) => {
      // Half of 2^-3 of the value, or of 2^-9 of the scale; a hair more for the roundings to float32.
      const bound = Math.max(Math.abs(value) / 16, scales[Math.floor(i / FP8_BLOCK)]! / 1024) * 1.0001;
      expect(Math.abs(back[i]! - value), `element ${i}`).toBeLessThanOrEqual(bound);
    });
  });
});

describe.each(BACKENDS)('rows on %s', (backend) => {
  it.each(['f32', 'f16', 'bf16'] as FloatDtype[])('of %s are the bits that fp8.ts gives', async (dtype) => {
    group = await createGroup({ ranks: 2, backend });
    for (const hidden of [1, 16, 127, 128, 129, 1000]) {
      const rows = [13, 2];
      const values = rows.map((count) => toRows(dtype, specialRows(count * hidden)));
      const codes = poisoned(
        rows.map((count) => count * hidden),
        3,
      );
      // Scales at an odd address: nothing says that they are aligned.
      const scales = poisoned(rows.map((count) => 4 * count * scaleBlocks(hidden) + 1)).map((s) =>
        s.subarray(1),
      );
      const back = poisoned(values.map(({ length }) => length));
      await group.quantize({ dtype, hidden, rows, values, codes, scales });
      await group.dequantize({ dtype, hidden, rows, values: back, codes, scales });
      rows.forEach((count, rank) => {
        const wantedCodes = new Uint8Array(count * hidden + 3).fill(0xaa);
        const wantedScales = new Uint8Array(scales[rank]!.length);
        const wantedBack = new Uint8Array(back[rank]!.length);
        const shape = { dtype, rows: count, hidden };
        quantizeRows(shape, values[rank]!, wantedCodes, wantedScales);
        dequantizeRows(shape, wantedCodes, wantedScales, wantedBack);
        expect(codes[rank]).toEqual(wantedCodes);
        expect(scales[rank]).toEqual(wantedScales);
        expect(back[rank]).toEqual(wantedBack);
      });
    }
  });

  it('of every code and every scale come back alike', async () => {
    group = await createGroup({ ranks: 1, backend });
    const hidden = 256;
    const codes = Uint8Array.from({ length: 256 * 4 }, (_, i) => i);
    const scales = Float32Array.of(1, 1, 3e-41, Number.NaN, Number.POSITIVE_INFINITY, -2, 7e35, 0);
    const values = new Float32Array(4 * hidden);
    const call = { dtype: 'f32' as const, hidden, rows: [4] };
    await group.dequantize({ ...call, values: [values], codes: [codes], scales: [scales] });
    values.forEach((value, i) => {
      const wanted = Math.fround(e4m3ToFloat(i % 256) * scales[Math.floor(i / 128)]!);
      expect(value, `element ${i}`).toBe(wanted);
    });
  });

  it('are refused where a buffer is too small or missing, or a dtype cannot be rounded', async () => {
    group = await createGroup({ ranks: 1, backend });
    const call = {
      dtype: 'bf16' as FloatDtype,
      hidden: 130,
      rows: [3],
      values: [new Uint8Array(780)],
      codes: [new Uint8Array(390)],
      scales: [new Uint8Array(24)],
    };
    await group.quantize(call);
    const code = (expected: string) => expect.objectContaining({ name: 'FuscoError', code: expected });
    const refuse = async (change: object, expected: string) => {
      await expect(group!.quantize({ ...call, ...change })).rejects.toThrow(code(expected));
      await expect(group!.dequantize({ ...call, ...change })).rejects.toThrow(code(expected));
    };
    await refuse({ values: [new Uint8Array(779)] }, 'E_BUFFER');
    await refuse({ codes: [new Uint8Array(389)] }, 'E_BUFFER');
    await refuse({ scales: [new Uint8Array(23)] }, 'E_BUFFER');
    await refuse({ scales: [] }, 'E_BUFFER');
    await refuse({ codes: [call.values[0]!.subarray(390)] }, 'E_BUFFER');
    await refuse({ scales: [call.values[0]!.subarray(700, 724)] }, 'E_BUFFER');
    await refuse({ dtype: 'fp8' }, 'E_DTYPE');
    await refuse({ hidden: 0 }, 'E_OPTION');
    await refuse({ rows: [-1] }, 'E_OPTION');
    group.close();
    await refuse({}, 'E_CLOSED');
  });
});
