// Conversions between payload dtypes and float32, bit-exact with every native backend: subnormals are kept,
// rounding is to nearest even, and a NaN becomes the dtype's canonical quiet NaN.

import { FuscoError } from '../planner/errors.ts';
import type { Dtype } from '../planner/spec.ts';

/** Dtypes that combine can add. */
export type FloatDtype = 'f32' | 'f16' | 'bf16';

const CANONICAL_NAN: Record<FloatDtype, number> = { f32: 0x7fc00000, f16: 0x7e00, bf16: 0x7fc0 };

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

/** bf16 bits of numbers, rounded to nearest even: rows as calls take them, in a Uint16Array. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, floatToBf16);
}

/** The numbers that bf16 bits stand for. */
export function fromBf16(bits: ArrayLike<number>): Float32Array {
  return Float32Array.from(bits, bf16ToFloat);
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

/** Rounds the exact value of a float32, in double precision, to the grid of its binade. */
export function floatToF16(value: number): number {
  if (Number.isNaN(value)) return CANONICAL_NAN.f16;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  // log2 may round up to the next binade just below it; the grid is then too coarse.
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
  load(bytes: ArrayBufferView, row: number, out: Float32Array): void;
  /** Rounds `values` once to the dtype and stores them as row `row`. */
  store(values: Float32Array, bytes: ArrayBufferView, row: number): void;
}

/** Reads and writes one element of a row. */
interface ElementCodec {
  readonly bytes: number;
  load(view: DataView, at: number): number;
  store(view: DataView, at: number, value: number): void;
}

const ELEMENTS: Readonly<Record<FloatDtype, ElementCodec>> = {
  f32: {
    bytes: 4,
    load: (view, at) => view.getFloat32(at, true),
    store: (view, at, value) => view.setUint32(at, bitsFromFloat(value), true),
  },
  f16: {
    bytes: 2,
    load: (view, at) => f16ToFloat(view.getUint16(at, true)),
    store: (view, at, value) => view.setUint16(at, floatToF16(value), true),
  },
  bf16: {
    bytes: 2,
    load: (view, at) => bf16ToFloat(view.getUint16(at, true)),
    store: (view, at, value) => view.setUint16(at, floatToBf16(value), true),
  },
};

export function dataView({ buffer, byteOffset, byteLength }: ArrayBufferView): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** The codec of rows of `rowBytes` bytes. Throws E_DTYPE for dtypes that cannot be added up, or a ragged row. */
export function rowCodec(dtype: Dtype, rowBytes: number): RowCodec {
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') {
    throw new FuscoError('E_DTYPE', `${dtype} rows cannot be added up or scaled`, { value: dtype });
  }
  const { bytes: size, load, store } = ELEMENTS[dtype];
  if (rowBytes % size !== 0) {
    throw new FuscoError('E_DTYPE', `rows of ${rowBytes} bytes are not whole ${dtype} elements`, {
      value: rowBytes,
    });
  }
  const elements = rowBytes / size;
  return {
    elements,
    load: (bytes, row, out) => {
      const from = dataView(bytes);
      for (let i = 0; i < elements; i++) out[i] = load(from, row * rowBytes + i * size);
    },
    store: (values, bytes, row) => {
      const to = dataView(bytes);
      for (let i = 0; i < elements; i++) store(to, row * rowBytes + i * size, values[i]!);
    },
  };
}

/** Lanes of sums whose order is fixed: lane j adds elements j, j + 32, … */
const LANES = 32;

/** The sum of float32 values in a fixed order: in 32 lanes, which are then added at distance 16, 8, 4, 2, 1. */
export function laneSum(values: Float32Array): number {
  const lanes = new Float32Array(LANES);
  for (let i = 0; i < values.length; i++) lanes[i % LANES]! += values[i]!;
  for (let distance = LANES / 2; distance >= 1; distance /= 2) {
    for (let lane = 0; lane < distance; lane++) lanes[lane]! += lanes[lane + distance]!;
  }
  return lanes[0]!;
}
