// Plans edited on purpose, every digest recomputed: each kind of lie is refused with its own code and place.

import { Packr } from 'msgpackr';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  decodePlan,
  encodePlan,
  FuscoError,
  isVerified,
  type Planner,
  type VerifiedPlan,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { arrayHead, type FileParts, type Forgery, openFile, pack, sealFile } from '../support/planFile.ts';
import { buildShard, parseShard, SECTION, type ShardParts, WORD } from '../support/shardParts.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

/**
 * 4 ranks, 8 experts, top-2, align 4: token t of rank r goes to experts r + t and r + t + 1, but for rank 3's last
 * entry, which is masked. Expert 2's block at rank 1: run rows 0 | 1 2 | 3 of source ranks 0, 1, 2.
 */
function honestPlan(): VerifiedPlan {
  const routing = Array.from({ length: 4 }, (_, r) => [
    [r, r + 1],
    [r + 1, r === 3 ? -1 : r + 2],
  ]);
  return planner.planAll(toTables(routing, 2), { ranks: 4, experts: 8, align: 4 });
}

async function honestFile(): Promise<FileParts> {
  return openFile((await encodePlan(honestPlan(), nodeSha256)).bytes);
}

/** Decodes and verifies, and returns the refusal. */
async function refusalOf(bytes: Uint8Array): Promise<FuscoError> {
  try {
    verifyPlan((await decodePlan(bytes, nodeSha256)).plan);
  } catch (error) {
    expect(error).toBeInstanceOf(FuscoError);
    return error as FuscoError;
  }
  throw new Error('the forgery was accepted');
}

type Forge = (shards: ShardParts[]) => void;

async function forgeShards(forge: Forge): Promise<FuscoError> {
  const file = await honestFile();
  const shards = file.shards.map(parseShard);
  forge(shards);
  return refusalOf(sealFile({ ...file, shards: shards.map(buildShard) }));
}

/** Exchanges two elements of a list. */
function swap(list: number[], a: number, b: number): void {
  [list[a], list[b]] = [list[b]!, list[a]!];
}

describe('the honest file', () => {
  it('survives being taken apart and sealed again', async () => {
    const file = await honestFile();
    const shards = file.shards.map((shard) => buildShard(parseShard(shard)));
    const { plan } = await decodePlan(sealFile({ ...file, shards }), nodeSha256);
    expect(isVerified(verifyPlan(plan))).toBe(true);
  });
});

