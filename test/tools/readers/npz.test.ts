// The archives of test/fixtures/npy were written by numpy 2.4.6:
//   stored.npz      numpy.savez(…, ids=numpy.arange(6, dtype='<i4').reshape(2, 3) - 1)
//   compressed.npz  numpy.savez_compressed(…, rank0=numpy.arange(4, dtype='<i2').reshape(-1, 2),
//                                             rank1=numpy.arange(8, dtype='<i2').reshape(-1, 2))
// numpy's local headers declare every size in a zip64 field.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { deflateSync } from 'fflate';
import { describe, expect, test } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { readNpz } from '../../../tools/readers/npz.ts';
import { isZip } from '../../../tools/readers/zip.ts';
import { NPY, u16, u64, zip } from '../../support/handZip.ts';

function fixture(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`../../fixtures/npy/${name}`, import.meta.url)));
}

function refusal(bytes: Uint8Array, maxTotalBytes?: number): string {
  try {
    readNpz(bytes, 'x.npz', maxTotalBytes);
  } catch (error) {
    if (error instanceof FuscoError && error.code === 'E_FORMAT') return error.message;
    throw error;
  }
  throw new Error('accepted');
}

describe('readNpz reads', () => {
  test('what numpy.savez writes', () => {
    expect([...readNpz(fixture('stored.npz'), '')]).toEqual([
      ['ids', { dtype: 'i32', shape: [2, 3], data: new Int32Array([-1, 0, 1, 2, 3, 4]) }],
    ]);
  });

  test('what numpy.savez_compressed writes, in its order', () => {
    expect([...readNpz(fixture('compressed.npz'), '')]).toEqual([
      ['rank0', { dtype: 'i16', shape: [2, 2], data: new Int16Array([0, 1, 2, 3]) }],
      ['rank1', { dtype: 'i16', shape: [4, 2], data: new Int16Array([0, 1, 2, 3, 4, 5, 6, 7]) }],
    ]);
  });

  test('zip64 sizes and offset in the directory, and a zip64 end of it', () => {
    const extra = Buffer.concat([
      u16(0x7875, 2, 0),
      u16(1, 24),
      u64(NPY.length, NPY.length, 30 + 'b.npy'.length + NPY.length),
    ]);
    const big = { compressed: 0xffffffff, size: 0xffffffff, local: 0xffffffff, extra };
    const arrays = readNpz(zip([{ name: 'b.npy' }, { name: 'a.npy', ...big }], 2, true), '');
    expect([...arrays.keys()]).toEqual(['b', 'a']);
    expect(arrays.get('a')!.data).toEqual(new Uint8Array([1, 2, 3]));
  });

  test('an archive with a comment, and an empty one', () => {
    const commented = Buffer.concat([zip([{ name: 'a.npy' }]), Buffer.from('hello')]);
    commented.writeUInt16LE(5, commented.length - 7);
    expect([...readNpz(commented, '').keys()]).toEqual(['a']);
    expect(readNpz(zip([]), '').size).toBe(0);
  });

  test('4096 members', () => {
    const entries = Array.from({ length: 4096 }, (_, i) => ({ name: `rank${i}.npy` }));
    expect(readNpz(zip(entries), '').size).toBe(4096);
  });
});

