// Headers and frames edited on purpose, every digest recomputed: refused with a code, whatever they say.

import { Packr } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { honestFile, refusalOf } from '../support/honest.ts';
import { arrayHead, type Forgery, type Header, pack, sealFile } from '../support/planFile.ts';

describe('headers that lie', () => {
  const entries = (honest: Header) =>
    Object.entries(honest).flatMap(([key, value]) => [pack(key), pack(value)]);
  const map = (parts: Uint8Array[]) => Buffer.concat([Uint8Array.of(0x80 + parts.length / 2), ...parts]);
  const packs = (value: unknown, options: object) => Uint8Array.from(new Packr(options).pack(value));
  /** The map with the bytes of `from`, found once, replaced. */
  function replaced(honest: Header, from: Uint8Array, to: Uint8Array): Uint8Array {
    const bytes = Buffer.from(pack(honest));
    const at = bytes.indexOf(from);
    expect(at).toBeGreaterThan(0);
    return Buffer.concat([bytes.subarray(0, at), to, bytes.subarray(at + from.length)]);
  }
  const concat = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);

  it.each<[string, string, (honest: Header) => Uint8Array]>([
    ['a key twice', 'E_PLAN_CANONICAL', (h) => map([...entries(h), pack('producer'), pack('x')])],
    [
      'a key twice, the same value',
      'E_PLAN_CANONICAL',
      (h) => map([...entries(h).slice(0, 2), ...entries(h)]),
    ],
    [
      'keys out of order',
      'E_PLAN_CANONICAL',
      (h) => map(entries(Object.assign({ producer: h.producer }, h))),
    ],
    ['a key too many', 'E_PLAN_HEADER', (h) => pack({ ...h, zeal: 1 })],
    ['a key too few', 'E_PLAN_HEADER', (h) => map(entries(h).slice(2))],
    ['a __proto__', 'E_PLAN_HEADER', (h) => map([...entries(h), pack('__proto__'), pack({})])],
    ['msgpackr records', 'E_PLAN_CANONICAL', (h) => packs(h, { useRecords: true })],
    ['a long map head', 'E_PLAN_CANONICAL', (h) => packs(h, { useRecords: false, variableMapSize: false })],
    ['an array', 'E_PLAN_HEADER', (h) => pack(Object.values(h))],
    ['nil', 'E_PLAN_CANONICAL', () => pack(null)],
    ['a number', 'E_PLAN_HEADER', () => pack(7)],
    ['text', 'E_PLAN_HEADER', () => pack('header')],
    [
      'a float that is an integer',
      'E_PLAN_CANONICAL',
      (h) =>
        replaced(
          h,
          concat(pack('align'), pack(4)),
          concat(pack('align'), Uint8Array.of(0xca, 0x40, 0x80, 0, 0)),
        ),
    ],
    [
      'a 64-bit integer',
      'E_PLAN_CANONICAL',
      (h) =>
        replaced(
          h,
          concat(pack('align'), pack(4)),
          concat(pack('align'), Uint8Array.of(0xcf, 0, 0, 0, 0, 0, 0, 0, 4)),
        ),
    ],
    [
      'an integer in more bytes than it needs',
      'E_PLAN_CANONICAL',
      (h) => replaced(h, concat(pack('align'), pack(4)), concat(pack('align'), Uint8Array.of(0xcd, 0, 4))),
    ],
    [
      'a string in more bytes than it needs',
      'E_PLAN_CANONICAL',
      (h) => replaced(h, pack('flat'), Uint8Array.of(0xd9, 4, 0x66, 0x6c, 0x61, 0x74)),
    ],
    [
      'a producer that is not UTF-8',
      'E_PLAN_CANONICAL',
      (h) => replaced(h, pack(h.producer), Uint8Array.of(0xa2, 0xc3, 0x28)),
    ],
    ['a timestamp', 'E_PLAN_CANONICAL', (h) => pack({ ...h, producer: new Date(0) })],
    ['a producer that is a number', 'E_PLAN_HEADER', (h) => pack({ ...h, producer: 3 })],
    ['a plan id of 31 bytes', 'E_PLAN_HEADER', (h) => pack({ ...h, planId: h.planId.slice(1) })],
    ['another plan id', 'E_PLAN_DIGEST', (h) => pack({ ...h, planId: new Uint8Array(32) })],
    ['a shard too few', 'E_PLAN_HEADER', (h) => pack({ ...h, shards: h.shards.slice(1) })],
    ['shards without digests', 'E_PLAN_HEADER', (h) => pack({ ...h, shards: h.shards.map(() => [64]) })],
    [
      'another shard digest',
      'E_PLAN_DIGEST',
      (h) => pack({ ...h, shards: h.shards.map((s) => [(s as [number])[0], new Uint8Array(32)]) }),
    ],
    [
      'another shard size',
      'E_PLAN_CANONICAL',
      (h) => pack({ ...h, shards: h.shards.map((s) => [(s as [number])[0] + 64, (s as unknown[])[1]]) }),
    ],
    [
      'a placement that spells out the blocks',
      'E_PLAN_CANONICAL',
      (h) => pack({ ...h, core: { ...(h.core as object), placement: [0, 0, 1, 1, 2, 2, 3, 3] } }),
    ],
    [
      'a placement with a list of one',
      'E_PLAN_CANONICAL',
      (h) => pack({ ...h, core: { ...(h.core as object), placement: [[1], 0, 1, 1, 2, 2, 3, 3] } }),
    ],
    [
      'replicas out of order',
      'E_PLAN_CANONICAL',
      (h) => pack({ ...h, core: { ...(h.core as object), placement: [[1, 0], 0, 1, 1, 2, 2, 3, 3] } }),
    ],
    ['lists in lists without end', 'E_PLAN_CANONICAL', () => new Uint8Array(5000).fill(0x91)],
    [
      'more than 1 MiB',
      'E_PLAN_CANONICAL',
      (h) => {
        const wide = new Array<number[]>(65535).fill(new Array<number>(20).fill(1));
        return pack({ ...h, core: { ...(h.core as object), placement: wide } });
      },
    ],
  ])('%s: %s', async (_, code, header) => {
    const error = await refusalOf(sealFile(await honestFile(), { header }));
    expect(error.code).toBe(code);
  });

  it.each<[string, unknown]>([
    ['ranks', 5],
    ['ranks', 0],
    ['ranks', 4097],
    ['ranksPerNode', 3],
    ['experts', 65536],
    ['topk', 0],
    ['hidden', 2 ** 25],
    ['align', 0],
    ['capacity', -1],
    ['capacity', 2n ** 31n],
    ['sliceRows', 0],
    ['dtype', 'int4'],
    ['dtype', 3],
    ['strategy', 'hier'],
    ['strategy', 'rings'],
    ['placement', [0, 1]],
    ['placement', [4, 0, 1, 1, 2, 2, 3, 3]],
    ['placement', { 0: 1 }],
  ])('core.%s = %o is refused', async (key, value) => {
    const file = await honestFile();
    const error = await refusalOf(sealFile({ ...file, core: { ...file.core, [key]: value } }));
    // A negative number or one of 64 bits is no kind of value that a header holds.
    expect(['E_PLAN_HEADER', 'E_PLAN_CANONICAL']).toContain(error.code);
    expect(error.details.path).toMatch(/^\/header/);
  });

  it.each<[string, unknown]>([
    ['experts', 9],
    ['topk', 1],
    ['placement', [1, 0, 1, 1, 2, 2, 3, 3]],
  ])('core.%s = %o contradicts the shards', async (key, value) => {
    const file = await honestFile();
    const error = await refusalOf(sealFile({ ...file, core: { ...file.core, [key]: value } }));
    expect(['E_SHARD_HEAD', 'E_RUN_TABLE']).toContain(error.code);
  });
});