describe('descriptors that lie', () => {
  it.each<[string, string, string, Forge]>([
    [
      'runs that overlap, agreed by sender and receiver',
      'E_RUN_TABLE',
      '/ranks/1/runs/0/1',
      (shards) => {
        shards[1]!.sections[SECTION.runRow]![1] = 0;
        shards[1]!.sections[SECTION.sendRow]![2] = 0;
        shards[1]!.sections[SECTION.entrySlot]!.splice(1, 2, 0, 1);
      },
    ],
    [
      'a hole between two runs, agreed by all',
      'E_RUN_TABLE',
      '/ranks/1/runs/0/2',
      (shards) => {
        shards[1]!.sections[SECTION.runRow]![2]! += 1;
        shards[2]!.sections[SECTION.sendRow]![2]! += 1;
      },
    ],
    [
      'a block that starts late',
      'E_RUN_TABLE',
      '/ranks/1/experts/1',
      (shards) => void (shards[1]!.sections[SECTION.expertOffset]![1] = 8),
    ],
    [
      'a block with one row too many',
      'E_RUN_TABLE',
      '/ranks/2/experts/0',
      (shards) => void (shards[2]!.sections[SECTION.expertRows]![0]! += 1),
    ],
    [
      'a run that is longer at the sender',
      'E_RUN_TABLE',
      '/ranks/1/sendRuns/2',
      (shards) => void (shards[1]!.sections[SECTION.sendRows]![2]! += 1),
    ],
    [
      'a receive buffer that is longer than its blocks',
      'E_RUN_TABLE',
      '/ranks/0/experts',
      (shards) => void (shards[0]!.words[WORD.recvRows]! += 4),
    ],
    [
      'a slot behind the buffer',
      'E_SEGMENT_BOUNDS',
      '/ranks/0/entries/0',
      (shards) => void (shards[0]!.sections[SECTION.entrySlot]![0] = 8),
    ],
    [
      'a slot below 0 that means nothing',
      'E_SEGMENT_BOUNDS',
      '/ranks/0/entries/3',
      (shards) => void (shards[0]!.sections[SECTION.entrySlot]![3] = -3),
    ],
    [
      'an instance that does not exist',
      'E_SEGMENT_BOUNDS',
      '/ranks/0/entries/2',
      (shards) => void (shards[0]!.sections[SECTION.entryInstance]![2] = 9),
    ],
    [
      'two entries in one slot',
      'E_ENTRY',
      '/ranks/1/entries/2',
      (shards) => void (shards[1]!.sections[SECTION.entrySlot]![2] = 1),
    ],
    [
      'two entries in each other’s slots',
      'E_ENTRY',
      '/ranks/1/entries/1',
      (shards) => swap(shards[1]!.sections[SECTION.entrySlot]!, 1, 2),
    ],
    [
      'a masked entry with a slot',
      'E_ENTRY',
      '/ranks/3/entries/3',
      (shards) => void (shards[3]!.sections[SECTION.entrySlot]![3] = 0),
    ],
    [
      'an entry with an expert that is marked as masked',
      'E_SEGMENT_BOUNDS',
      '/ranks/3/entries/0',
      (shards) => void (shards[3]!.sections[SECTION.entrySlot]![0] = -1),
    ],
    [
      'an entry dropped without a capacity',
      'E_ENTRY',
      '/ranks/2/entries/1',
      (shards) => void (shards[2]!.sections[SECTION.entrySlot]![1] = -2),
    ],
    [
      'the same expert twice in a token',
      'E_ENTRY',
      '/ranks/1/entries/1',
      (shards) => {
        // Rank 1 sends token 0 twice to expert 1 and none to expert 2; every table is made to agree.
        const [zero, one] = [shards[0]!.sections, shards[1]!.sections];
        one[SECTION.entryInstance]![1] = 1;
        one[SECTION.entrySlot]!.splice(0, 4, 6, 7, 1, 4);
        zero[SECTION.runRows]![5] = 2;
        zero[SECTION.expertRows]![1] = 4;
        one[SECTION.sendRows]!.splice(1, 2, 2, 1);
        one[SECTION.runRows]![1] = 1;
        one[SECTION.expertRows]![0] = 3;
        one[SECTION.runRow]!.splice(2, 2, 2, 3);
        zero[SECTION.runRow]!.splice(6, 2, 8, 8);
        shards[2]!.sections[SECTION.sendRow]!.splice(1, 2, 8, 2);
        shards[3]!.sections[SECTION.sendRow]!.splice(1, 2, 8, 3);
      },
    ],
    [
      'an entry behind the end of a stream',
      'E_SEGMENT_BOUNDS',
      '/ranks/1/send/3',
      (shards) => void (shards[1]!.sections[SECTION.sendEntry]![3] = 4),
    ],
    [
      'a stream with two entries exchanged',
      'E_STREAM',
      '/ranks/1/send/1',
      (shards) => swap(shards[1]!.sections[SECTION.sendEntry]!, 1, 2),
    ],
    [
      'a stream with an entry twice',
      'E_STREAM',
      '/ranks/1/send/2',
      (shards) => void (shards[1]!.sections[SECTION.sendEntry]![2] = 1),
    ],
    [
      'slices in another order',
      'E_SLICE',
      '/ranks/1/slices/0',
      (shards) => {
        const slices = shards[1]!.sections[SECTION.slice]!;
        slices.push(...slices.splice(0, 3));
      },
    ],
    [
      'a slice that is missing',
      'E_SLICE',
      '/ranks/1/slices/1',
      (shards) => void shards[1]!.sections[SECTION.slice]!.splice(3, 3),
    ],
    [
      'a slice too many',
      'E_SLICE',
      '/ranks/1/slices',
      (shards) => void shards[1]!.sections[SECTION.slice]!.push(0, 0, 0),
    ],
    [
      'a slice cut in two',
      'E_SLICE',
      '/ranks/1/slices/0',
      (shards) => void shards[1]!.sections[SECTION.slice]!.splice(0, 3, 1, 1, 1, 1, 2, 2),
    ],
  ])('%s: %s', async (_, code, path, forge) => {
    const error = await forgeShards(forge);
    expect(`${error.code} ${error.details.path}`).toBe(`${code} ${path}`);
    expect(error.message.startsWith(`${path}: `)).toBe(true);
  });

  it('states the value and the limit of a bound', async () => {
    const error = await forgeShards((shards) => {
      shards[0]!.sections[SECTION.entrySlot]![0] = 8;
    });
    expect(error.toString()).toBe('E_SEGMENT_BOUNDS /ranks/0/entries/0: row 8 >= 8');
    expect(error.details).toMatchObject({ rank: 0, value: 8, limit: 8 });
  });

  it('more rows than the capacity of the header', async () => {
    const file = await honestFile();
    const error = await refusalOf(sealFile({ ...file, core: { ...file.core, capacity: 3 } }));
    expect(`${error.code} ${error.details.path}`).toBe('E_RUN_TABLE /ranks/1/experts/0');
  });

  it('a row dropped behind a block that is not full', async () => {
    const plan = planner.planAll(toTables([[[0], [0], [0]]], 1), { ranks: 1, experts: 1, capacity: 2 });
    const file = openFile((await encodePlan(plan, nodeSha256)).bytes);
    const error = await refusalOf(sealFile({ ...file, core: { ...file.core, capacity: 3 } }));
    expect(`${error.code} ${error.details.path}`).toBe('E_ENTRY /ranks/0/entries/2');
  });

  it('an earlier row dropped instead of a later one', async () => {
    const plan = planner.planAll(toTables([[[0], [0], [0]]], 1), { ranks: 1, experts: 1, capacity: 2 });
    const file = openFile((await encodePlan(plan, nodeSha256)).bytes);
    const parts = parseShard(file.shards[0]!);
    parts.sections[SECTION.entrySlot] = [0, -2, 1];
    parts.sections[SECTION.sendEntry] = [0, 2];
    parts.words[WORD.segments] = 2;
    const error = await refusalOf(sealFile({ ...file, shards: [buildShard(parts)] }));
    expect(`${error.code} ${error.details.path}`).toBe('E_ENTRY /ranks/0/entries/1');
  });

  it('a receive buffer of 2^31 rows', async () => {
    // 2048 experts of one row each fit with align 2^19; with 2^20 the padded buffer passes the limit.
    const tokens = Array.from({ length: 2048 }, (_, token) => [token]);
    const plan = planner.planAll(toTables([tokens], 1), { ranks: 1, experts: 2048, align: 2 ** 19 });
    const file = openFile((await encodePlan(plan, nodeSha256)).bytes);
    const parts = parseShard(file.shards[0]!);
    for (const section of [SECTION.expertOffset, SECTION.runRow, SECTION.sendRow, SECTION.entrySlot]) {
      parts.sections[section] = parts.sections[section]!.map((row) => 2 * row);
    }
    parts.words[WORD.recvRows]! *= 2;
    const forged = { ...file, core: { ...file.core, align: 2 ** 20 }, shards: [buildShard(parts)] };
    const error = await refusalOf(sealFile(forged));
    expect(error.code).toBe('E_LIMIT');
    expect(error.details.value).toBe(2 ** 31);
  });

  it('reports the defects of several ranks, and accepts nothing', async () => {
    const file = await honestFile();
    const shards = file.shards.map(parseShard);
    shards[0]!.sections[SECTION.entrySlot]![0] = 8;
    swap(shards[1]!.sections[SECTION.sendEntry]!, 1, 2);
    const { plan } = await decodePlan(sealFile({ ...file, shards: shards.map(buildShard) }), nodeSha256);
    const found: string[] = [];
    expect(verifyPlan(plan, (error) => found.push(`${error.code} ${error.details.path}`))).toBeUndefined();
    expect(found).toEqual(['E_SEGMENT_BOUNDS /ranks/0/entries/0', 'E_STREAM /ranks/1/send/1']);
    expect(isVerified(plan)).toBe(false);
  });
});

