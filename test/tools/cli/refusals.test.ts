// Bad input: one coded line on stderr, exit 2, nothing on stdout, and no file made, changed or left behind.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { cudaDevices } from '../../../executor/backends/cuda/context.ts';
import type { ErrorCode } from '../../../planner/index.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveNpy,
  saveRouting,
  saveRoutingByRank,
  snapshot,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { openFile, sealFile } from '../../support/planFile.ts';
import { buildShard, parseShard, SECTION } from '../../support/shardParts.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const ROUTING = makeRouting({ family: 'balanced', seed: 2, ranks: 8, tokens: 6, topk: 2, experts: 256 });

beforeEach(async () => {
  saveRouting('routing.npy', ROUTING);
  saveNpy('x.npy', 'f32', [8, 6, 4], new Float32Array(192).fill(1));
  await fuscoJson('plan', 'routing.npy', '-o', 'good.fusco', '--experts', '256');
});

async function refuses(args: readonly string[], code: ErrorCode, text: string | RegExp = ''): Promise<void> {
  const before = snapshot();
  expectRefusal(await fusco(...args), code, text);
  expect(snapshot()).toEqual(before);
}

const plan = (routing: string, ...options: string[]) => [
  'plan',
  routing,
  '-o',
  'p.fusco',
  '--experts',
  '256',
  ...options,
];
const run = (...options: string[]) => ['run', 'good.fusco', '--out', 'out', ...options];

/** Every command that reads a plan. */
const readers = (file: string) => [
  ['inspect', file],
  ['verify', file],
  ['export', file, '--out', 'out'],
  ['run', file, '--input', 'x.npy', '--out', 'out'],
  ['diff', file, 'good.fusco'],
  ['diff', 'good.fusco', file],
];

describe('routing', () => {
  /** The routing with one token's experts replaced. */
  const withToken = (rank: number, token: number, ids: readonly number[]) =>
    ROUTING.map((tokens, r) => tokens.map((old, t) => (r === rank && t === token ? ids : old)));

  it('with id 256 of 256', async () => {
    saveRouting('bad.npy', withToken(3, 5, [7, 256]));
    await refuses(plan('bad.npy'), 'E_ROUTING_ID', /rank 3.*token 5.*k 1.*256/);
  });

  it('with an id below -1', async () => {
    saveRouting('bad.npy', withToken(7, 0, [-2, 3]));
    await refuses(plan('bad.npy'), 'E_ROUTING_ID', /rank 7.*token 0.*k 0.*-2/);
  });

  it('with the same expert twice in one token', async () => {
    saveRouting('bad.npy', withToken(2, 4, [9, 9]));
    await refuses(plan('bad.npy'), 'E_ROUTING_DUPLICATE', /rank 2.*token 4.*k 1.*9/);
  });

  it('with 8 blocks for 7 ranks', async () => {
    await refuses(plan('routing.npy', '--ranks', '7'), 'E_RANKS', /8 ranks.*7/);
  });

  it('of floats', async () => {
    saveNpy('bad.npy', 'f32', [2, 2, 2], new Float32Array(8));
    await refuses(plan('bad.npy'), 'E_ROUTING_DTYPE', 'f32');
  });

  it('of one axis, or of four', async () => {
    saveNpy('one.npy', 'i32', [8], new Int32Array(8));
    await refuses(plan('one.npy'), 'E_ROUTING_SHAPE', '(8,)');
    saveNpy('four.npy', 'i32', [1, 1, 1, 8], new Int32Array(8));
    await refuses(plan('four.npy'), 'E_ROUTING_SHAPE', '(1, 1, 1, 8)');
  });

  it('of two axes without a number of ranks', async () => {
    saveNpy('bad.npy', 'i32', [8, 1], new Int32Array(8));
    await refuses(plan('bad.npy'), 'E_RANKS', '--ranks');
  });

  it('whose ranks have different topk', async () => {
    saveNpy('bad/rank0.npy', 'i32', [1, 2], Int32Array.of(0, 1));
    saveNpy('bad/rank1.npy', 'i32', [1, 1], Int32Array.of(0));
    await refuses(plan('bad'), 'E_ROUTING_SHAPE', 'rank 1');
  });

  it('with a missing rank', async () => {
    saveRoutingByRank('bad', ROUTING.slice(0, 2), 2);
    saveNpy('bad/rank3.npy', 'i32', [1, 2], Int32Array.of(0, 1));
    await refuses(plan('bad'), 'E_RANKS', 'rank2 is missing');
  });

  it('that is truncated, or no array at all', async () => {
    save('bad.npy', readFileSync('routing.npy').subarray(0, -1));
    await refuses(plan('bad.npy'), 'E_FORMAT', 'bad.npy');
    save('bad.npy', 'hello');
    await refuses(plan('bad.npy'), 'E_FORMAT', 'bad.npy');
    save('bad.npy', '');
    await refuses(plan('bad.npy'), 'E_FORMAT', 'bad.npy');
  });
});

