import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findAddon } from '../../executor/native/addon.ts';
import { buildExamples, runExample } from './support.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-train-'));
  buildExamples();
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Run {
  ranks: number;
  backend: string;
  losses: number[];
  accuracy: [number, number];
  stageMilliseconds: Record<string, number>;
}

/** Trains in the short form and gives what both runs, on many ranks and on one, wrote. */
async function train(...args: string[]) {
  const file = join(folder, 'result.json');
  const { code, stdout, stderr } = await runExample('train', ['--short', '--json', file, ...args]);
  const result = JSON.parse(readFileSync(file, 'utf8')) as { isSame: boolean; learned: boolean; runs: Run[] };
  return { code, stdout, stderr, ...result };
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('the training example', () => {
  it('learns to read digits, with the same losses on four ranks and on one', async () => {
    const { code, stdout, stderr, isSame, learned, runs } = await train();
    expect({ code, stderr, isSame, learned }).toEqual({ code: 0, stderr: '', isSame: true, learned: true });
    const [four, one] = runs as [Run, Run];
    expect([four.ranks, one.ranks]).toEqual([4, 1]);
    expect(four.losses.length).toBe(40);
    expect(four.losses).toEqual(one.losses);
    expect(four.losses.every((loss) => loss === Math.fround(loss) && loss > 0)).toBe(true);
    // By chance one of ten digits is right, at a loss of about ln 10.
    expect(four.losses[0]).toBeGreaterThan(1.8);
    expect(mean(four.losses.slice(-5))).toBeLessThan(0.4 * four.losses[0]!);
    expect(four.accuracy[0]).toBeLessThan(0.25);
    expect(four.accuracy[1]).toBeGreaterThan(0.75);
    for (const stage of ['gate', 'plan', 'prepare', 'dispatch', 'combine', 'experts', 'gateBackward']) {
      expect(four.stageMilliseconds[stage], stage).toBeGreaterThan(0);
    }
    expect(stdout).toMatch(/step +1 of 40 {2}loss \d/);
    expect(stdout).toContain('all 40 losses');
  });

  it('has the same losses on two ranks and on the reference', async () => {
    const runs = [(await train()).runs[0]!, (await train('--ranks', '2', '--backend', 'reference')).runs[0]!];
    expect(runs.map(({ ranks }) => ranks)).toEqual([4, 2]);
    expect(runs[0]!.backend).toBe(findAddon().addon === undefined ? 'reference' : 'host');
    expect(runs[1]!.backend).toBe('reference');
    expect(runs[1]!.losses).toEqual(runs[0]!.losses);
  });

  it('fails where one rank adds in another order: the comparison can see a bit', async () => {
    const { code, stdout, isSame, runs } = await train('--steps', '3', '--one-rank-blocks', '2');
    expect([code, isSame]).toEqual([1, false]);
    expect(stdout).toMatch(/losses differ from step \d/);
    expect(Math.abs(runs[0]!.losses[0]! - runs[1]!.losses[0]!)).toBeLessThan(1e-5);
  });

  it.each([
    [['--ranks', '3'], '4 blocks do not fill 3 ranks evenly'],
    [['--steps', '0'], '--steps 0 is not a whole number from 1'],
    [['--backend', 'tpu'], 'error[E_BACKEND]: no backend is called tpu'],
    [['--nonsense'], "Unknown option '--nonsense'"],
  ])('refuses %o', async (args, text) => {
    const { code, stderr } = await runExample('train', args);
    expect(code).toBe(2);
    expect(stderr).toContain(text);
  });
});
