// The files of test/fixtures/npy were written by numpy 2.4.6, with
//   a = numpy.arange(6, dtype='<i4').reshape(2, 3) - 1
//   i32.npy         numpy.save(…, a)
//   i64-v2.npy      numpy.lib.format.write_array(…, a.astype('<i8'), version=(2, 0))
//   u8-v3.npy       numpy.lib.format.write_array(…, numpy.array([255, 1], 'u1'), version=(3, 0))
//   f16.npy         numpy.save(…, numpy.array([1.5, -2], '<f2'))
//   scalar-f64.npy  numpy.save(…, numpy.float64(0.5))
//   fortran.npy     numpy.save(…, numpy.asfortranarray(a))
//   big-endian.npy  numpy.save(…, a.astype('>i4'))
//   unicode.npy     numpy.save(…, numpy.array(['ab']))
//   structured.npy  numpy.save(…, numpy.zeros(1, [('token', '<i4'), ('expert', '<i2')]))
//   void.npy        numpy.save(…, numpy.zeros(2, 'V2')), the dtype that ml_dtypes.bfloat16 is saved with

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { encodeNpy, type NdDtype, parseNpy } from '../../../tools/readers/npy.ts';

function fixture(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`../../fixtures/npy/${name}`, import.meta.url)));
}

/** A file with the given header text, version 1.0, and `data` bytes of zeros. */
function withHeader(text: string, data = 0): Uint8Array {
  const head = Buffer.from(`\x93NUMPY\x01\x00\x00\x00${text}\n`, 'latin1');
  head.writeUInt16LE(text.length + 1, 8);
  return new Uint8Array(Buffer.concat([head, Buffer.alloc(data)]));
}

function dict(descr: string, shape: string, fortran = 'False'): string {
  return `{'descr': ${descr}, 'fortran_order': ${fortran}, 'shape': ${shape}, }`;
}

function refusal(bytes: Uint8Array): string {
  try {
    parseNpy(bytes, 'x.npy');
  } catch (error) {
    if (error instanceof FuscoError && error.code === 'E_FORMAT') return error.message;
    throw error;
  }
  throw new Error('accepted');
}

describe('parseNpy reads what numpy writes', () => {
  test('version 1.0', () => {
    expect(parseNpy(fixture('i32.npy'), '')).toEqual({
      dtype: 'i32',
      shape: [2, 3],
      data: new Int32Array([-1, 0, 1, 2, 3, 4]),
    });
  });

  test('version 2.0', () => {
    expect(parseNpy(fixture('i64-v2.npy'), '')).toEqual({
      dtype: 'i64',
      shape: [2, 3],
      data: new BigInt64Array([-1n, 0n, 1n, 2n, 3n, 4n]),
    });
  });

  test('version 3.0', () => {
    expect(parseNpy(fixture('u8-v3.npy'), '')).toEqual({
      dtype: 'u8',
      shape: [2],
      data: new Uint8Array([255, 1]),
    });
  });

  test('float16 as bits', () => {
    expect(parseNpy(fixture('f16.npy'), '')).toEqual({
      dtype: 'f16',
      shape: [2],
      data: new Uint16Array([0x3e00, 0xc000]),
    });
  });

  test('a scalar has no axes and one element', () => {
    expect(parseNpy(fixture('scalar-f64.npy'), '')).toEqual({
      dtype: 'f64',
      shape: [],
      data: new Float64Array([0.5]),
    });
  });

  test.each([
    ["'<i1'", 'i8', 1],
    ["'|u1'", 'u8', 1],
    ["'<i2'", 'i16', 2],
    ["'<u2'", 'u16', 2],
    ["'<u4'", 'u32', 4],
    ["'<u8'", 'u64', 8],
    ["'<f4'", 'f32', 4],
    ['"<f8"', 'f64', 8],
  ])('dtype %s is %s', (descr, dtype, bytes) => {
    const array = parseNpy(withHeader(dict(descr, '(3,)'), 3 * bytes), '');
    expect([array.dtype, array.shape, array.data.length]).toEqual([dtype, [3], 3]);
    expect(array.data.BYTES_PER_ELEMENT).toBe(bytes);
  });

  test('Python 2 dimensions with an L, keys in another order and no comma at the end', () => {
    const text = "{'shape': (2L, 0L), 'descr': '<i4', 'fortran_order': False}";
    expect(parseNpy(withHeader(text), '').shape).toEqual([2, 0]);
  });

  test('Fortran order where it is indistinguishable from C order', () => {
    expect(parseNpy(withHeader(dict("'<i4'", '(2,)', 'True'), 8), '').shape).toEqual([2]);
  });

  test('aligned data is a view of the file, misaligned data a copy with the same values', () => {
    const bytes = fixture('i32.npy');
    expect(parseNpy(bytes, '').data.buffer).toBe(bytes.buffer);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    const { data } = parseNpy(shifted.subarray(1), '');
    expect(data.buffer).not.toBe(shifted.buffer);
    expect(data).toEqual(new Int32Array([-1, 0, 1, 2, 3, 4]));
  });
});

