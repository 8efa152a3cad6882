// NumPy's .npy format, versions 1.0 to 3.0:
//
//   +------+------------------------------------------------------------------------------+
//   |    0 | 0x93 "NUMPY" | u8 major | u8 minor                                           |
//   |    8 | header length: u16 in version 1.0, u32 in 2.0 and 3.0, little-endian         |
//   |   10 | {'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }, spaces, newline |
//   |   64 | the elements in C order; 64 or a multiple of it                              |
//   +------+------------------------------------------------------------------------------+

import {
  ARRAY_TYPES,
  DESCR,
  itemBytes,
  MAGIC,
  type NdArray,
  type NdData,
  type NdDtype,
  shapeText,
} from '../../executor/training/npy.ts';
import { hex } from '../../planner/format/bytes.ts';
import { allocate, malformed } from './file.ts';

export * from '../../executor/training/npy.ts';

const DTYPES = new Map<string, NdDtype>(
  Object.entries(DESCR).map(([dtype, descr]) => [descr, dtype as NdDtype]),
);

/** The meaning of the other type characters of NumPy. */
const KINDS: Readonly<Record<string, string>> = {
  b: 'bool',
  c: 'complex',
  f: 'float',
  i: 'integer',
  m: 'timedelta',
  M: 'datetime',
  O: 'object',
  S: 'bytes',
  u: 'integer',
  U: 'unicode',
  V: 'raw bytes',
};

const MAX_HEADER_BYTES = 65535;
const MAX_NDIM = 64;
/** A short quotation of something from a file, on one line and without control characters. */
function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

interface Header {
  descr: string;
  fortran: boolean;
  shape: number[];
}

/** Reads the one Python literal that a header may be: a dict of a string, a bool and a tuple of integers. */
class HeaderParser {
  readonly #text: string;
  readonly #path: string;
  #at = 0;

  constructor(text: string, path: string) {
    this.#text = text;
    this.#path = path;
  }

  parse(): Header {
    const found: Partial<Header> = {};
    this.#expect(/\{/y, "'{'");
    while (this.#take(/\}/y) === undefined) {
      const key = this.#string();
      this.#expect(/:/y, "':'");
      if (key === 'descr' && found.descr === undefined) found.descr = this.#descr();
      else if (key === 'fortran_order' && found.fortran === undefined) found.fortran = this.#bool();
      else if (key === 'shape' && found.shape === undefined) found.shape = this.#shape();
      else malformed(this.#path, `the header has the unknown or repeated key ${quote(key)}`);
      if (this.#take(/,/y) === undefined) {
        this.#expect(/\}/y, "',' or '}'");
        break;
      }
    }
    if (!/^[ \n]*$/.test(this.#text.slice(this.#at))) this.#fail('nothing more');
    const { descr, fortran, shape } = found;
    if (descr === undefined || fortran === undefined || shape === undefined) {
      malformed(this.#path, "the header lacks one of 'descr', 'fortran_order', 'shape'");
    }
    return { descr, fortran, shape };
  }

  #fail(wanted: string): never {
    malformed(
      this.#path,
      `header byte ${this.#at}: expected ${wanted}, found ${quote(this.#text.slice(this.#at, this.#at + 20))}`,
    );
  }

  /** Skips blanks, then takes what the sticky pattern matches; undefined if it does not match. */
  #take(pattern: RegExp): string | undefined {
    while (this.#text[this.#at] === ' ' || this.#text[this.#at] === '\n') this.#at++;
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) return undefined;
    this.#at = pattern.lastIndex;
    return match[0];
  }

  #expect(pattern: RegExp, wanted: string): string {
    return this.#take(pattern) ?? this.#fail(wanted);
  }

  #string(): string {
    return this.#expect(/'[^'\\\n]*'|"[^"\\\n]*"/y, 'a string').slice(1, -1);
  }

