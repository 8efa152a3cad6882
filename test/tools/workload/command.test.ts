// `fusco workload`: the files that it writes, and what it says about them.

import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FAMILIES, makeWorkload } from '../../../tools/workload/families.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  loadNpy,
  save,
  saveNpy,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

const SIZES = ['--ranks', '4', '--tokens', '6', '--topk', '2'];

describe('a family', () => {
  it('is one array that plan reads, the same bytes for the same options', async () => {
    const args = ['workload', 'hot-rank', '--seed', '3', ...SIZES, '--experts', '8'];
    expect(await fuscoJson(...args, '-o', 'a.npy')).toMatchObject({
      family: 'hot-rank',
      model: false,
      seed: 3,
      tokens: [6, 6, 6, 6],
      kind: 'file',
    });
    await fusco(...args, '-o', 'b.npy');
    expect(readFileSync('b.npy').equals(readFileSync('a.npy'))).toBe(true);
    const { dtype, shape, data } = loadNpy('a.npy');
    expect([dtype, shape]).toEqual(['i16', [4, 6, 2]]);
    const tables = makeWorkload({ family: 'hot-rank', seed: 3, ranks: 4, tokens: 6, topk: 2, experts: 8 });
    expect([...(data as Int16Array)]).toEqual(tables.flatMap(({ ids }) => Array.from(ids, Number)));
    expect((await fusco('plan', 'a.npy', '--experts', '8', '-o', 'p.fusco')).code).toBe(0);
  });

  it('is a directory of files where ranks have uneven tokens', async () => {
    const args = ['workload', 'empty-rank', ...SIZES, '--experts', '8', '-o', 'dir'];
    expect(await fuscoJson(...args)).toMatchObject({ tokens: [6, 6, 6, 0], kind: 'directory' });
    expect([0, 1, 2, 3].map((rank) => loadNpy(`dir/rank${rank}.npy`).shape)).toEqual([
      [6, 2],
      [6, 2],
      [6, 2],
      [0, 2],
    ]);
    expect((await fusco('plan', 'dir', '--experts', '8', '-o', 'p.fusco')).code).toBe(0);
  });

  it('has ids of 32 bits where 16 are too few', async () => {
    await fusco('workload', 'balanced', ...SIZES, '--experts', '40000', '-o', 'a.npy');
    expect(loadNpy('a.npy').dtype).toBe('i32');
  });

  it('writes gate weights too, which fusco run reads', async () => {
    const args = ['workload', 'collectivex', '--seed', '67', ...SIZES, '--experts', '8', '-o', 'a.npy'];
    await fuscoJson(...args, '--weights', 'w.npy');
    const { dtype, shape, data } = loadNpy('w.npy');
    expect([dtype, shape]).toEqual(['f32', [4, 6, 2]]);
    const weights = data as Float32Array;
    for (let token = 0; token < 24; token++)
      expect(weights[2 * token]! + weights[2 * token + 1]!).toBeCloseTo(1, 6);
    await fusco('plan', 'a.npy', '--experts', '8', '--hidden', '2', '--dtype', 'f32', '-o', 'p.fusco');
    saveNpy(
      'x.npy',
      'f32',
      [4, 6, 2],
      Float32Array.from({ length: 48 }, () => 1),
    );
    const run = ['run', 'p.fusco', '--input', 'x.npy', '--weights', 'w.npy', '--out', 'out', '--check'];
    expect((await fusco(...run, '--backend', 'reference')).code).toBe(0);
  });

  it('is listed by --help', async () => {
    const { code, stdout } = await fusco('workload', '--help');
    expect(code).toBe(0);
    for (const family of Object.keys(FAMILIES)) expect(stdout).toContain(`  ${family} `);
  });
});

describe('expert counts', () => {
  it('give a table that is labelled a model, in text and in JSON', async () => {
    save('counts.json', '{"logical_count": [[0,0,0,0],[5,1,0,3]]}');
    const args = ['workload', '--from-counts', 'counts.json', '--layer', '1', ...SIZES, '-o', 'a.npy'];
    const { code, stderr } = await fusco(...args);
    expect([code, /^model: /.test(stderr)]).toEqual([0, true]);
    expect(await fuscoJson(...args)).toMatchObject({
      model: true,
      layer: 1,
      experts: 4,
      label: expect.stringMatching(/^model: /),
    });
    expect(new Set(loadNpy('a.npy').data as Int16Array)).toEqual(new Set([0, 1, 3]));
  });
});

it.each([
  [['--experts', '8'], 'E_USAGE', /a family or --from-counts/],
  [['balanced', '--from-counts', 'c.json', '--layer', '0'], 'E_USAGE', /not both/],
  [['hot-potato', '--experts', '8'], 'E_USAGE', /hot-potato is not one of balanced/],
  [['balanced'], 'E_USAGE', /needs --experts/],
  [['balanced', '--experts', '8', '--layer', '1'], 'E_USAGE', /--layer/],
  [['balanced', '--experts', '8', '--weights', 'w.npy'], 'E_USAGE', /--weights/],
  [['collectivex', '--experts', '1'], 'E_OPTION', /topk 2 of the 1/],
  [['balanced', '--experts', '1'], 'E_OPTION', /topk 2 of the 1/],
  [['balanced', '--experts', '8', '--seed', '-1'], 'E_USAGE', /seed/],
  [['one-node', '--experts', '8', '--ranks-per-node', '3'], 'E_OPTION', /does not divide/],
  [['--from-counts', 'c.json'], 'E_USAGE', /--layer/],
  [['--from-counts', 'c.json', '--layer', '2'], 'E_OPTION', /layer 2/],
  [['--from-counts', 'c.json', '--layer', '0', '--experts', '9'], 'E_OPTION', /the file counts 3/],
] as const)('refuses %o and writes nothing', async (args, code, text) => {
  save('c.json', '{"logical_count": [[1,1,1]]}');
  expectRefusal(await fusco('workload', ...args, ...SIZES, '-o', 'a.npy'), code, text);
  expect(existsSync('a.npy')).toBe(false);
});
