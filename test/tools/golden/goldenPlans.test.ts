// `fusco check`: what it prints for every verdict, what it writes, and what it refuses.

import { existsSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveNpy,
  saveRouting,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

const inCi = process.env.CI;

beforeEach(() => {
  delete process.env.CI;
  saveRouting('routing.npy', [
    [[0], [1]],
    [[2], [3]],
  ]);
});
afterEach(() => {
  if (inCi === undefined) delete process.env.CI;
  else process.env.CI = inCi;
});

interface File {
  formatVersion: number;
  plans: Record<string, unknown>;
  golden: Record<string, { planId: string; routingDigest: string; summary: Record<string, unknown> }>;
}

const read = (): File => JSON.parse(readFileSync('fusco.golden.json', 'utf8'));
const write = (change: Partial<File>) =>
  save('fusco.golden.json', JSON.stringify({ formatVersion: 1, plans: {}, ...change }));
const plain = { routing: 'routing.npy', options: { experts: 4 } };

/** Two plans with golden entries. */
async function golden(): Promise<File> {
  write({ plans: { plain, padded: { routing: 'routing.npy', options: { experts: 4, align: 8 } } } });
  expect((await fusco('check', '--update')).code).toBe(0);
  return read();
}

describe('fusco check', () => {
  it('--update writes ids, digests and figures; then all is the same', async () => {
    const file = await golden();
    await fuscoJson('plan', 'routing.npy', '-o', 'p.fusco', '--experts', '4');
    const { planId } = await fuscoJson('inspect', 'p.fusco');
    expect(file.golden.plain).toMatchObject({
      planId,
      summary: { strategy: 'flat', rule: 'none', rows: 4, imbalance: 1 },
    });
    // Both plans are made of one routing.
    expect(file.golden.padded!.routingDigest).toBe(file.golden.plain!.routingDigest);
    expect(file.golden.padded!.planId).not.toBe(planId);
    expect(await fusco('check')).toEqual({
      code: 0,
      stdout: 'same      plain\nsame      padded\n',
      stderr: '',
    });
    const before = readFileSync('fusco.golden.json', 'utf8');
    expect(before).toBe(`${JSON.stringify(file, null, 2)}\n`);
    expect((await fusco('check', '--update')).code).toBe(0);
    expect(readFileSync('fusco.golden.json', 'utf8')).toBe(before);
  });

  it('a changed option is a mismatch with the figures that changed, and the command that updates', async () => {
    const file = await golden();
    write({
      ...file,
      plans: { ...file.plans, padded: { routing: 'routing.npy', options: { experts: 4, align: 16 } } },
    });
    const { code, stdout, stderr } = await fusco('check');
    const [was] = [file.golden.padded!.planId.slice(0, 12)];
    expect(code).toBe(1);
    expect(stdout.split('\n')).toEqual([
      'same      plain',
      'mismatch  padded',
      expect.stringMatching(`^ {10}plan id ${was} -> [0-9a-f]{12}$`),
      // 4 experts with 1 row each, in blocks of 8 and of 16 rows; 2 experts a rank.
      '          paddingRows 28 -> 60',
      '          busiestRecvRows 16 -> 32',
      '',
    ]);
    expect(stderr).toBe('1 of 2 golden plans differ; if that is meant, run: fusco check --update\n');
    expect((await fusco('check', '--update')).stderr).toBe('updated 1 of 2 entries in fusco.golden.json\n');
    expect((await fusco('check')).code).toBe(0);
  });

  it('a changed routing is told from a changed planner; another file of the same ids is no change', async () => {
    await golden();
    saveNpy('routing.npy', 'i64', [2, 2, 1], BigInt64Array.of(0n, 1n, 2n, 3n));
    expect((await fusco('check')).code).toBe(0);
    saveRouting('routing.npy', [
      [[0], [0]],
      [[2], [3]],
    ]);
    const { code, stdout } = await fusco('check');
    expect(code).toBe(1);
    expect(stdout).toContain('mismatch  plain\n          the routing itself changed\n          plan id ');
  });

  it('names what is missing and what is obsolete, as text and as JSON', async () => {
    const { plans, golden: entries } = await golden();
    write({ plans: { plain: plans.plain, renamed: plans.padded }, golden: entries });
    const { code, stdout } = await fusco('check');
    expect([code, stdout]).toEqual([1, 'same      plain\nmissing   renamed\nobsolete  padded\n']);
    const json = await fusco('check', '--json');
    expect([json.code, json.stderr]).toEqual([1, '']);
    expect(JSON.parse(json.stdout)).toEqual({
      formatVersion: 1,
      file: 'fusco.golden.json',
      passed: false,
      updated: false,
      checked: [
        { name: 'plain', verdict: 'same', reasons: [] },
        { name: 'renamed', verdict: 'missing', reasons: ['it has no golden entry'] },
        { name: 'padded', verdict: 'obsolete', reasons: ['no plan has this name'] },
      ],
      update: 'fusco check --update',
    });
    await fusco('check', '--update');
    expect(Object.keys(read().golden)).toEqual(['plain', 'renamed']);
  });

  it.each(['1', 'true', 'yes'])('refuses to update where CI is %s, and changes nothing', async (value) => {
    const file = await golden();
    write({ ...file, golden: {} });
    const before = readFileSync('fusco.golden.json', 'utf8');
    process.env.CI = value;
    expectRefusal(await fusco('check', '--update'), 'E_GOLDEN', 'CI is set');
    expect(readFileSync('fusco.golden.json', 'utf8')).toBe(before);
    expect((await fusco('check')).code).toBe(1);
    process.env.CI = 'false';
    expect((await fusco('check', '--update')).code).toBe(0);
  });

  it('takes paths relative to its file, recordings, and placements in files', async () => {
    save('g/placement.json', '[1, 1, 0, 0]');
    save(
      'g/t.jsonl',
      '{"step": 5, "layer": 1, "rank": 0, "num_tokens": 2, "topk": 1, "top_indices": [[0], [3]]}\n',
    );
    save(
      'g/golden.json',
      JSON.stringify({
        formatVersion: 1,
        plans: {
          moved: { routing: '../routing.npy', options: { experts: 4, placement: 'placement.json' } },
          traced: {
            routing: 't.jsonl',
            read: { format: 'megatron', layer: 1, step: 5 },
            options: { experts: 4, ranks: 2 },
          },
        },
      }),
    );
    expect((await fusco('check', 'g/golden.json')).stderr).toContain(
      'run: fusco check "g/golden.json" --update\n',
    );
    expect((await fusco('check', 'g/golden.json', '--update')).code).toBe(0);
    const { golden: found } = JSON.parse(readFileSync('g/golden.json', 'utf8')) as File;
    // Each rank's experts moved to the other one: all 4 rows travel.
    expect(found.moved!.summary.intraNodeBytes).toBe(4 * 7168 * 2);
    expect(found.traced!.summary.rows).toBe(2);
  });

  it('reads a routing as the options of plan say, and refuses others by the place', async () => {
    saveNpy('layers.npy', 'u8', [2, 3, 2], Uint8Array.of(0, 0, 0, 0, 0, 0, 1, 2, 3, 255, 0, 0));
    const recorded = { axes: 'layers,tokens,topk', layer: 1, maskIds: '255', maskRepeatedRows: true };
    const entry = { routing: 'layers.npy', read: recorded, options: { experts: 4, ranks: 2 } };
    write({ plans: { entry } });
    expect((await fusco('check', '--update')).code).toBe(0);
    expect(read().golden.entry!.summary.rows).toBe(3);
    expect((await fusco('check')).code).toBe(0);
    const refuses = async (change: object, code: 'E_GOLDEN' | 'E_OPTION', text: string) => {
      write({ plans: { entry: { ...entry, read: { ...recorded, ...change } } } });
      expectRefusal(await fusco('check'), code, text);
    };
    await refuses({ axis: 1 }, 'E_GOLDEN', '/plans/entry/read/axis: it is not one of format, layer');
    await refuses({ maskIds: 255 }, 'E_GOLDEN', '/plans/entry/read/maskIds: it is not text');
    await refuses({ multiHot: 1 }, 'E_GOLDEN', '/plans/entry/read/multiHot: it is neither true nor false');
    await refuses({ maskIds: 'x' }, 'E_OPTION', 'maskIds: "x" is neither a number');
  });

  it('refuses files that are not of its form, by the place', async () => {
    expectRefusal(await fusco('check'), 'E_FILE_NOT_FOUND');
    const refuses = async (value: unknown, text: string) => {
      save('fusco.golden.json', typeof value === 'string' ? value : JSON.stringify(value));
      expectRefusal(await fusco('check'), 'E_GOLDEN', text);
    };
    await refuses('{', 'it is not JSON');
    await refuses([], 'it is not an object');
    await refuses({ formatVersion: 2, plans: {} }, '/formatVersion: 2 is not 1');
    await refuses(
      { formatVersion: 1, plans: { a: { ...plain, extra: 1 } } },
      '/plans/a/extra: it is not one of routing',
    );
    await refuses(
      { formatVersion: 1, plans: { a: { routing: 'r', options: { experts: 4, alignn: 8 } } } },
      '/plans/a/options/alignn',
    );
    await refuses(
      { formatVersion: 1, plans: { a: { routing: 'r', options: {} } } },
      '/plans/a/options/experts',
    );
    await refuses(
      { formatVersion: 1, plans: {}, golden: { a: { planId: 'x', summary: {} } } },
      '/golden/a/routingDigest: it is not 64 hex',
    );
    write({ plans: { plain } });
    unlinkSync('routing.npy');
    expectRefusal(await fusco('check'), 'E_FILE_NOT_FOUND', 'routing.npy');
    expect(existsSync('routing.npy')).toBe(false);
    writeFileSync('routing.npy', 'x');
    expectRefusal(await fusco('check'), 'E_FORMAT');
  });
});
