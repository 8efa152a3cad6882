// NumPy arrays in memory and their .npy files of version 1.0; tools/readers/npy.ts draws the format and reads it.

import { FuscoError } from '../../planner/errors.ts';

/** The typed array that holds the elements of each dtype. */
export const ARRAY_TYPES = {
  i8: Int8Array,
  u8: Uint8Array,
  i16: Int16Array,
  u16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  /** Bits; JavaScript has no float16 array that every supported version of Node knows. */
  f16: Uint16Array,
  f32: Float32Array,
  f64: Float64Array,
} as const;

/** Dtypes that are read and written. Users store bf16 as u16 and fp8 as u8. */
export type NdDtype = keyof typeof ARRAY_TYPES;

/** The typed array that holds the elements of each dtype. */
export type NdData<D extends NdDtype = NdDtype> = InstanceType<(typeof ARRAY_TYPES)[D]>;

/** An array in C order; `data` has as many elements as `shape` multiplies to. */
export type NdArray = {
  [D in NdDtype]: { readonly dtype: D; readonly shape: readonly number[]; readonly data: NdData<D> };
}[NdDtype];

/** How a header names each dtype. */
export const DESCR: Readonly<Record<NdDtype, string>> = {
  i8: '|i1',
  u8: '|u1',
  i16: '<i2',
  u16: '<u2',
  i32: '<i4',
  u32: '<u4',
  i64: '<i8',
  u64: '<u8',
  f16: '<f2',
  f32: '<f4',
  f64: '<f8',
};

/** The first bytes of a file. */
export const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const ALIGN = 64;
/** NumPy leaves room for the first dimension to grow to this many digits in place. */
const GROWTH_DIGITS = 21;

/** Bytes of one element. */
export function itemBytes(dtype: NdDtype): number {
  return ARRAY_TYPES[dtype].BYTES_PER_ELEMENT;
}

/** A shape as Python writes it: (), (3,), (2, 3). */
export function shapeText(shape: readonly number[]): string {
  return shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
}

/**
 * The chunks of one .npy file of version 1.0, byte for byte what numpy.save writes: the header, and the elements as
 * they lie in `data`, without a copy.
 *
 * @param data any view of product(shape) elements of `dtype`, in C order and little-endian
 * @throws FuscoError E_SHAPE where the sizes disagree
 */
export function encodeNpy(dtype: NdDtype, shape: readonly number[], data: ArrayBufferView): Uint8Array[] {
  const size = shape.reduce((product, n) => product * n, itemBytes(dtype));
  if (size !== data.byteLength || shape.some((n) => !Number.isSafeInteger(n) || n < 0)) {
    throw new FuscoError('E_SHAPE', `${data.byteLength} bytes for ${dtype} ${shapeText(shape)}`);
  }
  const growth = shape.length === 0 ? 0 : Math.max(0, GROWTH_DIGITS - String(shape[0]).length);
  const dict = `{'descr': '${DESCR[dtype]}', 'fortran_order': False, 'shape': ${shapeText(shape)}, }${' '.repeat(growth)}`;
  // NumPy pads by 1 to 64 spaces, never by none.
  const start = 10;
  const used = start + dict.length + 1;
  const padded = used + ALIGN - (used % ALIGN);
  const head = new Uint8Array(padded).fill(0x20);
  head.set(MAGIC);
  head.set([1, 0, (padded - start) & 0xff, (padded - start) >> 8], MAGIC.length);
  head.set(new TextEncoder().encode(dict), start);
  head[padded - 1] = 0x0a;
  return [head, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
}
