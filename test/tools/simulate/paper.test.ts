// `fusco simulate --paper`: predictions beside what was published. What is required of the model, not its figures.

import { describe, expect, it } from 'vitest';
import { fitParameters } from '../../../tools/simulate/fit.ts';
import { PUBLISHED_MS, SYSTEMS } from '../../../tools/simulate/published.ts';
import { expectRefusal, fusco, fuscoJson, save, saveRouting, useTemporaryDirectory } from '../cli/support.ts';

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

describe('with committed data alone', () => {
  it('every row comes in the published order, and speed-ups over NCCL within 25 per cent', async () => {
    const json = await fuscoJson('simulate', '--paper');
    const cells = json.cells as Cell[];
    expect(json).toMatchObject({ model: true, label: expect.stringMatching(/^model/), ordered: true });
    expect(cells).toHaveLength(36);
    for (const cell of cells) {
      const ratio = cell.predictedSpeedup / cell.publishedSpeedup;
      expect(Math.abs(ratio - 1), JSON.stringify(cell)).toBeLessThan(0.25);
      expect(cell.fitted).toBe(cell.tokens === 4096 || cell.tokens === 16384);
      const row = [4096, 8192, 16384, 32768].indexOf(cell.tokens);
      const column = (SYSTEMS as readonly string[]).indexOf(cell.system);
      expect(cell.publishedMs).toBe(PUBLISHED_MS[cell.pattern][row]![column]);
    }
    for (let i = 0; i < cells.length; i += 3) {
      const [nccl, deepEp, fusco] = cells.slice(i, i + 3).map(({ predictedMs }) => predictedMs);
      expect(nccl).toBeGreaterThan(deepEp!);
      expect(deepEp).toBeGreaterThan(fusco!);
    }
    // Fitted rates stay below what the machine's data sheet says.
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
