// The model against what was measured on two and four GPUs, and docs/simulate.md, which shows the comparison.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { measuredTable } from '../../../tools/cli/simulate/measured.ts';
import { compareMeasured } from '../../../tools/simulate/measured.ts';
import { ROOT } from '../../support/programs.ts';
import { planner } from './support.ts';

const result = compareMeasured(planner);

it('is within 10 % in the median and 25 % at most', () => {
  const errors = result.cells.map(({ measuredMs, predictedMs }) => Math.abs(predictedMs / measuredMs - 1));
  const sorted = [...errors].sort((a, b) => a - b);
  expect(sorted[Math.floor(sorted.length / 2)]!).toBeLessThanOrEqual(0.1);
  expect(sorted.at(-1)!).toBeLessThanOrEqual(0.25);
  expect(result.median).toBeLessThanOrEqual(0.1);
  expect(result.largest).toBe(sorted.at(-1));
});

it('quotes times that docs/performance-gpus.md lists', () => {
  const text = readFileSync(join(ROOT, 'docs/performance-gpus.md'), 'utf8');
  const numbers = new Set(text.match(/\d+\.\d+/g)!.map(Number));
  const missing = result.cells.map(({ measuredMs }) => measuredMs).filter((ms) => !numbers.has(ms));
  expect(missing).toEqual([]);
});

it('is the table of docs/simulate.md', () => {
  const text = readFileSync(join(ROOT, 'docs/simulate.md'), 'utf8');
  expect(text).toContain(measuredTable(result));
});
