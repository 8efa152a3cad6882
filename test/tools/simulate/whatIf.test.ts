// `fusco simulate RECORDING --placement A,B,C`: what other placements would have done.

import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { Recorder } from '../../../executor/training/recorder.ts';
import { loadPlanner } from '../../../planner/node.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import type { PlacementFigures as Figures } from '../../../tools/simulate/whatIf.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveRouting,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

/** A machine on which a row of 1000 bytes takes 1 us within a node and 10 us between nodes, and nothing else takes time. */
const MACHINE = {
  name: 'simple',
  nodes: 2,
  ranksPerNode: 2,
  constants: {
    ...{ nvlinkGBps: 1, nvlinkLatencyUs: 0, nicGBps: 0.1, nicLatencyUs: 0 },
    ...{ hbmGBps: 1e6, launchUs: 0, setupUs: 0 },
  },
};

const table = (experts: readonly number[]) => ({
  ids: Int32Array.from(experts),
  tokens: experts.length,
  topk: 1,
});

/**
 * 4 ranks, 2 a node; experts 0 to 3 in blocks. In both steps rank 0 has 4 tokens for expert 2, on the other node; in the
 * second one rank 3 has 2 for expert 3, on itself.
 */
beforeEach(async () => {
  save('machine.json', JSON.stringify(MACHINE));
  const planner = await loadPlanner();
  await using recorder = await Recorder.open('recording');
  for (const last of [[], [3, 3]]) {
    const tables = [table([2, 2, 2, 2]), table([]), table([]), table(last)];
    const options = { ranks: 4, experts: 4, ranksPerNode: 2, hidden: 1000, dtype: 'fp8' } as const;
    recorder.add(tables, planner.planAll(tables, options));
  }
  await recorder.flush();
  // Expert 2 on rank 1; and on ranks 1 and 2.
  save('near.json', '[0, 2, 1, 3]');
  save('both.json', '[0, 1, [1, 2], 3]');
});

const simulate = (...args: string[]) => ['simulate', 'recording', '--topology', 'machine.json', ...args];

