// Rows as e4m3 codes with one float32 scale for every 128 elements, as in DeepEP's tests (per_token_cast_to_fp8 and
// per_token_cast_back). Native versions are compared with this one, bit for bit.
//
// e4m3 is the finite kind (E4M3FN): sign, 4 bits of exponent with bias 7, 3 of fraction; no infinities, one NaN per
// sign, 448 the largest number, 2^-9 the smallest. Of a block with the largest size a, never below 1e-4:
//
//   scale = a / 448        code = e4m3(value * (448 / a))        value = code * scale
//
// each operation rounded to float32, then once to e4m3 or the row's dtype. If a block contains a NaN, its scale and codes
// are NaN.

import { checkInteger } from '../../planner/errors.ts';
import { MAX_ROW_BYTES, MAX_ROWS } from '../../planner/format/layout.ts';
import { viewOf } from '../memory.ts';
import { bitsFromFloat, type FloatDtype, floatFromBits, rowCodec } from '../numeric.ts';

/** Elements that share a scale; the last block of a row may have fewer. */
export const FP8_BLOCK = 128;
/** The largest number of e4m3. */
const E4M3_MAX = 448;
/** The code of NaN that every conversion gives; 0xff is read as NaN as well. */
export const E4M3_NAN = 0x7f;
/** Blocks are scaled as if their largest size were at least this much. */
const FP8_MIN_SIZE = Math.fround(1e-4);

/** Scales of a row of `hidden` elements. */
export function scaleBlocks(hidden: number): number {
  return Math.ceil(hidden / FP8_BLOCK);
}

/** The number that a code represents; all of them are exact in float32. */
export function e4m3ToFloat(code: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const exponent = (code >>> 3) & 15;
  const fraction = code & 7;
  if (exponent === 15 && fraction === 7) return Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** -9;
  return sign * (8 + fraction) * 2 ** (exponent - 10);
}

/**
 * The code of a float32, rounded to nearest even. Numbers beyond 464 (halfway to the next number, if there were one) and
 * infinities become NaN.
 */
export function floatToE4m3(value: number): number {
  const bits = bitsFromFloat(value);
  const sign = (bits >>> 24) & 0x80;
  const size = bits & 0x7fffffff;
  if (size > 0x43e80000) return E4M3_NAN;
  // Below 2^-6 the grid is 2^-9. Adding 2^14, whose last place is 2^-9, rounds to it; the low bits are the code.
  if (size < 0x3c800000) {
    return sign | (bitsFromFloat(Math.fround(floatFromBits(size) + 2 ** 14)) - 0x46800000);
  }
  const rounded = size + 0x7ffff + ((size >>> 20) & 1) - (120 << 23);
  return sign | (rounded >>> 20);
}

/** Rows to and from fp8. Buffers may be larger than stated. */
export interface Fp8Rows {
  /** Dtype of the rows. */
  readonly dtype: FloatDtype;
  readonly rows: number;
  /** Elements of one row. */
  readonly hidden: number;
}

function openRows(
  { dtype, rows, hidden }: Fp8Rows,
  values: ArrayBufferView,
  codes: ArrayBufferView,
  scales: ArrayBufferView,
) {
  checkInteger('rows', rows, 0, MAX_ROWS);
  const size = dtype === 'f32' ? 4 : 2;
  const rowBytes = size * checkInteger('hidden', hidden, 1, MAX_ROW_BYTES / size);
  const codec = rowCodec(dtype, rowBytes);
  return {
    codec,
    values: viewOf('values', values, rows * rowBytes, dtype),
    codes: viewOf('codes', codes, rows * hidden, 'fp8'),
    scales: viewOf('scales', scales, 4 * rows * scaleBlocks(hidden), 'f32'),
  };
}

/** The largest size of a block; NaN where it holds one. */
function blockSize(row: Float32Array, begin: number, end: number): number {
  let size = FP8_MIN_SIZE;
  for (let i = begin; i < end; i++) {
    const value = Math.abs(row[i]!);
    if (Number.isNaN(value)) return Number.NaN;
    if (value > size) size = value;
  }
  return size;
}

/**
 * Rounds rows to fp8.
 *
 * @param values [rows, hidden] in `dtype`
 * @param codes u8 [rows, hidden], written
 * @param scales f32 [rows, ceil(hidden / 128)], written
 * @throws FuscoError E_OPTION, E_DTYPE, E_BUFFER
 */
export function quantizeRows(
  shape: Fp8Rows,
  values: ArrayBufferView,
  codes: ArrayBufferView,
  scales: ArrayBufferView,
): void {
  const open = openRows(shape, values, codes, scales);
  const { rows, hidden } = shape;
  const row = new Float32Array(hidden);
  let block = 0;
  for (let r = 0; r < rows; r++) {
    open.codec.load(open.values, r, row);
    for (let begin = 0; begin < hidden; begin += FP8_BLOCK, block++) {
      const end = Math.min(hidden, begin + FP8_BLOCK);
      const size = blockSize(row, begin, end);
      const factor = Math.fround(E4M3_MAX / size);
      open.scales.setUint32(4 * block, bitsFromFloat(Math.fround(size / E4M3_MAX)), true);
      for (let i = begin; i < end; i++) {
        open.codes.setUint8(r * hidden + i, floatToE4m3(Math.fround(row[i]! * factor)));
      }
    }
  }
}

/** The inverse of quantizeRows: code times scale, rounded once to `dtype`. */
export function dequantizeRows(
  shape: Fp8Rows,
  codes: ArrayBufferView,
  scales: ArrayBufferView,
  values: ArrayBufferView,
): void {
  const open = openRows(shape, values, codes, scales);
  const { rows, hidden } = shape;
  const row = new Float32Array(hidden);
  const blocks = scaleBlocks(hidden);
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < hidden; i++) {
      const scale = open.scales.getFloat32(4 * (r * blocks + Math.floor(i / FP8_BLOCK)), true);
      row[i] = e4m3ToFloat(open.codes.getUint8(r * hidden + i)) * scale;
    }
    open.codec.store(row, open.values, r);
  }
}
