// Conversions between payload dtypes and float32, bit-exact with every native backend: subnormals are kept,
// rounding is to nearest even, and a NaN becomes the dtype's canonical quiet NaN.

import { FuscoError } from '../planner/errors.ts';
import type { Dtype } from '../planner/spec.ts';

/** Dtypes that combine can add up. */
export type FloatDtype = 'f32' | 'f16' | 'bf16';

export const CANONICAL_NAN: Record<FloatDtype, number> = { f32: 0x7fc00000, f16: 0x7e00, bf16: 0x7fc0 };

const scratchBits = new Uint32Array(1);
const scratchFloat = new Float32Array(scratchBits.buffer);

export function floatFromBits(bits: number): number {
  scratchBits[0] = bits;
  return scratchFloat[0]!;
}

/** The bits of a float32; any NaN gives the canonical one. */
export function bitsFromFloat(value: number): number {
  if (Number.isNaN(value)) return CANONICAL_NAN.f32;
  scratchFloat[0] = value;
  return scratchBits[0]!;
}

export function bf16ToFloat(bits: number): number {
  return floatFromBits((bits << 16) >>> 0);
}

/** Round to nearest even: add just under half of the last kept place, or exactly half where that place is odd. */
export function floatToBf16(value: number): number {
  if (Number.isNaN(value)) return CANONICAL_NAN.bf16;
  const bits = bitsFromFloat(value);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

export function f16ToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** Rounds the exact value, which a float32 holds in double precision, to the grid of its binade. */
export function floatToF16(value: number): number {
  if (Number.isNaN(value)) return CANONICAL_NAN.f16;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  // log2 may round up to the next binade just below it; the step is then one too coarse.
  const binade = 2 ** exponent > size && exponent > -14 ? exponent - 1 : exponent;
  const steps = roundHalfEven(size / 2 ** (binade - 10));
  // Subnormals have the exponent field 0 and share the grid of the lowest binade; a carry moves up by itself.
  return binade === -14 ? sign | steps : sign | (((binade + 14) << 10) + steps);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest > 0.5 || (rest === 0.5 && floor % 2 === 1)) return floor + 1;
  return floor;
}

/** Reads and writes rows of one dtype as float32. */
export interface RowCodec {
  /** Elements of one row. */
  readonly elements: number;
  /** Decodes row `row` of `bytes` into `out`. */
  load(bytes: Uint8Array, row: number, out: Float32Array): void;
  /** Rounds `values` once to the dtype and stores them as row `row`. */
  store(values: Float32Array, bytes: Uint8Array, row: number): void;
}

function view16(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The codec of rows of `rowBytes` bytes. Throws E_DTYPE for dtypes that cannot be added up, or a ragged row. */
export function rowCodec(dtype: Dtype, rowBytes: number): RowCodec {
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') {
    throw new FuscoError('E_DTYPE', `${dtype} rows cannot be added up or scaled`, { value: dtype });
  }
  const size = dtype === 'f32' ? 4 : 2;
  if (rowBytes % size !== 0) {
    throw new FuscoError('E_DTYPE', `rows of ${rowBytes} bytes are not whole ${dtype} elements`, {
      value: rowBytes,
    });
  }
  const elements = rowBytes / size;
  const decode = dtype === 'bf16' ? bf16ToFloat : f16ToFloat;
  const encode = dtype === 'bf16' ? floatToBf16 : floatToF16;
  if (size === 2) {
    return {
      elements,
      load: (bytes, row, out) => {
        const from = view16(bytes);
        for (let i = 0; i < elements; i++) out[i] = decode(from.getUint16(row * rowBytes + 2 * i, true));
      },
      store: (values, bytes, row) => {
        const to = view16(bytes);
        for (let i = 0; i < elements; i++) to.setUint16(row * rowBytes + 2 * i, encode(values[i]!), true);
      },
    };
  }
  return {
    elements,
    load: (bytes, row, out) => {
      const from = view16(bytes);
      for (let i = 0; i < elements; i++) out[i] = from.getFloat32(row * rowBytes + 4 * i, true);
    },
    store: (values, bytes, row) => {
      const to = view16(bytes);
      for (let i = 0; i < elements; i++) {
        to.setUint32(row * rowBytes + 4 * i, bitsFromFloat(values[i]!), true);
      }
    },
  };
}