describe('a recording of two steps', () => {
  it('is planned under every placement: imbalance, bytes and time of each step and of all', async () => {
    const json = await fuscoJson(...simulate('--placement', 'recorded,near.json,both.json'));
    expect(json).toMatchObject({ model: true, steps: [0, 1], tokens: [4, 6] });
    const [recorded, near, both] = json.placements as [Figures, Figures, Figures];
    // All 4 rows of step 0 are on rank 2: 4 times the mean of 1. Step 1 has 6 rows, 4 of them there.
    expect(recorded.steps).toMatchObject([
      { rankMaxOverMean: 4, intraNodeBytes: 0, interNodeBytes: 4000 },
      { rankMaxOverMean: 4 / 1.5, intraNodeBytes: 0, interNodeBytes: 4000 },
    ]);
    expect(recorded.overall).toMatchObject({ rankMaxOverMean: 4, intraNodeBytes: 0, interNodeBytes: 8000 });
    expect(near.overall).toMatchObject({ rankMaxOverMean: 4, intraNodeBytes: 8000, interNodeBytes: 0 });
    // Quotas: 2 rows on each host.
    expect(both.steps[0]).toMatchObject({ rankMaxOverMean: 2, intraNodeBytes: 2000, interNodeBytes: 2000 });
    expect([recorded.replicas, near.replicas, both.replicas]).toEqual([0, 0, 1]);
    // fp8 rows return as bf16: dispatch and combine of 4 rows between nodes take 40 and 80 us, on NVLink a tenth of that.
    expect(recorded.overall.us).toBeGreaterThan(2 * near.overall.us);
    expect(near.overall.us).toBeLessThan(both.overall.us);
    expect(await fuscoJson(...simulate('--placement', 'recorded,near.json,both.json'))).toEqual(json);
  });

  it('says after how many tokens moving weights pays', async () => {
    const json = await fuscoJson(
      ...simulate('--placement', 'recorded,near.json,recorded', '--expert-bytes', '100000'),
    );
    const [recorded, near, again] = json.placements as [Figures, Figures, Figures];
    expect(recorded.move).toBeUndefined();
    // Expert 1 moves from rank 1 to rank 2, and expert 2 the other way: 100 kB per direction of a NIC with 0.1 GB/s.
    expect(near.move).toMatchObject({ instances: 2, bytes: 200000, us: 1000 });
    const saved = (recorded.overall.us - near.overall.us) / 10;
    expect(near.move!.breakEvenTokens).toBe(Math.ceil(1000 / saved));
    expect(again.move).toEqual({ instances: 0, bytes: 0, us: 0, breakEvenTokens: 0 });
    const back = await fuscoJson(...simulate('--placement', 'near.json,blocks', '--expert-bytes', '1'));
    expect((back.placements as Figures[])[1]!.move!.breakEvenTokens).toBeNull();
  });

  it('is shown as text, and as a report that loads nothing', async () => {
    const args = simulate(
      '--placement',
      'blocks,both.json',
      '--expert-bytes',
      '1000',
      '--html',
      'report.html',
    );
    const { code, stdout, stderr } = await fusco(...args);
    expect(code).toBe(0);
    expect(stdout).toContain(
      'recording: 2 steps on simple\nmodel: predicted from a cost model, not measured',
    );
    expect(stdout).toMatch(/^blocks +1 +2\.667 +0 B +3\.91 KiB/m);
    expect(stdout).toMatch(/^both\.json +1 +2\.000 .* 1 \(1000 B\)/m);
    expect(stderr).toMatch(/^report of 2 placements: .* -> report\.html$/m);
    const page = readFileSync('report.html', 'utf8');
    expect(page).toContain('aria-label="step 1, both.json: 1.33');
    expect(page).not.toMatch(/\b(src|href)="(?!#)/);
    expect(page.match(/<polyline/g)).toHaveLength(6);
  });
});

describe('placements', () => {
  it('have an older name of their option, which also takes a single one', async () => {
    const args = simulate('--placement', 'blocks,near.json');
    const json = await fuscoJson(...args);
    expect(await fuscoJson(...simulate('--placements', 'blocks,near.json'))).toEqual(json);
    const { placements } = await fuscoJson(...simulate('--placements', 'near.json'));
    expect(placements).toEqual([(json.placements as Figures[])[1]]);
    expectRefusal(await fusco(...args, '--placements', 'blocks'), 'E_USAGE', /not both/);
  });

  it('are those of chosen steps', async () => {
    const both = await fuscoJson(...simulate('--placement', 'blocks,recorded'));
    const second = await fuscoJson(...simulate('--placement', 'blocks,recorded', '--step', '1'));
    expect(second).toMatchObject({ steps: [1], tokens: [6] });
    expect(await fuscoJson(...simulate('--placement', 'blocks,recorded', '--steps', '1-9'))).toEqual(second);
    const [of, all] = [second, both].map(({ placements }) => (placements as Figures[])[0]!.steps);
    expect(of).toEqual([all![1]]);
  });

  it('are compared for the routing of a plan, with its options', async () => {
    saveRouting('r.npy', [[[0]], [[0]], [[1]], [[2]]]);
    const options = ['--experts', '4', '--ranks-per-node', '2', '--hidden', '1000', '--dtype', 'fp8'];
    await fusco('plan', 'r.npy', ...options, '-o', 'p.fusco');
    const args = ['--placement', 'blocks,near.json', '--topology', 'machine.json'];
    const json = await fuscoJson('simulate', 'p.fusco', ...args);
    expect(json).toMatchObject({ steps: [0], tokens: [4] });
    expectRefusal(
      await fusco('simulate', 'p.fusco', ...args, '--ranks', '2'),
      'E_RANKS',
      /4 ranks, not the 2/,
    );
  });

  it('take the steps of another program, and one layer', async () => {
    const ids = Int32Array.of(0, 1, 0, 1, 2, 3, 2, 3, 1, 2, 1, 2, 3, 0, 3, 0);
    save('steps.npy', Buffer.concat([...encodeNpy('i32', [2, 4, 2, 1], ids)]));
    const args = ['--axes', 'steps,tokens,layers,topk', '--ranks', '4', '--experts', '4'];
    const compared = ['--placement', 'blocks,round-robin', '--topology', 'machine.json', ...args];
    const found = await fuscoJson('simulate', 'steps.npy', ...compared, '--layer', '1');
    expect(found).toMatchObject({ steps: [0, 1], tokens: [4, 4] });
    expectRefusal(
      await fusco('simulate', 'steps.npy', ...compared),
      'E_FOREIGN',
      /layers 0, 1: give --layer/,
    );
  });
});

describe('a routing that is no recording', () => {
  it('is one step; experts and strategy are options', async () => {
    saveRouting('r.npy', [[[0]], [[0]], [[1]], [[2]]]);
    const args = [
      'simulate',
      'r.npy',
      '--topology',
      'machine.json',
      '--placement',
      'blocks,round-robin',
      '--experts',
      '4',
    ];
    const json = await fuscoJson(...args, '--strategy', 'hier');
    expect(json).toMatchObject({
      steps: [0],
      tokens: [4],
      placements: [{ overall: { rankMaxOverMean: 2 } }, { overall: { rankMaxOverMean: 2 } }],
    });
    const text = await fusco(...args);
    expect(text.stdout).toContain('1 step on simple');
    expect(text.stdout).not.toContain('all steps');
  });

  it.each([
    [['r.npy', '--placement', 'blocks,', '--topology', 'machine.json'], 'E_USAGE', /needs --experts/],
    [
      ['r.npy', '--placement', 'recorded', '--topology', 'machine.json'],
      'E_USAGE',
      /recorded needs a recording/,
    ],
    [
      ['recording', '--placement', 'blocks,no.json', '--topology', 'machine.json'],
      'E_FILE_NOT_FOUND',
      /no\.json/,
    ],
    [
      ['recording', '--placement', 'blocks,recorded', '--topology', 'h200-nvl2'],
      'E_OPTION',
      /does not fit h200-nvl2/,
    ],
    [
      ['p.fusco', '--topology', 'machine.json', '--expert-bytes', '4'],
      'E_USAGE',
      /are only valid with --placement A,B,C/,
    ],
    [
      ['recording', '--placement', 'blocks,recorded', '--sweep', 'ranks=2'],
      'E_USAGE',
      /cannot be combined with --trace or --sweep/,
    ],
  ] as const)('refuses %o', async (args, code, text) => {
    saveRouting('r.npy', [[[0]], [[0]], [[1]], [[2]]]);
    expectRefusal(await fusco('simulate', ...args), code, text);
  });
});
