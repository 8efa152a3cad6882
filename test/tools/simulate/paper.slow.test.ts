// `fusco simulate --paper`: predictions next to the published times. The test states what is required of the
// model, separately for the columns that its constants are fitted to and for those that it predicts.

import { beforeEach, describe, expect, it } from 'vitest';
import { fitParameters } from '../../../tools/simulate/fit.ts';
import { PUBLISHED_MS, SYSTEMS } from '../../../tools/simulate/published.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveRouting,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

interface Cell {
  pattern: 'real' | 'one-node' | 'imbalanced';
  tokens: number;
  system: string;
  fitted: boolean;
  publishedMs: number;
  predictedMs: number;
  publishedSpeedup: number;
  predictedSpeedup: number;
}

const COLUMNS = [4096, 8192, 16384, 32768];
/** The columns whose published times the model's constants are fitted to. The others are predictions. */
const FITTED = [4096, 16384];

describe('with committed data alone', () => {
  let json: Record<string, unknown>;
  let cells: Cell[];
  beforeEach(async () => {
    json ??= await fuscoJson('simulate', '--paper');
    cells = json.cells as Cell[];
  });

  it('lists every published time and says which of them the constants are fitted to', () => {
    expect(json).toMatchObject({ model: true, label: expect.stringMatching(/^model/) });
    expect(cells).toHaveLength(3 * COLUMNS.length * SYSTEMS.length);
    for (const { pattern, tokens, system, publishedMs, fitted } of cells) {
      const column = (SYSTEMS as readonly string[]).indexOf(system);
      expect(publishedMs).toBe(PUBLISHED_MS[pattern][COLUMNS.indexOf(tokens)]![column]);
      expect([tokens, fitted]).toEqual([tokens, FITTED.includes(tokens)]);
    }
  });

  it.each([
    ['fitted', true],
    ['predicted', false],
  ])('the %s columns: times within 25 and speed-ups over NCCL within 20 per cent', (_, fitted) => {
    const chosen = cells.filter((cell) => cell.fitted === fitted);
    expect(chosen).toHaveLength(cells.length / 2);
    const errors = chosen.map(({ predictedMs, publishedMs }) => Math.abs(predictedMs / publishedMs - 1));
    expect(Math.max(...errors)).toBeLessThan(0.25);
    expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(0.1);
    for (const cell of chosen) {
      const ratio = cell.predictedSpeedup / cell.publishedSpeedup;
      expect(Math.abs(ratio - 1), JSON.stringify(cell)).toBeLessThan(0.2);
    }
  });

  it.each([
    ['fitted', true],
    ['predicted', false],
  ])('the %s columns: NCCL is slowest and FUSCO is fastest', (_, fitted) => {
    expect(json.ordered).toBe(true);
    for (let i = 0; i < cells.length; i += 3) {
      const [nccl, deepEp, fusco] = cells.slice(i, i + 3);
      if (nccl!.fitted !== fitted) continue;
      expect(nccl!.predictedMs).toBeGreaterThan(deepEp!.predictedMs);
      expect(deepEp!.predictedMs).toBeGreaterThan(fusco!.predictedMs);
    }
  });

  it('fits rates that stay below those of the data sheet', () => {
    const constants = json.constants as Record<string, number>;
    expect(constants.nicGBps).toBeLessThanOrEqual(50);
    expect(constants.nvlinkGBps).toBeLessThanOrEqual(480);
  });
});

it('takes expert counts as real traffic, and says in text that all of it is a model', async () => {
  const counts = Array.from({ length: 256 }, (_, expert) => 100 + (expert % 7));
  save('c.json', JSON.stringify({ logical_count: [counts] }));
  const { code, stdout, stderr } = await fusco('simulate', '--paper', '--counts', 'c.json', '--layer', '0');
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toContain('model: predicted from a cost model, not measured');
  expect(stdout).toContain('* fitted to the published times at 4096 and 16384 tokens');
  expect(stdout).toContain('real: drawn from the expert counts of layer 0 in c.json');
  expect(stdout).toMatch(/^ {3}8192 +80\.2 /m);
  expect(stdout).toContain('every row in the published order: yes');
});

it.each([
  [['p.fusco'], 'E_USAGE', /its own/],
  [['--topology', 'h100-8x8'], 'E_USAGE', /its own/],
  [['--routing', 'r.npy', '--counts', 'c.json'], 'E_USAGE', /not both/],
  [['--routing', 'r.npy'], 'E_RANKS', /2 ranks, not the 64/],
  [['--routing', 'wide.npy'], 'E_ROUTING_SHAPE', /topk 1, the paper has 8/],
  [['--counts', 'c.json'], 'E_USAGE', /--layer/],
  [['--counts', 'c.json', '--layer', '0'], 'E_OPTION', /2 experts, the paper has 256/],
] as const)('refuses %o', async (args, code, text) => {
  save('c.json', '{"logical_count": [[1,1]]}');
  saveRouting('r.npy', [[[0]], [[1]]]);
  saveRouting(
    'wide.npy',
    Array.from({ length: 64 }, () => [[0]]),
  );
  expectRefusal(await fusco('simulate', '--paper', ...args), code, text);
});

describe('the fit', () => {
  const bowl = (at: readonly number[]) => (values: readonly number[]) =>
    values.reduce((sum, value, i) => sum + (Math.log(value) - Math.log(at[i]!)) ** 2, 0);
  const factor = (min: number, max: number) =>
    ({ name: 'p', starts: [1], min, max, scale: 'factor' }) as const;

  it('finds the bottom of a bowl, inside its limits', () => {
    const [a, b] = fitParameters([factor(1e-3, 1e3), factor(1e-3, 1e3)], bowl([20, 0.3]));
    expect(a! / 20).toBeCloseTo(1, 2);
    expect(b! / 0.3).toBeCloseTo(1, 2);
    expect(fitParameters([factor(1e-3, 5)], bowl([20]))).toEqual([5]);
  });

  it('takes the best of several starts', () => {
    // Two valleys; the deeper one is found only from the second start.
    const cost = ([x]: readonly number[]) => Math.min((x! - 1) ** 2 + 0.5, (x! - 9) ** 2);
    const parameter = { name: 'x', min: 0, max: 10, scale: 'difference' } as const;
    expect(fitParameters([{ ...parameter, starts: [0] }], cost)[0]).toBeCloseTo(1, 1);
    expect(fitParameters([{ ...parameter, starts: [0, 8] }], cost)[0]).toBeCloseTo(9, 1);
  });
});
