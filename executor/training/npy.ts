// NumPy arrays in memory, and writing them as .npy files of version 1.0; tools/readers/npy.ts describes the format and reads it.

import { FuscoError } from '../../planner/errors.ts';
import { bytesOf } from '../memory.ts';

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
  /** As bits: not every supported version of Node has a Float16Array. */
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
  [D in NdDtype]: {
    readonly dtype: D;
    readonly shape: readonly number[];
    readonly data: NdData<D>;
    /** What the u8 or u16 elements represent according to the file: booleans, or numbers of bf16 or fp8. */
    readonly declared?: 'bool' | 'float';
  };
}[NdDtype];

/** The first bytes of a file. */
export const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const ALIGN = 64;
/** NumPy leaves room for the first dimension to grow to this many digits in place. */
const GROWTH_DIGITS = 21;

/** Bytes of one element. */
export function itemBytes(dtype: NdDtype): number {
  return ARRAY_TYPES[dtype].BYTES_PER_ELEMENT;
}

/** How a header names each dtype: byte order (none for one byte), kind and bytes, such as `<i4` and `|u1`. */
export const DESCR = Object.fromEntries(
  (Object.keys(ARRAY_TYPES) as NdDtype[]).map((dtype) => {
    const bytes = itemBytes(dtype);
    return [dtype, `${bytes === 1 ? '|' : '<'}${dtype[0]}${bytes}`];
  }),
) as Readonly<Record<NdDtype, string>>;

/** A shape as Python writes it: (), (3,), (2, 3). */
export function shapeText(shape: readonly number[]): string {
  return shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
}

/**
 * The chunks of one .npy file of version 1.0, byte-identical to those of numpy.save: the header, and the elements as they
 * are stored in `data`, without a copy.
 *
 * @param data any view of product(shape) elements of `dtype`, in C order and little-endian
 * @throws FuscoError E_SHAPE if the sizes disagree
 */
export function encodeNpy(dtype: NdDtype, shape: readonly number[], data: ArrayBufferView): Uint8Array[] {
  const size = shape.reduce((product, n) => product * n, itemBytes(dtype));
  if (size !== data.byteLength || shape.some((n) => !Number.isSafeInteger(n) || n < 0)) {
    throw new FuscoError('E_SHAPE', `${data.byteLength} bytes for ${dtype} ${shapeText(shape)}`, {
      hint: 'Give as many elements as the shape multiplies to.',
    });
  }
  const growth = shape.length === 0 ? 0 : Math.max(0, GROWTH_DIGITS - String(shape[0]).length);
  const dict = `{'descr': '${DESCR[dtype]}', 'fortran_order': False, 'shape': ${shapeText(shape)}, }${' '.repeat(growth)}`;
  // NumPy pads with 1 to 64 spaces, never with 0.
  const start = 10;
  const used = start + dict.length + 1;
  const padded = used + ALIGN - (used % ALIGN);
  const head = new Uint8Array(padded).fill(0x20);
  head.set(MAGIC);
  head.set([1, 0, (padded - start) & 0xff, (padded - start) >> 8], MAGIC.length);
  head.set(new TextEncoder().encode(dict), start);
  head[padded - 1] = 0x0a;
  return [head, bytesOf(data)];
}
