// `fusco placement`: proposals from counts and routings, and the placements of other tools.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Recorder } from '../../../executor/training/recorder.ts';
import { loadPlanner } from '../../../planner/node.ts';
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

const map = (file = 'map.json') => JSON.parse(readFileSync(file, 'utf8'));
const convert = (file: string, format: string, ...more: string[]) =>
  fusco('placement', 'convert', file, '--format', format, '-o', 'map.json', ...more);

describe('propose', () => {
  it('writes the map that plan reads, and reports the imbalance before and after', async () => {
    save('counts.json', '{"logical_count": [[0,0,0,0],[9,7,2,4]]}');
    const json = await fuscoJson(
      'placement',
      'propose',
      '--counts',
      'counts.json',
      '--layer',
      '1',
      '--ranks',
      '2',
      '-o',
      'map.json',
    );
    expect(map()).toEqual([0, 1, 0, 1]);
    expect(json).toMatchObject({
      experts: 4,
      ranks: 2,
      replicas: 0,
      before: { rankMaxOverMean: 16 / 11 },
      after: { rankMaxOverMean: 1 },
    });
    saveRouting('r.npy', [[[0, 1]], [[2, 3]]]);
    const plan = await fusco('plan', 'r.npy', '--experts', '4', '--placement', 'map.json', '-o', 'p.fusco');
    expect(plan.code).toBe(0);
  });

  it('sums all layers without --layer, and shows both imbalances as text', async () => {
    save('counts.json', '{"logical_count": [[9,0,0,4],[0,7,2,0]]}');
    const { code, stdout, stderr } = await fusco(
      'placement',
      'propose',
      '--counts',
      'counts.json',
      '--ranks',
      '2',
      '-o',
      'map.json',
    );
    expect([code, stdout, map()]).toEqual([0, '', [0, 1, 0, 1]]);
    expect(stderr).toMatch(/^placement +replicas +1 step$/m);
    expect(stderr).toMatch(/^blocks +0 +1\.455$/m);
    expect(stderr).toMatch(/^proposed +0 +1\.000$/m);
  });

  it('counts the choices of a routing, with or without a rank axis', async () => {
    saveRouting('three.npy', [
      [
        [0, 1],
        [0, 1],
      ],
      [
        [0, 2],
        [0, 3],
      ],
    ]);
    saveNpy('two.npy', 'i32', [4, 2], Int32Array.from([0, 1, 0, 1, 0, 2, 0, 3]));
    for (const file of ['three.npy', 'two.npy']) {
      const args = [
        'placement',
        'propose',
        '--routing',
        file,
        '--experts',
        '4',
        '--ranks',
        '2',
        '-o',
        `${file}.json`,
      ];
      expect(await fuscoJson(...args, '--replicas', '2')).toMatchObject({
        replicas: 2,
        after: { rankMaxOverMean: 1 },
      });
      expect(map(`${file}.json`)[0]).toEqual([0, 1]);
    }
  });

  it('meets a target with the fewest replicas, and measures later steps', async () => {
    // Two steps of 12 rows, and a third one in which expert 3 is hot. One replica of expert 0 levels the first two.
    save('steps.json', '{"logical_count": [[[8,1,2,1]],[[6,2,2,2]],[[0,0,2,10]]]}');
    const args = ['placement', 'propose', '--counts', 'steps.json', '--ranks', '2', '-o', 'map.json'];
    const json = await fuscoJson(...args, '--target', '1.02', '--holdout', '1');
    expect(json).toMatchObject({ replicas: 1, target: 1.02, steps: 2, holdout: 1 });
    expect(map()).toEqual([[0, 1], 0, 1, 1]);
    // Blocks: 9 of 12 rows on rank 0, then 8 of 12. In the later step all 12 are on rank 1.
    expect(json.placements).toEqual([
      {
        name: 'blocks',
        replicas: 0,
        steps: { worst: 1.5, mean: (1.5 + 8 / 6) / 2 },
        later: { worst: 2, mean: 2 },
      },
      expect.objectContaining({ name: 'packed, no replicas', replicas: 0 }),
      expect.objectContaining({ name: 'EPLB-style', replicas: 1 }),
      { name: 'proposed', replicas: 1, steps: { worst: 1, mean: 1 }, later: { worst: 2, mean: 2 } },
    ]);
    const text = await fusco(...args, '--target', '1.02', '--holdout', '1');
    expect(text.stderr).toMatch(/^placement +replicas +worst of 2 steps +mean +1 later step$/m);
    expect(text.stderr).toMatch(/^proposed +1 +1\.000 +1\.000 +2\.000$/m);
  });

  it('says so where no placement meets the target', async () => {
    save('counts.json', '{"logical_count": [[9,1,1,1]]}');
    const args = ['--counts', 'counts.json', '--ranks', '2', '--target', '1.1', '--replicas', '0'];
    const { code, stderr } = await fusco('placement', 'propose', ...args, '-o', 'map.json');
    expect([code, stderr]).toEqual([
      0,
      expect.stringContaining('no placement was found that meets the target 1.1'),
    ]);
  });

  it('counts the steps of a recording, whose experts it knows', async () => {
    const planner = await loadPlanner();
    await using recorder = await Recorder.open('recording');
    for (const expert of [0, 1, 0]) {
      const tables = [0, 1].map(() => ({ ids: Int32Array.of(expert, expert), tokens: 2, topk: 1 }));
      recorder.add(tables, planner.planAll(tables, { ranks: 2, experts: 2 }));
    }
    await recorder.flush();
    const json = await fuscoJson(
      ...[
        'placement',
        'propose',
        '--routing',
        'recording',
        '--ranks',
        '2',
        '--target',
        '1',
        '-o',
        'map.json',
      ],
    );
    expect(json).toMatchObject({ experts: 2, steps: 3, replicas: 2 });
    expect(map()).toEqual([
      [0, 1],
      [0, 1],
    ]);
  });

  it.each([
    [['--ranks', '2'], 'E_USAGE', /--counts or --routing/],
    [['--counts', 'c.json', '--ranks', '2', '--target', '0.9'], 'E_USAGE', /a number from 1 on/],
    [
      ['--counts', 'c.json', '--ranks', '2', '--holdout', '1'],
      'E_OPTION',
      /holdout 1 of 1 steps leaves none/,
    ],
    [['--counts', 'c.json', '--routing', 'r.npy', '--ranks', '2'], 'E_USAGE', /not both/],
    [
      ['--counts', 'c.json', '--ranks', '2', '--layer', '0'],
      'E_OPTION',
      /nothing was counted in layer 0, the first layer with counts is 1/,
    ],
    [['--counts', 'c.json', '--ranks', '2', '--layer', '7'], 'E_OPTION', /layer 7 is not in 0\.\.1/],
    [['--counts', 'c.json', '--ranks', '2', '--experts', '3'], 'E_OPTION', /the file counts 2/],
    [['--counts', 'bad.json', '--ranks', '2'], 'E_FORMAT', /layer 1 is not 2 counts/],
    [['--counts', 'no.json', '--ranks', '2'], 'E_FILE_NOT_FOUND', /no\.json/],
  ] as const)('refuses %o', async (args, code, text) => {
    save('c.json', '{"logical_count": [[0,0],[1,2]]}');
    save('bad.json', '{"logical_count": [[0,0],[1,-2]]}');
    expectRefusal(await fusco('placement', 'propose', ...args, '-o', 'map.json'), code, text);
  });
});

