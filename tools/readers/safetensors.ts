// Safetensors: named arrays behind a JSON header.
//
//   +---+------------------------------------------------------------------------------------+
//   | 0 | u64 header length, little-endian                                                   |
//   | 8 | {"NAME": {"dtype": "I32", "shape": [2, 3], "data_offsets": [0, 24]}, …}, spaces     |
//   |   | the elements of all arrays, without gaps, little-endian, in C order                |
//   +---+------------------------------------------------------------------------------------+

import { refuse } from './file.ts';
import { isCount, parseJson, shown } from './json.ts';
import { itemBytes, type NdArray, type NdDtype, viewElements } from './npy.ts';

/** The representation of dtypes that NumPy does not have. */
const DECLARED: ReadonlyMap<unknown, 'bool' | 'float'> = new Map([
  ['BOOL', 'bool'],
  ['BF16', 'float'],
  ['F8_E4M3', 'float'],
  ['F8_E5M2', 'float'],
]);
const DTYPES: ReadonlyMap<unknown, NdDtype> = new Map([
  ['I8', 'i8'],
  ['U8', 'u8'],
  ['BOOL', 'u8'],
  ['F8_E4M3', 'u8'],
  ['F8_E5M2', 'u8'],
  ['I16', 'i16'],
  ['U16', 'u16'],
  ['BF16', 'u16'],
  ['F16', 'f16'],
  ['I32', 'i32'],
  ['U32', 'u32'],
  ['F32', 'f32'],
  ['I64', 'i64'],
  ['U64', 'u64'],
  ['F64', 'f64'],
]);
/** The limit of the format for its header. */
const MAX_HEADER_BYTES = 100_000_000;
const METADATA = '__metadata__';

function headerBytes(bytes: Uint8Array): number {
  if (bytes.length < 8) return -1;
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  return length >= 2 && length <= MAX_HEADER_BYTES && 8 + length <= bytes.length ? length : -1;
}

/** True for bytes that start like a safetensors file: the length of a header, then its brace. */
export function isSafetensors(bytes: Uint8Array): boolean {
  return bytes[8] === 0x7b && bytes[7] === 0;
}

interface Entry {
  name: string;
  declared: 'bool' | 'float' | undefined;
  dtype: NdDtype;
  shape: number[];
  start: number;
  end: number;
}

function readEntry(name: string, value: unknown, path: string): Entry {
  const { dtype: text, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  const label = JSON.stringify(name.slice(0, 60));
  const dtype = DTYPES.get(text);
  if (dtype === undefined)
    refuse(path, `${label} has dtype ${shown(text)}, not one of ${[...DTYPES.keys()].join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isCount) || shape.length > 16)
    refuse(path, `${label} has no shape`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    refuse(path, `${label} has no data_offsets`);
  const [start, end] = offsets as [number, number];
  const size = shape.reduce((product, n) => product * n, itemBytes(dtype));
  if (end - start !== size) refuse(path, `${label} takes ${size} bytes, its offsets ${end - start}`);
  return { name, declared: DECLARED.get(text), dtype, shape, start, end };
}

/**
 * The arrays of a file by name, in the order of their bytes: views of `bytes` where those are aligned. bf16 is returned
 * as u16, fp8 and booleans as u8, marked with their original dtype.
 *
 * @throws FuscoError E_FOREIGN for damage, gaps, overlaps and dtypes that are not listed; E_MEMORY
 */
export function readSafetensors(bytes: Uint8Array, path: string): Map<string, NdArray> {
  const length = headerBytes(bytes);
  if (length < 0) refuse(path, 'not a safetensors file, or truncated: its header extends beyond the file');
  let header: unknown;
  try {
    header = parseJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  } catch (cause) {
    refuse(path, `the header is not JSON: ${(cause as Error).message}`, cause);
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header))
    refuse(path, 'the header is not an object');
  const entries = Object.entries(header)
    .filter(([name]) => name !== METADATA)
    .map(([name, value]) => readEntry(name, value, path))
    .sort((a, b) => a.start - b.start || a.end - b.end);
  const body = bytes.subarray(8 + length);
  const arrays = new Map<string, NdArray>();
  let at = 0;
  for (const { name, declared, dtype, shape, start, end } of entries) {
    if (start !== at || end > body.length) {
      const label = JSON.stringify(name.slice(0, 60));
      refuse(path, `the bytes of ${label} overlap, leave a gap or leave the file`);
    }
    const array = viewElements(dtype, shape, body.subarray(start, end), path);
    arrays.set(name, declared === undefined ? array : { ...array, declared });
    at = end;
  }
  if (at !== body.length) refuse(path, `${body.length - at} bytes follow the last array`);
  return arrays;
}