describe('heads and layouts that lie', () => {
  it.each<[string, Forge]>([
    ['another rank', (shards) => swapShards(shards, 0, 1)],
    ['another number of ranks', (shards) => void (shards[0]!.words[WORD.ranks] = 5)],
    ['another topk', (shards) => void (shards[0]!.words[WORD.topk] = 1)],
    ['another number of tokens', (shards) => void (shards[0]!.words[WORD.tokens] = 3)],
    ['another number of instances', (shards) => void (shards[0]!.words[WORD.instances] = 9)],
    ['another first instance', (shards) => void (shards[2]!.words[WORD.firstInstance] = 0)],
    ['another number of local instances', (shards) => void (shards[2]!.words[WORD.localInstances] = 3)],
    ['fewer rows kept, more masked', (shards) => addWords(shards[0]!, { kept: -1, masked: 1 })],
    ['masked rows counted as dropped', (shards) => addWords(shards[3]!, { dropped: 1, masked: -1 })],
    [
      'sums that only agree in 32 bits',
      (shards) => addWords(shards[0]!, { dropped: 2 ** 32 - 1, masked: 1 }),
    ],
    ['another number of segments', (shards) => addWords(shards[1]!, { segments: 1 })],
    ['a staging buffer in a flat plan', (shards) => addWords(shards[1]!, { stageRows: 1 })],
    ['staged rows in a flat plan', (shards) => addWords(shards[1]!, { staged: 1 })],
    ['tiles without an order', (shards) => addWords(shards[1]!, { tileTokens: 8 })],
    [
      'forwarding descriptors in a flat plan',
      (shards) => void shards[1]!.sections[SECTION.forwardRow]!.push(0),
    ],
    ['a tile order in a flat plan', (shards) => void shards[1]!.sections[SECTION.tileOrder]!.push(0, 1)],
    ['a slice of two words', (shards) => void shards[1]!.sections[SECTION.slice]!.pop()],
    ['a slot too many', (shards) => void shards[1]!.sections[SECTION.entrySlot]!.push(0)],
    ['a stream row too many', (shards) => void shards[1]!.sections[SECTION.sendEntry]!.push(0)],
  ])('%s: E_SHARD_HEAD', async (_, forge) => {
    const error = await forgeShards(forge);
    expect(error.code).toBe('E_SHARD_HEAD');
    expect(error.details.path).toMatch(/^\/ranks\/\d\/head$/);
  });

  /** Changes one shard's bytes as they are. */
  async function forgeBytes(forge: (bytes: Uint8Array, view: DataView) => Uint8Array | undefined) {
    const file = await honestFile();
    const shard = file.shards[2]!;
    const view = new DataView(shard.buffer, shard.byteOffset, shard.length);
    file.shards[2] = forge(shard, view) ?? shard;
    return refusalOf(sealFile(file));
  }

  it.each<[string, (bytes: Uint8Array, view: DataView) => Uint8Array | undefined]>([
    ['no magic', (_, view) => void view.setUint32(0, 1)],
    ['an empty shard', () => new Uint8Array(0)],
    ['a shard that ends in its head', (bytes) => bytes.slice(0, 255)],
    ['a shard that ends early', (bytes) => bytes.slice(0, -64)],
    ['a shard with more behind it', (bytes) => Uint8Array.from([...bytes, ...new Array(64).fill(0)])],
    ['a reserved section with elements', (_, view) => void view.setUint32(64 + 8 * 20 + 4, 1, true)],
    ['the last reserved section with a start', (_, view) => void view.setUint32(64 + 8 * 23, 256, true)],
    ['an empty section with a start', (_, view) => void view.setUint32(64 + 8 * 12, 256, true)],
    ['sections on top of each other', (_, view) => void view.setUint32(64 + 8, 256, true)],
    ['a section of 2^32 - 1 elements', (_, view) => void view.setUint32(64 + 8 * 9 + 4, 2 ** 32 - 1, true)],
  ])('%s: E_SHARD_LAYOUT', async (name, forge) => {
    const error = await forgeBytes(forge);
    expect(error.code).toBe(name.includes('2^32') ? 'E_LIMIT' : 'E_SHARD_LAYOUT');
  });

  it('a gap that is not zero, behind any section: E_SHARD_LAYOUT', async () => {
    const { shards } = await honestFile();
    const view = new DataView(shards[2]!.buffer, shards[2]!.byteOffset);
    let gaps = 0;
    for (let section = 0; section < 10; section++) {
      const start = view.getUint32(64 + 8 * section, true);
      const width = section === SECTION.entryInstance ? 2 : 4;
      const end = start + width * view.getUint32(64 + 8 * section + 4, true);
      for (const at of [end, Math.ceil(end / 64) * 64 - 1]) {
        if (start === 0 || end % 64 === 0) continue;
        const error = await forgeBytes((bytes) => void (bytes[at] = 1));
        expect(error.code).toBe('E_SHARD_LAYOUT');
        expect(error.message).toContain(`byte ${at} `);
        gaps++;
      }
    }
    expect(gaps).toBeGreaterThan(10);
  });
});

