// `fusco simulate FILE`: topologies by name and from files, calibration, what is printed, what is refused.

import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveNpy,
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

/** Two nodes of two ranks, as a topology file. */
const BOX = { name: 'box', nodes: 2, ranksPerNode: 2 };

describe('a plan on a machine', () => {
  beforeEach(() => save('box.json', JSON.stringify(BOX)));

  it('is compared with the other strategies, labelled as a model', async () => {
    const json = await fuscoJson('simulate', 'flat.fusco', '--topology', 'box.json');
    const strategies = json.strategies as Strategy[];
    expect(json).toMatchObject({ model: true, label: expect.stringMatching(/^model/), own: 1 });
    expect(strategies.map(({ strategy }) => strategy)).toEqual(
      expect.arrayContaining(['unfused', 'flat fused', 'hier', 'once per rank']),
    );
    expect(strategies[json.best as number]!.us).toBe(Math.min(...strategies.map(({ us }) => us)));
    for (const { us, dispatch, combine, bound } of strategies) {
      expect(us).toBe(dispatch.us + combine.us);
      expect(dispatch.us).toBe(Math.max(...dispatch.stages.map(({ endUs }) => endUs)));
      expect(['nic', 'nvlink', 'hbm', 'permute']).toContain(bound.resource);
    }
  });

  it('is marked, bound to a resource, and drawn as text', async () => {
    const { code, stdout, stderr } = await fusco('simulate', 'hier.fusco', '--topology', 'box.json');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('model: predicted from a cost model, not measured');
    expect(stdout).toMatch(/^hier, rotate.* \* /m);
    expect(stdout).toMatch(/^ {2}distribute +\| *[#-]+/m);
    // The grid of the timeline is as wide in every line.
    const bars = stdout.split('\n').filter((line) => / \|[ #-]{28} /.test(line));
    expect(new Set(bars.map((line) => line.indexOf('|'))).size).toBe(1);
    expect(stdout.trimEnd().split('\n').at(-1)).toMatch(
      /^Bound by the (NIC|NVLink|memory) of rank \d \([a-z ]+\); .* would take .* less( time)?\.$/,
    );
  });

  it('inside one machine is led to once per rank, with the options that plan it', async () => {
    const choose = Array.from({ length: 64 }, (_, i) => [i % 8, (i + 1) % 8, (i + 2) % 8, (i + 3) % 8]);
    saveRouting('wide.npy', Array(2).fill(choose));
    await fusco('plan', 'wide.npy', '--experts', '8', '-o', 'wide.fusco');
    const { stdout } = await fusco('simulate', 'wide.fusco', '--topology', 'h100-nvl2');
    expect(stdout).toMatch(/^once per rank \(fastest\)/m);
    expect(stdout).toMatch(/once per rank \(--strategy hier --ranks-per-node 1\) would take .* less time/);
    await fusco(
      'plan',
      'wide.npy',
      '--experts',
      '8',
      '--strategy',
      'hier',
      '--ranks-per-node',
      '1',
      '-o',
      'o.fusco',
    );
    const json = await fuscoJson('simulate', 'o.fusco');
    expect(json).toMatchObject({ topology: { name: 'h100-nvl8' } });
    expect((json.strategies as Strategy[])[json.own as number]!.strategy).toBe('once per rank');
    expect(json.own).toBe(json.best);
  });

  it('takes a routing, and says how many experts it assumes', async () => {
    const { code, stdout, stderr } = await fusco('simulate', 'r.npy');
    expect([code, stderr.split('\n').slice(1)]).toEqual([
      0,
      ['note: 4 experts: the largest id plus one; --experts sets their number', ''],
    ]);
    expect(stdout).toContain('r.npy on h100-nvl8');
    expect((await fusco('simulate', 'r.npy', '--experts', '4')).stderr).not.toContain('largest id');
  });

  it('with more ranks than the machine has is planned again for it', async () => {
    saveRouting(
      'many.npy',
      Array(16).fill([
        [0, 1],
        [2, 3],
      ]),
    );
    const { code, stdout, stderr } = await fusco(
      'simulate',
      'many.npy',
      '--experts',
      '16',
      '--topology',
      'h100-nvl8',
    );
    expect(code).toBe(0);
    expect(stderr).toContain(
      'note: 16 ranks do not fit h100-nvl8: the same tokens are planned again for its 8\n',
    );
    expect(stdout).toContain('8 ranks, 8 per node');
  });

  it('plans the tokens of a plan again for the options that are given, on other ranks in equal blocks', async () => {
    await fusco('plan', 'r.npy', '--as-batch', '--ranks', '2', '--experts', '4', '-o', 'two.fusco');
    const two = await fuscoJson('simulate', 'two.fusco');
    const { notices, ...again } = await fuscoJson('simulate', 'flat.fusco', '--ranks', '2');
    expect(again).toEqual(two);
    expect(notices).toEqual([
      'flat.fusco: its tokens are planned again with the options of the command line',
    ]);
    const hier = await fuscoJson('simulate', 'hier.fusco');
    const given = ['--strategy', 'hier', '--balance', 'rotate', '--node-sizes', '2,2'];
    expect(await fuscoJson('simulate', 'flat.fusco', ...given)).toMatchObject({ planId: hier.planId });
    expect(await fuscoJson('simulate', 'flat.fusco', '--strategy', 'flat')).not.toHaveProperty('notices');
    expectRefusal(await fusco('simulate', 'r.npy', '--ranks', '2'), 'E_RANKS', /--as-batch/);
  });

  it('sweeps one routing, not the first of several', async () => {
    const args = ['simulate', 'r.npy', '--axes', 'steps,tokens,topk', '--ranks', '2', '--sweep', 'tokens=2'];
    expectRefusal(await fusco(...args), 'E_USAGE', /--step/);
    expect(await fuscoJson(...args, '--step', '1')).toMatchObject({ results: [{ tokens: [2, 2] }] });
  });

  it('sweeps every combination of tokens, ranks, capacity and machines', async () => {
    const sweep = [
      '--sweep',
      'tokens=4,8',
      '--sweep',
      'ranks=2,4',
      '--sweep',
      'topology=h100-nvl4,gb200-nvl72',
    ];
    const json = await fuscoJson('simulate', 'flat.fusco', ...sweep);
    const results = json.results as { topology: string; ranks: number; tokens: number[] }[];
    expect(results.map(({ topology, ranks, tokens }) => `${topology} ${ranks} ${tokens}`)).toEqual(
      ['2 4,4', '4 4,4,4,4', '2 8,8', '4 8,8,8,8'].flatMap((rest) =>
        ['h100-nvl4', 'gb200-nvl72'].map((name) => `${name} ${rest}`),
      ),
    );
    const capped = await fuscoJson('simulate', 'flat.fusco', '--sweep', 'capacity=0,1');
    const [all, few] = capped.results as { droppedEntries: number }[];
    expect([all!.droppedEntries, few!.droppedEntries > 0]).toEqual([0, true]);
    expectRefusal(await fusco('simulate', 'flat.fusco', '--sweep', 'experts=1'), 'E_USAGE', /tokens, ranks/);
  });

  it('says whether replicas help, against the plan as it is', async () => {
    saveRouting('hot.npy', Array(4).fill(Array.from({ length: 64 }, () => [0])));
    await fusco('plan', 'hot.npy', '--experts', '4', '-o', 'hot.fusco');
    const args = ['simulate', 'hot.fusco', '--sweep', 'replicas=0,3', '--intermediate', '4096'];
    const { asItIs, results } = await fuscoJson(...args);
    expect(asItIs).toMatchObject({ instances: 4, rankMaxOverMean: 4 });
    expect(results).toMatchObject([{ instances: 4 }, { instances: 7, rankMaxOverMean: 1 }]);
    const text = await fusco(...args);
    expect(text.stdout).toMatch(/^h100-nvl8 .* as it is +4\.000 x /m);
    expect(text.stdout).toMatch(
      /\nBest: experts packed by load with 3 replicas; exchange and experts take .* instead of .* % less\)\.\n$/,
    );
    const none = await fusco('simulate', 'hot.fusco', '--sweep', 'replicas=0', '--intermediate', '4096');
    expect(none.stdout).toMatch(
      /\nReplicas do not help: exchange and experts take .* with the plan as it is\.\n$/,
    );
  });

  it('puts a run of the plan next to its prediction', async () => {
    const rows = { shape: [4, 3, 8], data: new Float32Array(96).fill(1) };
    saveNpy('x.npy', 'f32', rows.shape, rows.data);
    const run = await fusco(
      'run',
      'hier.fusco',
      '--input',
      'x.npy',
      '--out',
      'out',
      '--backend',
      'reference',
      '--json',
    );
    save('run.json', run.stdout);
    const { dispatch, combine } = JSON.parse(run.stdout);
    const { measured } = await fuscoJson('simulate', 'hier.fusco', '--run', 'run.json');
    expect(measured).toEqual({
      backend: 'reference',
      dispatchUs: dispatch.nanoseconds / 1e3,
      combineUs: combine.nanoseconds / 1e3,
    });
    const { stdout } = await fusco('simulate', 'hier.fusco', '--run', 'run.json');
    expect(stdout).toMatch(
      /^measured on the reference backend: dispatch .* x the model\), combine .* x the model\)$/m,
    );
    const report = ['inspect', 'hier.fusco', '--html', 'report.html', '--run', 'run.json'];
    const shown = await fusco(...report);
    expect([shown.code, shown.stdout]).toEqual([
      0,
      expect.stringMatching(/^measured .* on the reference backend/m),
    ]);
    expect(readFileSync('report.html', 'utf8')).toContain('measured, reference backend');
    expectRefusal(
      await fusco('simulate', 'flat.fusco', '--run', 'run.json'),
      'E_OPTION',
      /the run executed plan/,
    );
    save('other.json', '{"planId": 1}');
    expectRefusal(
      await fusco('simulate', 'flat.fusco', '--run', 'other.json'),
      'E_FORMAT',
      /fusco run --json/,
    );
  });

  it('answers whether replicas help: imbalance, and the time of the experts', async () => {
    saveRouting('hot.npy', Array(4).fill(Array.from({ length: 32 }, () => [0])));
    await fusco('plan', 'hot.npy', '--experts', '4', '-o', 'hot.fusco');
    const args = ['simulate', 'hot.fusco', '--sweep', 'replicas=0,3', '--intermediate', '4096'];
    const json = await fuscoJson(...args);
    const [none, three] = json.results as { instances: number; rankMaxOverMean: number; expertUs: number }[];
    expect([none!.instances, none!.rankMaxOverMean]).toEqual([4, 4]);
    // One instance of the hot expert on each rank.
    expect([three!.instances, three!.rankMaxOverMean]).toEqual([7, 1]);
    expect(three!.expertUs).toBeLessThanOrEqual(none!.expertUs);
    expect((await fusco(...args)).stdout).toMatch(/^machine .* replicas +busiest rank +experts/m);
  });

  it('counts the experts: their time, the layer, and the memory of the fullest rank', async () => {
    const experts = ['--intermediate', '1024', '--model-layers', '10'];
    const json = await fuscoJson('simulate', 'flat.fusco', ...experts);
    const layer = json.layer as { experts: { us: number; bound: string }; us: number };
    // One expert per rank with six rows: reading 3 x 7168 x 1024 weights of two bytes takes longer than the products.
    const weights = 3 * 7168 * 1024 * 2;
    expect(layer.experts).toMatchObject({ bound: 'weights' });
    expect(layer.experts.us).toBeCloseTo(weights / (3350 * 0.88 * 1e3), 6);
    const strategies = json.strategies as Strategy[];
    expect(layer.us).toBeCloseTo(layer.experts.us + strategies[json.own as number]!.us, 9);
    expect(json.memory).toMatchObject({ weights: 10 * weights });
    expect((await fusco('simulate', 'flat.fusco')).stdout).toContain('--model NAME or --intermediate N');
    expectRefusal(await fusco('simulate', 'flat.fusco', '--model', 'gpt'), 'E_OPTION', /deepseek-v3/);
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
    save('same.json', JSON.stringify({ name: 'whole', nodes: 8, ranksPerNode: 8 }));
    expect(await times('--topology', 'same.json')).toEqual(await times('--topology', 'h100-8x8'));
    save('same.json', JSON.stringify(BOX));
    save('slow.json', JSON.stringify({ ...BOX, constants: { nicGBps: 0.01 } }));
    const slow = await times('--topology', 'slow.json');
    save('cal.json', '{"nicGBps": 43}');
    expect(await times('--topology', 'slow.json', '--calibration', 'cal.json')).toEqual(
      await times('--topology', 'same.json'),
    );
    for (const [i, us] of (await times('--topology', 'same.json')).entries())
      expect(us).toBeLessThan(slow[i]!);
  });

  it('of what simulate printed are a calibration as they are', async () => {
    save('slow.json', JSON.stringify({ ...BOX, constants: { nicGBps: 0.01 } }));
    save('printed.json', (await fusco('simulate', 'hier.fusco', '--topology', 'slow.json', '--json')).stdout);
    save('same.json', JSON.stringify(BOX));
    expect(await times('--topology', 'same.json', '--calibration', 'printed.json')).toEqual(
      await times('--topology', 'slow.json'),
    );
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
    ['{"name": "x", "nodes": 1, "ranksPerNode": 8, "memoryGB": 0}', 'E_OPTION', /memoryGB is 0/],
    ['[]', 'E_FORMAT', /not a JSON object/],
    ['{', 'E_FORMAT', /not JSON/],
  ] as const)('a topology of %s is refused', async (text, code, message) => {
    save('t.json', text);
    expectRefusal(await fusco('simulate', 'hier.fusco', '--topology', 't.json'), code, message);
  });
});

it.each([
  [['--topology', 'h100-8x8'], 'E_USAGE', /a plan or a routing/],
  [['hier.fusco', '--topology', 'h300'], 'E_OPTION', /h300 is not one of h100-nvl2, .*gb200-nvl72/],
  [['hier.fusco', '--topology', 'h100-2x9'], 'E_OPTION', /M up to 8/],
  [['hier.fusco', '--topology', 'gone.json'], 'E_FILE_NOT_FOUND', /gone\.json/],
  [['hier.fusco', '--counts', 'c.json'], 'E_USAGE', /only valid with --paper/],
  [['hier.fusco', '--steps', '0-3'], 'E_USAGE', /only valid for recordings/],
  [['hier.fusco', '--model', 'mixtral-8x7b', '--intermediate', '8'], 'E_USAGE', /not both/],
  [['hier.fusco', '--sweep', 'tokens='], 'E_USAGE', /tokens=512,4096/],
] as const)('refuses %o', async (args, code, text) => {
  expectRefusal(await fusco('simulate', ...args), code, text);
});

describe('a recording', () => {
  const line = (step: number, layer: number, rank: number, ids: number[][]) =>
    JSON.stringify({
      ...{ step, stage: 'pre_dispatch', block: 'decoder', layer, rank },
      ...{ num_tokens: ids.length, topk: 1, top_indices: ids },
    });
  beforeEach(() => {
    for (const rank of [0, 1]) {
      const lines = [0, 1].flatMap((step) =>
        [3, 4].map((layer) => line(step, layer, rank, layer === 3 ? [[0], [1]] : [[0], [0], [0], [1]])),
      );
      save(`trace/router_trace_rank${rank}.jsonl`, `${lines.join('\n')}\n`);
    }
  });

  it('is predicted step by step and layer by layer, and summed up', async () => {
    const json = await fuscoJson('simulate', 'trace', '--experts', '2', '--ranks', '2');
    const routings = json.routings as { step: number; layer: number; rankMaxOverMean: number }[];
    expect(routings.map(({ step, layer, rankMaxOverMean }) => [step, layer, rankMaxOverMean])).toEqual([
      [0, 3, 1],
      [0, 4, 1.5],
      [1, 3, 1],
      [1, 4, 1.5],
    ]);
    const { stdout } = await fusco('simulate', 'trace', '--experts', '2', '--steps', '1');
    expect(stdout).toContain('trace: 2 routings on h100-nvl8');
    expect(stdout).toContain('imbalance: 1.250 on average, 1.500 at most (step 1, layer 4)');
    expect(stdout).toMatch(/^once per rank: .* in all$/m);
  });

  it('is inspected step by step', async () => {
    const json = await fuscoJson('inspect', 'trace', '--experts', '2', '--layers', '4');
    expect(json.routings).toMatchObject([
      { step: 0, layer: 4, tokens: 8, rankMaxOverMean: 1.5, expertMaxOverMean: 1.5 },
      { step: 1, layer: 4, tokens: 8, rankMaxOverMean: 1.5, expertMaxOverMean: 1.5 },
    ]);
    const { stdout } = await fusco('inspect', 'trace', '--experts', '2');
    expect(stdout).toContain('busiest rank: 1.250 x the mean on average, 1.500 x at most');
  });

  it('is planned into a file for each step and layer', async () => {
    const json = await fuscoJson(
      'plan',
      'trace',
      '--experts',
      '2',
      '--layers',
      '4',
      '--steps',
      '0-1',
      '-o',
      'plans',
    );
    expect((json.plans as { file: string }[]).map(({ file }) => file)).toEqual([
      'plans/step0-layer4.fusco',
      'plans/step1-layer4.fusco',
    ]);
    expect((await fusco('verify', 'plans/step1-layer4.fusco')).code).toBe(0);
    expectRefusal(
      await fusco('plan', 'trace', '--experts', '2', '--steps', '7-9', '-o', 'plans'),
      'E_FOREIGN',
      /no routing in these steps/,
    );
    expectRefusal(
      await fusco('plan', 'trace', '--experts', '2', '--steps', '9-7'),
      'E_USAGE',
      /a range like 3-60/,
    );
  });
});