describe('parseNpy refuses with E_FORMAT and says what it found', () => {
  test.each([
    ['fortran.npy', 'x.npy: shape "(2, 3)" in Fortran order; save numpy.ascontiguousarray(a)'],
    ['big-endian.npy', 'x.npy: dtype ">i4" (big-endian integer) is not one of'],
    ['unicode.npy', 'x.npy: dtype "<U2" (unicode) is not one of'],
    ['structured.npy', `x.npy: a structured dtype: "[('token', '<i4'), ('expert', '<i2')]`],
    ['void.npy', 'x.npy: dtype "|V2" (raw bytes) is not one of'],
  ])('%s', (name, message) => {
    expect(refusal(fixture(name))).toContain(message);
  });

  test('raw bytes come with the way to store bf16', () => {
    expect(refusal(fixture('void.npy'))).toContain('view(numpy.uint16)');
  });

  test('bool is read as u8 that says so', () => {
    const array = parseNpy(withHeader(dict("'|b1'", '(2,)'), 2), 'x.npy');
    expect(array).toMatchObject({ dtype: 'u8', shape: [2], declared: 'bool' });
  });

  test.each([
    ["'|O'", '(object)'],
    ["'<c8'", '(complex)'],
    ["'<M8[ns]'", '(datetime)'],
    ["'|S3'", '(bytes)'],
    ["'<i16'", '(integer)'],
    ["'>i1'", '(big-endian integer)'],
    ["''", '(unknown)'],
    ["('<i4', (2,))", 'a structured dtype'],
  ])('dtype %s', (descr, message) => {
    expect(refusal(withHeader(dict(descr, '(1,)'), 8))).toContain(message);
  });

  test.each([
    ['(2)', "expected ','"],
    ['2', 'expected a tuple'],
    ['[2]', 'expected a tuple'],
    ['(2, -1)', 'negative dimension "-1"'],
    ['(2.0,)', "expected ','"],
    ['(2, 3', 'expected an integer'],
    ['(2, 3]', "expected ',' or ')'"],
    ['(02,)', 'expected an integer'],
    ['(9007199254740992,)', 'exceeds 2^53'],
    ['(94906266, 94906266)', 'exceeds 2^53'],
    ['(4503599627370496, 0)', 'exceeds 2^53'],
    [`(${'1, '.repeat(65)})`, 'more than 64 dimensions'],
  ])('shape %s', (shape, message) => {
    // A parser that took (2.0,) for (2,) would find its 8 bytes.
    expect(refusal(withHeader(dict("'<i4'", shape), 8))).toContain(message);
  });

  test.each([
    ["{'descr': '<i4', 'fortran_order': False}", 'lacks one of'],
    ["{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (), }", 'repeated key "descr"'],
    ["{'descr': '<i4', 'fortran_order': False, 'shape': (), 'x': 1}", 'unknown or repeated key "x"'],
    ["{'descr': '<i4', 'fortran_order': 0, 'shape': ()}", 'expected True or False'],
    ["{'descr': '<i4', 'fortran_order': False, 'shape': ()} + {}", 'expected nothing more'],
    ["{'descr': '<i\\x34', 'fortran_order': False, 'shape': ()}", 'expected a string'],
    ["dict(descr='<i4')", "expected '{'"],
    ["{'descr' '<i4'}", "expected ':'"],
    ['', "expected '{'"],
  ])('header %s', (text, message) => {
    expect(refusal(withHeader(text, 4))).toContain(message);
  });

  test('data that is truncated, and bytes that follow it', () => {
    const text = dict("'<i4'", '(2, 3)');
    expect(refusal(withHeader(text, 23))).toBe(
      'x.npy: the data is truncated: 23 bytes, i32 "(2, 3)" takes 24',
    );
    expect(refusal(withHeader(text, 25))).toBe(
      'x.npy: bytes follow the data: 25 bytes, i32 "(2, 3)" takes 24',
    );
  });

  test('a size that no file has, before anything is allocated', () => {
    expect(refusal(withHeader(dict("'|i1'", '(9007199254740991,)')))).toContain('takes 9007199254740991');
  });

  test('a header length beyond the limit or the file', () => {
    const long = fixture('i64-v2.npy');
    long.set([0xff, 0xff, 0xff, 0x7f], 8);
    expect(refusal(long)).toBe('x.npy: a header of 2147483647 bytes > 65535');
    const short = fixture('i32.npy').subarray(0, 100);
    expect(refusal(short)).toBe('x.npy: the header is truncated: 100 bytes of 128');
    expect(refusal(fixture('i32.npy').subarray(0, 9))).toBe('x.npy: the header is truncated: 9 bytes of 10');
  });

  test('versions, other kinds of files and an empty file', () => {
    const bytes = fixture('i32.npy');
    bytes[6] = 4;
    expect(refusal(bytes)).toBe('x.npy: .npy version 4.0 is not 1.0, 2.0 or 3.0');
    expect(refusal(Buffer.from('PK\x03\x04abcdef'))).toBe(
      'x.npy: not a .npy file: it starts with bytes 504b03046162',
    );
    expect(refusal(new Uint8Array(0))).toBe('x.npy: the file is empty');
  });

  test('what it quotes from a file stays on one line', () => {
    const message = refusal(withHeader(dict(`'<i4'\n\x1b[2J`, '()'), 4));
    expect(message).toMatch(/^[ -~]*$/);
  });
});