describe('files', () => {
  it('that do not exist', async () => {
    await refuses(plan('nothing.npy'), 'E_FILE_NOT_FOUND', 'nothing.npy');
    await refuses(plan('routing.npy', '--placement', 'nothing.json'), 'E_FILE_NOT_FOUND', 'nothing.json');
    for (const args of readers('nothing.fusco')) await refuses(args, 'E_FILE_NOT_FOUND', 'nothing.fusco');
    await refuses(run('--input', 'nothing.npy'), 'E_FILE_NOT_FOUND', 'nothing.npy');
    await refuses(run('--input', 'x.npy', '--weights', 'nothing'), 'E_FILE_NOT_FOUND', 'nothing');
    await refuses(['verify', 'good.fusco', '--routing', 'nothing.npy'], 'E_FILE_NOT_FOUND', 'nothing.npy');
  });

  it('that are directories', async () => {
    save('folder/note.txt', '');
    await refuses(['verify', 'folder'], 'E_FILE_READ', 'folder');
    await refuses(['inspect', 'folder'], 'E_RANKS', 'folder');
    await refuses(plan('folder'), 'E_RANKS', 'folder');
  });

  it('that cannot be written', async () => {
    save('folder/note.txt', '');
    const to = (file: string) => ['plan', 'routing.npy', '--experts', '256', '-o', file];
    await refuses(to('missing/p.fusco'), 'E_FILE_WRITE', 'no such directory');
    await refuses(to('folder'), 'E_FILE_WRITE', 'is a directory');
    await refuses(to('x.npy/p.fusco'), 'E_FILE_WRITE', 'x.npy');
    for (const out of ['x.npy', 'x.npy/out']) {
      await refuses(['export', 'good.fusco', '--out', out], 'E_FILE_WRITE', 'x.npy');
      await refuses(['run', 'good.fusco', '--input', 'x.npy', '--out', out], 'E_FILE_WRITE', 'x.npy');
    }
  });

  it('an older plan survives a plan that fails', async () => {
    saveNpy('bad.npy', 'i32', [1, 1, 1], Int32Array.of(256));
    await refuses(['plan', 'bad.npy', '--experts', '256', '-o', 'good.fusco'], 'E_ROUTING_ID');
  });
});

describe('options', () => {
  it.each([
    [['plan', 'routing.npy', '-o', 'p.fusco'], 'E_USAGE', '--experts'],
    [['plan', '-o', 'p.fusco', '--experts', '8'], 'E_USAGE', 'routing'],
    [[...plan('routing.npy'), 'more'], 'E_USAGE', 'argument'],
    [plan('routing.npy', '--colour', 'red'), 'E_USAGE', '--colour'],
    [plan('routing.npy', '--ranks', 'eight'), 'E_USAGE', 'integer from 1 to 4096'],
    [plan('routing.npy', '--ranks', '0'), 'E_USAGE', 'integer from 1'],
    [plan('routing.npy', '--ranks', '8.5'), 'E_USAGE', 'integer'],
    [plan('routing.npy', '--align', '-1'), 'E_USAGE', 'integer'],
    [plan('routing.npy', '--capacity', '0'), 'E_USAGE', 'integer'],
    [plan('routing.npy', '--dtype', 'f64'), 'E_USAGE', 'bf16'],
    [plan('routing.npy', '--strategy', 'teleport'), 'E_USAGE', 'flat'],
    [plan('routing.npy', '--ranks-per-node', '3'), 'E_OPTION', '3 does not divide 8'],
    [run('--input', 'x.npy', '--backend', 'quantum'), 'E_USAGE', 'reference'],
    [['run', 'good.fusco', '--out', 'out'], 'E_USAGE', '--input'],
    [['export', 'good.fusco'], 'E_USAGE', '--out'],
    [['inspect'], 'E_USAGE', 'file'],
    [['diff', 'good.fusco'], 'E_USAGE', 'argument'],
    [['teleport'], 'E_USAGE', 'teleport'],
    [['--teleport'], 'E_USAGE', '--teleport'],
  ] as const)('%j: %s', async (args, code, text) => {
    await refuses(args, code, text);
  });

  it.each([
    ['[0, 1', 'E_FORMAT', 'placement.json'],
    ['{"0": 1}', 'E_PLACEMENT', 'placement.json'],
    ['[]', 'E_PLACEMENT', 'placement.json'],
    ['[0, 1, 2]', 'E_PLACEMENT', '3 entries for 256 experts'],
    [JSON.stringify(new Array(256).fill(8)), 'E_PLACEMENT', 'rank 8 of 8'],
    [JSON.stringify(new Array(256).fill('0')), 'E_PLACEMENT', 'expert 0'],
    [JSON.stringify(new Array(256).fill([1, 1])), 'E_PLACEMENT', 'twice'],
    [JSON.stringify(new Array(256).fill([])), 'E_PLACEMENT', 'has no rank'],
  ] as const)('a placement that is %.12s…: %s', async (json, code, text) => {
    save('placement.json', json);
    await refuses(plan('routing.npy', '--placement', 'placement.json'), code, text);
  });
});