describe('convert', () => {
  it("reads SGLang's physical_to_logical_map, whole or one layer", async () => {
    save('s.json', '{"physical_to_logical_map": [[0,1,2,3],[0,1,2,0]]}');
    const { code, stderr } = await convert(
      's.json',
      'physical_to_logical_map',
      '--layer',
      '1',
      '--ranks',
      '2',
    );
    expect([code, stderr]).toEqual([0, '3 experts, 4 instances on 2 ranks -> map.json\n']);
    expect(map()).toEqual([[0, 1], 0, 1]);
    save('one.json', '[1,0]');
    expect((await convert('one.json', 'phy2log', '--ranks', '2')).code).toBe(0);
    expect(map()).toEqual([1, 0]);
  });

  it('merges replicas that share a rank, and says so on stderr', async () => {
    saveNpy('p.npy', 'i64', [1, 6], BigInt64Array.from([0, 0, 1, 2, 0, 1], BigInt));
    const { code, stdout, stderr } = await convert('p.npy', 'phy2log', '--ranks', '2');
    expect([code, stdout]).toEqual([0, '']);
    expect(stderr).toMatch(/^1 of 6 physical experts share their rank with another replica/);
    expect(map()).toEqual([[0, 1], [0, 1], 1]);
  });

  it("reads EPLB's log2phy and compares it with logcnt", async () => {
    saveNpy('l.npy', 'i32', [2, 2, 3], Int32Array.from([0, -1, -1, 1, -1, -1, 0, 3, 2, 1, -1, -1]));
    saveNpy('n.npy', 'i32', [2, 2], Int32Array.from([1, 1, 3, 1]));
    const args = ['--ranks', '4', '--layer', '1', '--logcnt'];
    expect((await convert('l.npy', 'log2phy', ...args, 'n.npy')).code).toBe(0);
    expect(map()).toEqual([[0, 2, 3], 1]);
    saveNpy('n.npy', 'i32', [2, 2], Int32Array.from([1, 1, 2, 1]));
    expectRefusal(
      await convert('l.npy', 'log2phy', ...args, 'n.npy'),
      'E_PLACEMENT',
      /expert 0 has 2 replicas, the map 3/,
    );
  });

  it('gives phy2log and log2phy of one placement the same map', async () => {
    save('p.json', '[2,0,1,0]');
    save('l.json', '[[1,3],[2,-1],[0,-1]]');
    await convert('p.json', 'phy2log', '--ranks', '4');
    const fromPhysical = map();
    await convert('l.json', 'log2phy', '--ranks', '4');
    expect(map()).toEqual(fromPhysical);
    expect(fromPhysical).toEqual([[1, 3], 2, 0]);
  });

  it.each([
    ['[0,1,2]', 'phy2log', 'E_PLACEMENT', /3 physical experts do not divide among 2 ranks/],
    ['[0,-1]', 'phy2log', 'E_PLACEMENT', /slot 1 holds expert -1/],
    ['[0,2]', 'phy2log', 'E_PLACEMENT', /expert 1 lives nowhere/],
    ['[[0],[0]]', 'log2phy', 'E_PLACEMENT', /0 at 1/],
    ['[[0,2],[-1,-1]]', 'log2phy', 'E_PLACEMENT', /not 0\.\.1/],
    ['[[0,1],[1,0]]', 'phy2log', 'E_OPTION', /give --layer, 0\.\.1/],
    ['[[[0]]]', 'phy2log', 'E_FORMAT', /3 axes/],
    ['{"other": []}', 'phy2log', 'E_FORMAT', /"phy2log"/],
    ['[0,1.5]', 'phy2log', 'E_FORMAT', /no array of integers/],
    ['[0,', 'phy2log', 'E_FORMAT', /not JSON/],
    ['[0,1]', 'phy3log', 'E_USAGE', /phy3log/],
  ] as const)('refuses %s as %s', async (text, format, code, message) => {
    save('p.json', text);
    expectRefusal(await convert('p.json', format, '--ranks', '2'), code, message);
  });
});