  #bool(): boolean {
    return this.#expect(/True\b|False\b/y, 'True or False') === 'True';
  }

  #descr(): string {
    if (this.#take(/[[(]/y) !== undefined) {
      malformed(this.#path, `a structured dtype: ${quote(this.#text.slice(this.#at - 1))}`);
    }
    return this.#string();
  }

  #shape(): number[] {
    this.#expect(/\(/y, 'a tuple');
    const shape: number[] = [];
    while (this.#take(/\)/y) === undefined) {
      // Python 2 wrote long integers with an L.
      const digits = this.#expect(/-?(?:0|[1-9][0-9]*)\b|-?(?:0|[1-9][0-9]*)L\b/y, 'an integer');
      const size = Number.parseInt(digits, 10);
      if (digits.startsWith('-'))
        malformed(this.#path, `the shape has the negative dimension ${quote(digits)}`);
      if (!Number.isSafeInteger(size))
        malformed(this.#path, `the dimension ${quote(digits)} exceeds 2^53 - 1`);
      shape.push(size);
      if (shape.length > MAX_NDIM) malformed(this.#path, `the shape has more than ${MAX_NDIM} dimensions`);
      if (this.#take(/,/y) === undefined) {
        // (3) is an integer in Python, not a tuple.
        if (shape.length === 1) this.#fail("','");
        this.#expect(/\)/y, "',' or ')'");
        break;
      }
    }
    return shape;
  }
}

/**
 * Text of a header or a name. It does not use Node's Buffer, so that the viewer can read files in a browser with the same
 * code.
 */
export function decodeText(bytes: Uint8Array, isUtf8: boolean): string {
  if (isUtf8) return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  // The latin1 of TextDecoder is windows-1252.
  return String.fromCharCode(...bytes);
}

/** The text of the header and the offset of the first element; checks magic, version and lengths. */
function splitHeader(bytes: Uint8Array, path: string): { text: string; body: number } {
  if (bytes.length < 8 || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    const start = hex(bytes.subarray(0, 6));
    malformed(
      path,
      bytes.length === 0 ? 'the file is empty' : `not a .npy file: it starts with bytes ${start}`,
    );
  }
  const major = bytes[6]!;
  const minor = bytes[7]!;
  if (major < 1 || major > 3 || minor !== 0)
    malformed(path, `.npy version ${major}.${minor} is not 1.0, 2.0 or 3.0`);
  const start = major === 1 ? 10 : 12;
  if (bytes.length < start) malformed(path, `the header is truncated: ${bytes.length} bytes of ${start}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER_BYTES) malformed(path, `a header of ${length} bytes > ${MAX_HEADER_BYTES}`);
  const body = start + length;
  if (bytes.length < body) malformed(path, `the header is truncated: ${bytes.length} bytes of ${body}`);
  const text = decodeText(bytes.subarray(start, body), major === 3);
  return { text, body };
}

/** NumPy's booleans: a byte each. */
const BOOL = /^[|<=]?b1$/;

function dtypeOf(descr: string, path: string): NdDtype {
  if (BOOL.test(descr)) return 'u8';
  const dtype = DTYPES.get(descr) ?? DTYPES.get(descr.replace(/^<([iu]1)$/, '|$1'));
  if (dtype !== undefined) return dtype;
  const kind = KINDS[descr.replace(/^[<>|=]/, '')[0] ?? ''] ?? 'unknown';
  const order = descr.startsWith('>') ? 'big-endian ' : '';
  const known = Object.keys(DESCR).join(', ');
  const advice =
    kind === 'raw bytes' ? '; bf16 is stored as u16, fp8 as u8: view(numpy.uint16), view(numpy.uint8)' : '';
  return malformed(path, `dtype ${quote(descr)} (${order}${kind}) is not one of ${known}${advice}`);
}

/** Bytes of the elements. The product ignores dimensions of 0, as the check of NumPy does. */
function bodyBytes(shape: readonly number[], itemSize: number, path: string): number {
  let product = itemSize;
  for (const size of shape) {
    product *= Math.max(1, size);
    if (!Number.isSafeInteger(product))
      malformed(path, `shape ${quote(shapeText(shape))} exceeds 2^53 - 1 bytes`);
  }
  return shape.includes(0) ? 0 : product;
}

function copyOf(raw: Uint8Array, path: string): Uint8Array {
  const copy = allocate(raw.length, path);
  copy.set(raw);
  return copy;
}

/** Whether elements are integers: neither floats nor booleans, nor floats kept as bits. */
export function isInteger({ dtype, declared }: { dtype: NdDtype; declared?: string | undefined }): boolean {
  return !/^f/.test(dtype) && declared === undefined;
}

/** Little-endian elements as an array: a view if they are aligned in memory, else a copy. Throws E_MEMORY. */
export function viewElements(
  dtype: NdDtype,
  shape: readonly number[],
  bytes: Uint8Array,
  path: string,
): NdArray {
  const itemSize = itemBytes(dtype);
  const { buffer, byteOffset } = bytes.byteOffset % itemSize === 0 ? bytes : copyOf(bytes, path);
  const View = ARRAY_TYPES[dtype] as new (
    buffer: ArrayBufferLike,
    byteOffset: number,
    length: number,
  ) => NdData;
  return { dtype, shape, data: new View(buffer, byteOffset, bytes.length / itemSize) } as NdArray;
}

/**
 * The array in the bytes of one .npy file. `data` is a view of `bytes` where the elements are aligned in memory, else
 * a copy. Nothing is allocated before the sizes have been compared with the bytes that are there.
 *
 * @param path names the file in errors
 * @throws FuscoError E_MEMORY, or E_FORMAT for anything but a whole .npy of version 1.0 to 3.0 in C order with a dtype of NdDtype
 */
export function parseNpy(bytes: Uint8Array, path: string): NdArray {
  const { text, body } = splitHeader(bytes, path);
  const { descr, fortran, shape } = new HeaderParser(text, path).parse();
  const dtype = dtypeOf(descr, path);
  if (fortran && shape.length > 1) {
    malformed(path, `shape ${quote(shapeText(shape))} in Fortran order; save numpy.ascontiguousarray(a)`);
  }
  const itemSize = itemBytes(dtype);
  const size = bodyBytes(shape, itemSize, path);
  const have = bytes.length - body;
  if (have !== size) {
    const what = have < size ? 'the data is truncated' : 'bytes follow the data';
    malformed(path, `${what}: ${have} bytes, ${dtype} ${quote(shapeText(shape))} takes ${size}`);
  }
  const array = viewElements(dtype, shape, bytes.subarray(body), path);
  return BOOL.test(descr) ? { ...array, declared: 'bool' } : array;
}
