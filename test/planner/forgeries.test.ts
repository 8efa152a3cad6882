// Plans edited on purpose, every digest recomputed: each kind of lie is refused with its own code and place.

import { beforeAll, describe, expect, it } from 'vitest';
import {
  decodePlan,
  encodePlan,
  type FuscoError,
  isVerified,
  type Planner,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { honestFile, refusalOf, refusalOfShards } from '../support/honest.ts';
import { openFile, sealFile } from '../support/planFile.ts';
import { buildShard, parseShard, SECTION, type ShardParts, WORD } from '../support/shardParts.ts';
import { toTables } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

type Forge = (shards: ShardParts[]) => void;

async function forgeShards(forge: Forge): Promise<FuscoError> {
  return refusalOfShards(await honestFile(), forge);
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

  it('an entry behind the end of its run, another run left short', async () => {
    // Rank 1's token 0 goes to expert 3 instead of 2, into the row behind its run there (row 5).
    const error = await forgeShards((shards) => {
      const [, { sections }] = shards as [ShardParts, ShardParts];
      sections[SECTION.entryInstance]![1] = 3;
      sections[SECTION.entrySlot]!.splice(1, 3, 4, 1, 5);
    });
    expect(`${error.code} ${error.details.path}`).toBe('E_ENTRY /ranks/1/entries/3');
  });

  it('a row that the runs hold and the head does not', async () => {
    const error = await forgeShards((shards) => {
      addWords(shards[1]!, { kept: -1, masked: 1 });
      shards[1]!.sections[SECTION.sendEntry]!.pop();
    });
    expect(error.message).toBe('/ranks/1/head: the runs hold 4 rows, not 3');
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
    ['a reserved word in use', (shards) => addWords(shards[1]!, { reserved: 1 })],
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

  it.each([20, 21, 22, 23])(
    'reserved section %d, laid out as it would be: E_SHARD_LAYOUT',
    async (section) => {
      const error = await forgeShards((shards) => void shards[1]!.sections[section]!.push(1));
      expect(error.code).toBe('E_SHARD_LAYOUT');
      expect(error.message).toContain(`section ${section}`);
    },
  );

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
