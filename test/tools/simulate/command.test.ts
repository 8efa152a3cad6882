// `fusco simulate FILE`: topologies by name and from files, calibration, what is printed, what is refused.

import { beforeEach, describe, expect, it } from 'vitest';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveRouting,
  saveRoutingByRank,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

beforeEach(async () => {
  const routing = Array.from({ length: 4 }, () => [
    [2, 3],
    [0, 3],
    [1, 2],
  ]);
  saveRouting('r.npy', routing);
  const plan = ['plan', 'r.npy', '--experts', '4', '--ranks-per-node', '2'];
  await fusco(...plan, '--strategy', 'hier', '--balance', 'rotate', '-o', 'hier.fusco');
  await fusco(...plan, '-o', 'flat.fusco');
});

interface Strategy {
  strategy: string;
  rule: string;
  us: number;
  dispatch: { us: number; stages: { name: string; us: number; startUs: number; endUs: number }[] };
  combine: { us: number };
  bound: { stage: string; resource: string; rank: number };
}

describe('a plan on a machine', () => {
  it('is compared with the other strategies, labelled as a model', async () => {
    const json = await fuscoJson('simulate', 'flat.fusco', '--topology', 'h100-8x8');
    const strategies = json.strategies as Strategy[];
    expect(json).toMatchObject({ model: true, label: expect.stringMatching(/^model/), own: 1 });
    expect(strategies.map(({ strategy, rule }) => [strategy, rule]).slice(0, 3)).toEqual([
      ['unfused', 'none'],
      ['flat fused', 'none'],
      ['hier', 'static'],
    ]);
    for (const { us, dispatch, combine, bound } of strategies) {
      expect(us).toBe(dispatch.us + combine.us);
      expect(dispatch.us).toBe(Math.max(...dispatch.stages.map(({ endUs }) => endUs)));
      expect(['nic', 'nvlink', 'hbm', 'permute']).toContain(bound.resource);
    }
  });

  it('is marked, bound to a resource, and drawn as text', async () => {
    const { code, stdout, stderr } = await fusco('simulate', 'hier.fusco', '--topology', 'h200-8x8');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('model: predicted from a cost model, not measured');
    expect(stdout).toMatch(/^hier, rotate.* \* /m);
    expect(stdout).toMatch(/\* this plan waits longest for the NIC of rank \d, in "forward"/);
    expect(stdout).toMatch(/^ {2}distribute +\| *[#-]+/m);
    expect(stdout.split('\n').every((line) => line.length <= 80)).toBe(true);
  });

  it('costs nothing where nothing moves', async () => {
    saveRoutingByRank('idle', [[], []], 1);
    await fusco('plan', 'idle', '--experts', '2', '-o', 'idle.fusco');
    const { code, stdout } = await fusco('simulate', 'idle.fusco', '--topology', 'h200-nvl8');
    expect(code).toBe(0);
    expect(stdout).toContain('nothing');
    expect(stdout).not.toContain('waits longest');
  });
});

describe('constants', () => {
  const times = async (...args: string[]) => {
    const json = await fuscoJson('simulate', 'hier.fusco', ...args);
    return (json.strategies as Strategy[]).map(({ us }) => us);
  };

  it('come from a JSON file, and the calibration file goes before them', async () => {
    const box = { name: 'box', nodes: 2, ranksPerNode: 2 };
    save('same.json', JSON.stringify(box));
    expect(await times('--topology', 'same.json')).toEqual(await times('--topology', 'h100-8x8'));
    save('slow.json', JSON.stringify({ ...box, constants: { nicGBps: 0.01 } }));
    const slow = await times('--topology', 'slow.json');
    save('cal.json', '{"nicGBps": 43}');
    expect(await times('--topology', 'slow.json', '--calibration', 'cal.json')).toEqual(
      await times('--topology', 'same.json'),
    );
    for (const [i, us] of (await times('--topology', 'same.json')).entries())
      expect(us).toBeLessThan(slow[i]!);
  });

  it.each([
    ['{"name": "x", "nodes": 2, "ranksPerNode": 2, "constants": {"nicGBps": 0}}', 'E_OPTION', /nicGBps is 0/],
    [
      '{"name": "x", "nodes": 2, "ranksPerNode": 2, "constants": {"nic": 1}}',
      'E_FORMAT',
      /nic is not one of/,
    ],
    ['{"name": "x", "nodes": 2, "ranksPerNode": 2, "constants": [1]}', 'E_FORMAT', /not a JSON object/],
    ['{"name": "x", "nodes": 2.5, "ranksPerNode": 2}', 'E_OPTION', /nodes is 2\.5/],
    ['{"name": "x", "nodes": "2", "ranksPerNode": 2}', 'E_OPTION', /nodes is "2"/],
    ['{"name": "x", "ranksPerNode": 2}', 'E_OPTION', /nodes is undefined/],
    ['{"nodes": 2, "ranksPerNode": 2}', 'E_FORMAT', /name is not a string/],
    ['{"name": "x", "nodes": 2, "ranksPerNode": 2, "gpus": 4}', 'E_FORMAT', /gpus/],
    [
      '{"name": "x", "nodes": 1, "ranksPerNode": 8}',
      'E_OPTION',
      /2 nodes x 2 ranks does not fit x, which has 1 x 8/,
    ],
    ['[]', 'E_FORMAT', /not a JSON object/],
    ['{', 'E_FORMAT', /not JSON/],
  ] as const)('a topology of %s is refused', async (text, code, message) => {
    save('t.json', text);
    expectRefusal(await fusco('simulate', 'hier.fusco', '--topology', 't.json'), code, message);
  });
});

it.each([
  [['hier.fusco'], 'E_USAGE', /--topology/],
  [['--topology', 'h100-8x8'], 'E_USAGE', /a plan file/],
  [['hier.fusco', '--topology', 'h300'], 'E_OPTION', /h300 is not one of h100-8x8, h200-nvl8, h200-8x8/],
  [['hier.fusco', '--topology', 'h200-nvl8'], 'E_OPTION', /does not fit h200-nvl8/],
  [['hier.fusco', '--topology', 'gone.json'], 'E_FILE_NOT_FOUND', /gone\.json/],
  [['hier.fusco', '--topology', 'h100-8x8', '--layer', '1'], 'E_USAGE', /belong to --paper/],
  [['r.npy', '--topology', 'h100-8x8'], 'E_PLAN_MAGIC', /r\.npy/],
] as const)('refuses %o', async (args, code, text) => {
  expectRefusal(await fusco('simulate', ...args), code, text);
});