describe('input of run', () => {
  it.each([
    ['f32', [8, 7, 4], 'E_SHAPE', /rank 0.*\(7, 4\).*\[6, 4\]/],
    ['f32', [7, 6, 4], 'E_RANKS', /7 ranks.*8/],
    ['f32', [8, 6, 0], 'E_SHAPE', 'rank 0'],
    ['f32', [47, 4], 'E_SHAPE', /47 rows, the ranks have 48 tokens/],
    ['f32', [192], 'E_SHAPE', /neither \(ranks, tokens, columns\) nor \(tokens, columns\)/],
    ['i32', [8, 6, 4], 'E_SHAPE', /i32.*f32, f16 or u16/],
    ['f64', [8, 6, 4], 'E_SHAPE', 'f64'],
  ] as const)('%s of %j: %s', async (dtype, shape, code, text) => {
    const elements = shape.reduce<number>((product, n) => product * n, 1);
    saveNpy('bad.npy', dtype, shape, new Uint8Array(elements * (dtype === 'f64' ? 8 : 4)));
    await refuses(run('--input', 'bad.npy'), code, text);
  });

  it('weights of the wrong shape or dtype', async () => {
    saveNpy('w.npy', 'f32', [8, 6, 3], new Float32Array(144));
    await refuses(run('--input', 'x.npy', '--weights', 'w.npy'), 'E_SHAPE', /weights of rank 0.*\[6, 2\]/);
    saveNpy('w.npy', 'f64', [8, 6, 2], new Float64Array(96));
    await refuses(run('--input', 'x.npy', '--weights', 'w.npy'), 'E_SHAPE', /weights of rank 0.*f64/);
  });

  it('ranks of different dtype or hidden', async () => {
    for (let rank = 0; rank < 8; rank++) saveNpy(`x/rank${rank}.npy`, 'f32', [6, 4], new Float32Array(24));
    saveNpy('x/rank5.npy', 'f16', [6, 4], new Uint16Array(24));
    await refuses(run('--input', 'x'), 'E_SHAPE', 'rank 5');
    saveNpy('x/rank5.npy', 'f32', [6, 5], new Float32Array(30));
    await refuses(run('--input', 'x'), 'E_SHAPE', 'rank 5');
  });
});