describe('files that lie', () => {
  it.each<[string, [number, number]]>([
    ['2.0', [2, 0]],
    ['1.2', [1, 2]],
    ['0.9', [0, 9]],
  ])('format %s: E_PLAN_VERSION', async (name, version) => {
    const error = await refusalOf(sealFile({ ...(await honestFile()), version }));
    expect(error.code).toBe('E_PLAN_VERSION');
    expect(error.message).toContain(name);
  });

  it.each<unknown>([[[1]], [[1, 0, 0]], ['1.0'], [[1, 200]], [[1.5, 0]]])(
    'a version of %j',
    async (version) => {
      const error = await refusalOf(sealFile({ ...(await honestFile()), version: version as never }));
      expect(error.code).toBe('E_PLAN_CANONICAL');
    },
  );

  it.each<[string, Forgery]>([
    ['a pad of 64 zeros more', { pad: (zeros) => new Uint8Array(zeros + 64) }],
    [
      'a pad that leaves the shard unaligned',
      { pad: (zeros) => new Uint8Array(zeros === 0 ? 1 : zeros - 1) },
    ],
    ['no pads', { pad: () => new Uint8Array(0) }],
    ['pads that are not zero', { pad: (zeros) => new Uint8Array(zeros).fill(1) }],
    ['bytes behind the digest', { tail: Uint8Array.of(0) }],
  ])('%s: E_PLAN_CANONICAL', async (_, forgery) => {
    expect((await refusalOf(sealFile(await honestFile(), forgery))).code).toBe('E_PLAN_CANONICAL');
  });

  it('a digest of another file: E_PLAN_DIGEST', async () => {
    const bytes = sealFile(await honestFile());
    bytes.set(new Uint8Array(32), bytes.length - 32);
    const error = await refusalOf(bytes);
    expect(`${error.code} ${error.details.path}`).toBe('E_PLAN_DIGEST /digest');
  });

  it.each([0, 3, 5, 4096])('an array that promises %d ranks', async (ranks) => {
    const bytes = sealFile(await honestFile());
    const promised = Buffer.concat([arrayHead(4 + 2 * ranks), bytes.subarray(1)]);
    expect(['E_PLAN_CANONICAL', 'E_PLAN_HEADER']).toContain((await refusalOf(promised)).code);
  });

  it.each([4097, 20000, 32765])('an array of %d shards is more than a plan can have', async (ranks) => {
    const bytes = sealFile(await honestFile());
    const promised = Buffer.concat([arrayHead(4 + 2 * ranks), bytes.subarray(1)]);
    const error = await refusalOf(promised);
    expect(error.code).toBe('E_PLAN_CANONICAL');
    expect(error.message).toContain('4096');
  });

  it.each<[string, Uint8Array]>([
    ['nothing', new Uint8Array(0)],
    ['one byte', Uint8Array.of(0x9c)],
    ['zeros', new Uint8Array(4096)],
    ['a NumPy file', Buffer.from('\x93NUMPY\x01\x00v\x00{}', 'latin1')],
    ['another msgpack array', pack(['FUSCOPLM', [1, 0], {}])],
    ['an array of 32-bit length', Uint8Array.of(0xdd, 0, 0, 0, 6, ...pack('FUSCOPLN'))],
    ['text', new TextEncoder().encode('FUSCOPLN')],
  ])('%s: E_PLAN_MAGIC', async (_, bytes) => {
    expect((await refusalOf(bytes)).code).toBe('E_PLAN_MAGIC');
  });
});