describe('readNpz refuses with E_FORMAT', () => {
  test('more than 4096 members', () => {
    expect(refusal(zip([{ name: 'a.npy' }], 4097))).toBe('x.npz: 4097 members > 4096');
    expect(refusal(zip([{ name: 'a.npy' }], 2 ** 40, true))).toBe('x.npz: 1099511627776 members > 4096');
  });

  test('more members than the directory has', () => {
    expect(refusal(zip([{ name: 'a.npy' }], 2))).toContain("the archive's directory is damaged at byte");
  });

  test('members that together exceed the limit, whether stored or deflated', () => {
    const entries = [{ name: 'a.npy' }, { name: 'b.npy' }];
    expect(refusal(zip(entries), 2 * NPY.length - 1)).toBe(
      `x.npz: the members inflate to ${2 * NPY.length} bytes > ${2 * NPY.length - 1}`,
    );
    expect(readNpz(zip(entries), '', 2 * NPY.length).size).toBe(2);
  });

  test.each(['../a.npy', 'dir/a.npy', '/a.npy', 'dir\\a.npy', 'C:a.npy', 'a\0.npy'])(
    'the path %j as a name',
    (name) => {
      expect(refusal(zip([{ name }]))).toBe(`x.npz: member ${JSON.stringify(name)} is a path, not a name`);
    },
  );

  test.each(['a.txt', '.npy', 'a.npy.gz', ''])('the name %j', (name) => {
    expect(refusal(zip([{ name }]))).toBe(`x.npz: member ${JSON.stringify(name)} is not named NAME.npy`);
  });

  test('two members of one name', () => {
    expect(refusal(zip([{ name: 'a.npy' }, { name: 'a.npy' }]))).toBe('x.npz: two members are named "a"');
  });

  test('encryption and other compression methods', () => {
    expect(refusal(zip([{ name: 'a.npy', flags: 1 }]))).toBe('x.npz: member "a" is encrypted');
    expect(refusal(zip([{ name: 'a.npy', method: 14 }]))).toContain('compression method 14');
  });

  test('sizes that no member can have', () => {
    expect(refusal(zip([{ name: 'a.npy', size: NPY.length + 1 }]))).toBe(
      `x.npz: member "a" declares ${NPY.length + 1} bytes in ${NPY.length}`,
    );
    const data = deflateSync(NPY);
    const bomb = { name: 'a.npy', method: 8, data, size: 1033 * data.length };
    expect(refusal(zip([bomb]))).toContain(`declares ${1033 * data.length} bytes in ${data.length}`);
  });

  test('members that share their data', () => {
    const data = deflateSync(Buffer.alloc(4000, 7), { level: 0 });
    const entries = ['a', 'b', 'c'].map((name, i) => ({
      name: `${name}.npy`,
      method: 8,
      data: i === 0 ? data : new Uint8Array(0),
      compressed: data.length,
      size: 4000,
      local: 0,
    }));
    expect(refusal(zip(entries))).toContain('members overlap');
  });

  test.each([-1, 1])('an inflated size that is off by %i from the declared one', (by) => {
    const data = deflateSync(NPY);
    const message = refusal(zip([{ name: 'a.npy', method: 8, data, size: NPY.length - by, crc: 0 }]));
    const found = by > 0 ? `more than ${NPY.length - by}` : NPY.length;
    expect(message).toBe(`x.npz/a.npy: inflates to ${found} bytes, the directory says ${NPY.length - by}`);
  });

  test('data that does not match its checksum, and a damaged deflate stream', () => {
    const stored = fixture('stored.npz');
    const values = stored.length - 100;
    stored[values]! ^= 1;
    expect(refusal(stored)).toBe('x.npz/ids.npy: the checksum does not match: the archive is damaged');
    expect(refusal(zip([{ name: 'a.npy', method: 8, data: new Uint8Array(64).fill(0xff), size: 9 }]))).toBe(
      'x.npz/a.npy: the compressed data is damaged',
    );
  });

  test('offsets outside the archive', () => {
    expect(refusal(zip([{ name: 'a.npy', local: 0x7fffffff }]))).toContain('damaged or truncated');
    expect(refusal(zip([{ name: 'a.npy', local: 4 }]))).toBe(
      'x.npz/a.npy: no member at byte 4 of the archive',
    );
  });

  test('zip64 sizes that are announced and absent', () => {
    const message = 'x.npz: member "a" lacks its zip64 sizes';
    expect(refusal(zip([{ name: 'a.npy', size: 0xffffffff }]))).toBe(message);
    expect(refusal(zip([{ name: 'a.npy', size: 0xffffffff, extra: u16(1, 4, 0, 0) }]))).toBe(message);
  });

  test('an archive that is truncated anywhere', () => {
    const bytes = fixture('compressed.npz');
    for (let length = 0; length < bytes.length; length++) {
      expect(refusal(bytes.subarray(0, length))).toBe(
        'x.npz: not a zip archive, or truncated: it has no directory',
      );
    }
  });

  test('a member that is no .npy', () => {
    expect(refusal(zip([{ name: 'a.npy', data: Buffer.from('hello, world') }]))).toContain(
      'x.npz/a.npy: not a .npy file',
    );
  });
});

test('isZip knows archives by their first bytes', () => {
  expect(isZip(fixture('stored.npz'))).toBe(true);
  expect(isZip(zip([]))).toBe(true);
  expect(isZip(fixture('i32.npy'))).toBe(false);
  expect(isZip(new Uint8Array(0))).toBe(false);
});

test.each(['stored.npz', 'compressed.npz'])('property: a mutated %s is its arrays or E_FORMAT', (name) => {
  const original = fixture(name);
  const mutation = fc.record({ at: fc.nat(), byte: fc.constantFrom(0, 1, 8, 0x7f, 0x80, 0xff) });
  fc.assert(
    fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), fc.nat(9), (mutations, shift) => {
      const bytes = new Uint8Array(original.length + shift).subarray(shift);
      bytes.set(original);
      for (const { at, byte } of mutations) bytes[at % bytes.length] = byte;
      try {
        for (const { shape, data } of readNpz(bytes, 'x').values()) {
          expect(shape.reduce((product, n) => product * n, 1)).toBe(data.length);
        }
      } catch (error) {
        expect(error).toBeInstanceOf(FuscoError);
        expect((error as FuscoError).code).toBe('E_FORMAT');
      }
    }),
    { numRuns: 3000 },
  );
});