describe('a plan', () => {
  it('that is none', async () => {
    save('bad.fusco', 'hello, world');
    for (const args of readers('bad.fusco')) await refuses(args, 'E_PLAN_MAGIC', 'bad.fusco');
    await refuses(['verify', 'routing.npy'], 'E_PLAN_MAGIC', 'routing.npy');
    save('bad.fusco', '');
    await refuses(['verify', 'bad.fusco'], 'E_PLAN_MAGIC');
  });

  it('that is truncated', async () => {
    const good = readFileSync('good.fusco');
    for (const length of [20, 300, good.length >> 1, good.length - 33, good.length - 1]) {
      save('bad.fusco', good.subarray(0, length));
      for (const args of readers('bad.fusco')) await refuses(args, 'E_PLAN_TRUNCATED', 'bad.fusco');
    }
  });

  it('that goes on after its end', async () => {
    save('bad.fusco', Buffer.concat([readFileSync('good.fusco'), Buffer.of(0)]));
    for (const args of readers('bad.fusco')) await refuses(args, 'E_PLAN_CANONICAL', 'bad.fusco');
  });

  it('with one flipped bit anywhere', async () => {
    const good = readFileSync('good.fusco');
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: good.length * 8 - 1 }), async (bit) => {
        const bad = Buffer.from(good);
        bad[bit >> 3]! ^= 1 << (bit & 7);
        save('bad.fusco', bad);
        const { code, stdout, stderr } = await fusco('verify', 'bad.fusco');
        expect([bit, code, stdout]).toEqual([bit, 2, '']);
        expect(stderr).toMatch(/^error\[E_(PLAN|SHARD)_[A-Z]+\]: bad\.fusco: .+\n$/);
        // What can be shown is shown, but never without saying that it is broken.
        const shown = await fusco('inspect', 'bad.fusco');
        expect([bit, shown.code]).toEqual([bit, 2]);
        expect(shown.stderr).toMatch(/^(error\[E_[A-Z_]+\]: .+\n)+$/);
        expect(shown.stderr).not.toContain('E_INTERNAL');
        if (shown.stdout !== '') expect(shown.stdout).toContain('BROKEN');
      }),
      { numRuns: 250, seed: 20261123 },
    );
  });

  it('whose descriptors overlap or leave a hole, with all digests recomputed', async () => {
    const forge = (change: (section: (number: number) => number[]) => void) => {
      const parts = openFile(new Uint8Array(readFileSync('good.fusco')));
      const shard = parseShard(parts.shards[3]!);
      change((number) => shard.sections[number]!);
      parts.shards[3] = buildShard(shard);
      save('bad.fusco', sealFile(parts));
    };
    const forgeries: ((section: (number: number) => number[]) => void)[] = [
      // Two entries in one slot; one entry past the end; a run moved by a row; a block that grew into a hole.
      (section) => void (section(SECTION.entrySlot)[1] = section(SECTION.entrySlot)[0]! + 1_000_000),
      (section) =>
        void (section(SECTION.sendRow)[section(SECTION.sendRows).findIndex((rows) => rows > 0)]! += 1),
      (section) => void (section(SECTION.expertRows)[0]! += 1),
      (section) => void (section(SECTION.sendEntry)[1] = section(SECTION.sendEntry)[0]!),
      (section) =>
        void (section(SECTION.runRow)[section(SECTION.runRows).findIndex((rows) => rows > 0)]! += 1),
    ];
    for (const change of forgeries) {
      forge(change);
      const before = snapshot();
      for (const args of [
        ['verify', 'bad.fusco'],
        ['export', 'bad.fusco', '--out', 'out'],
        ['run', 'bad.fusco', '--input', 'x.npy', '--out', 'out'],
      ]) {
        const { code, stdout, stderr } = await fusco(...args);
        expect([code, stdout]).toEqual([2, '']);
        expect(stderr).toMatch(
          /^error\[E_(SEGMENT_BOUNDS|RUN_TABLE|ENTRY|STREAM|SLICE|SHARD_HEAD)\]: bad\.fusco: \/ranks\/.+\n$/,
        );
      }
      expect(snapshot()).toEqual(before);
      const shown = await fusco('inspect', 'bad.fusco');
      expect(shown.code).toBe(2);
      expect(shown.stdout).toContain('BROKEN');
      const json = await fusco('inspect', 'bad.fusco', '--json');
      expect(JSON.parse(json.stdout)).toMatchObject({ verified: false, ranks: 8 });
      expect(JSON.parse(json.stdout).problems[0].code).toMatch(/^E_/);
    }
  });
});

describe('what needs a GPU and finds none', () => {
  // A loader that finds no NCCL, and no launcher around.
  it.each([
    [['run', 'good.fusco', '--input', 'x.npy', '--out', 'o', '--backend', 'nccl'], 'E_BOOTSTRAP'],
    [['bench', 'nccl'], 'E_BACKEND'],
    [['bench', 'gpus'], 'E_BACKEND'],
    [['bench', 'cuda'], 'E_BACKEND'],
  ] as const)('is one line: %j', async (args, code) => {
    if (cudaDevices().devices.length > 0) return;
    await refuses(args, code);
  });
});