function swapShards(shards: ShardParts[], a: number, b: number): void {
  [shards[a], shards[b]] = [shards[b]!, shards[a]!];
}

function addWords(shard: ShardParts, sums: Partial<Record<keyof typeof WORD, number>>): void {
  for (const [name, amount] of Object.entries(sums)) shard.words[WORD[name as keyof typeof WORD]]! += amount;
}

describe('headers that lie', () => {
  type Honest = Parameters<NonNullable<Forgery['header']>>[0];
  const entries = (honest: Honest) =>
    Object.entries(honest).flatMap(([key, value]) => [pack(key), pack(value)]);
  const map = (size: number, parts: Uint8Array[]) => Buffer.concat([Uint8Array.of(0x80 + size), ...parts]);
  const packs = (value: unknown, options: object) => Uint8Array.from(new Packr(options).pack(value));
  /** The map with the bytes of `from`, found once, replaced. */
  function replaced(honest: Honest, from: Uint8Array, to: Uint8Array): Uint8Array {
    const bytes = Buffer.from(pack(honest));
    const at = bytes.indexOf(from);
    expect(at).toBeGreaterThan(0);
    return Buffer.concat([bytes.subarray(0, at), to, bytes.subarray(at + from.length)]);
  }
  const concat = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);

  it.each<[string, string, (honest: Honest) => Uint8Array]>([
    ['a key twice', 'E_PLAN_CANONICAL', (h) => map(5, [...entries(h), pack('producer'), pack('x')])],
    [
      'a key twice, the same value',
      'E_PLAN_CANONICAL',
      (h) => map(5, [...entries(h).slice(0, 2), ...entries(h)]),
    ],
    [
      'keys out of order',
      'E_PLAN_CANONICAL',
      (h) => map(4, entries(Object.assign({ producer: h.producer }, h))),
    ],
    ['a key too many', 'E_PLAN_HEADER', (h) => pack({ ...h, zeal: 1 })],
    ['a key too few', 'E_PLAN_HEADER', (h) => map(3, entries(h).slice(2))],
    ['a __proto__', 'E_PLAN_HEADER', (h) => map(5, [...entries(h), pack('__proto__'), pack({})])],
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
    ['1.1', [1, 1]],
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