describe('encodeNpy', () => {
  const bytesOf = (dtype: NdDtype, shape: number[], data: ArrayBufferView) =>
    new Uint8Array(Buffer.concat(encodeNpy(dtype, shape, data)));

  test('writes the bytes that numpy.save writes', () => {
    expect(bytesOf('i32', [2, 3], new Int32Array([-1, 0, 1, 2, 3, 4]))).toEqual(fixture('i32.npy'));
    expect(bytesOf('f16', [2], new Uint16Array([0x3e00, 0xc000]))).toEqual(fixture('f16.npy'));
    expect(bytesOf('f64', [], new Float64Array([0.5]))).toEqual(fixture('scalar-f64.npy'));
  });

  test('pads a header that already ends at a multiple of 64 by another 64, as numpy does', () => {
    // numpy.save of numpy.zeros((1,) * 36, 'i1') makes 256 + 1 bytes, though the dict ends at byte 192.
    const bytes = bytesOf('i8', new Array<number>(36).fill(1), new Int8Array([7]));
    expect(bytes.length).toBe(257);
    expect([bytes[8], bytes[9], bytes[255], bytes[256]]).toEqual([0xf6, 0, 0x0a, 7]);
  });

  test('does not copy the elements', () => {
    const data = new Float32Array([1, 2]).subarray(1);
    expect(encodeNpy('f32', [1], data)[1]!.buffer).toBe(data.buffer);
    expect(encodeNpy('f32', [1], data)[1]!.byteOffset).toBe(4);
  });

  test('takes elements as plain bytes, and refuses a shape that they do not fill with E_SHAPE', () => {
    expect(bytesOf('u16', [1], new Uint8Array([0x34, 0x12])).subarray(-2)).toEqual(
      new Uint8Array([0x34, 0x12]),
    );
    expect(() => encodeNpy('i32', [2, 3], new Int32Array(5))).toThrow('20 bytes for i32 (2, 3)');
    expect(() => encodeNpy('i32', [-1, -6], new Int32Array(6))).toThrow('24 bytes for i32 (-1, -6)');
  });
});

describe('property: whatever the bytes', () => {
  const mutation = fc.record({ at: fc.nat(), byte: fc.nat(255), drop: fc.integer({ min: 0, max: 3 }) });

  function parsesOrRefuses(bytes: Uint8Array): void {
    try {
      const { shape, data } = parseNpy(bytes, 'x');
      expect(shape.reduce((product, n) => product * n, 1)).toBe(data.length);
    } catch (error) {
      expect(error).toBeInstanceOf(FuscoError);
      expect((error as FuscoError).code).toBe('E_FORMAT');
    }
  }

  test.each(['i32.npy', 'i64-v2.npy', 'u8-v3.npy', 'structured.npy'])(
    'a mutated %s is an array or E_FORMAT',
    (name) => {
      const original = fixture(name);
      fc.assert(
        fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
          let bytes = original.slice();
          for (const { at, byte, drop } of mutations) {
            bytes[at % bytes.length] = byte;
            bytes = bytes.subarray(0, bytes.length - drop);
          }
          parsesOrRefuses(bytes);
        }),
        { numRuns: 2000 },
      );
    },
  );

  test('a header of random pieces of Python is an array or E_FORMAT', () => {
    const piece = fc.constantFrom(
      ...[
        "{'descr': ",
        "'<i4'",
        ', ',
        "'fortran_order': ",
        'False',
        "'shape': ",
        '(2,)',
        '()',
        '(',
        ')',
        '}',
      ],
      ...['[', '-1', '1L', '"', "'", ' ', '\\', '\n', 'True', '1e9', '__import__'],
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 14 }), fc.nat(9), (pieces, data) => {
        parsesOrRefuses(withHeader(pieces.join(''), data));
      }),
      { numRuns: 3000 },
    );
  });

  test('what encodeNpy writes, parseNpy reads', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(4), { maxLength: 5 }), (shape) => {
        const count = shape.reduce((product, n) => product * n, 1);
        const data = Int16Array.from({ length: count }, (_, i) => i * 257 - 300);
        expect(parseNpy(bytesOfShape(shape, data), 'x')).toEqual({ dtype: 'i16', shape, data });
      }),
    );
  });
});

function bytesOfShape(shape: number[], data: Int16Array): Uint8Array {
  return new Uint8Array(Buffer.concat(encodeNpy('i16', shape, data)));
}
