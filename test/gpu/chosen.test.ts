// The names by which cases are chosen for compute-sanitizer. No GPU is needed.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { Cuda } from '../../executor/backends/cuda/context.ts';
import { chosenCases } from './chosen.ts';
import { exchangeCases } from './nccl/cases.ts';
import { deviceExchangeCases } from './nccl/deviceExchanges.ts';
import { extremeRankCases } from './nccl/extremes.ts';
import { sanitizedCases } from './sanitizedCases.ts';

const cases = ['one a', 'one b', 'two'].map((name) => ({ name }));

it('cases are those that have a part in their names, in their own order', () => {
  expect(chosenCases(cases, ['two', 'a']).map(({ name }) => name)).toEqual(['one a', 'two']);
});

it('a part that no name has is an error', () => {
  expect(() => chosenCases(cases, ['one', 'three'])).toThrow('no case has "three" in its name');
});

it('cases of one process for compute-sanitizer are there, each once', () => {
  const names = sanitizedCases.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  expect(names.filter((name) => name.startsWith('planning:')).length).toBeGreaterThan(6);
  expect(names).toContain('planning: bad ids in every position have the error of the planner and are masked');
});

it('cases of two processes in check.sh are there', () => {
  const script = readFileSync(new URL('../../tools/gpu/check.sh', import.meta.url), 'utf8');
  const command = /nccl\/rank\.js" 2 1 \\\n([^>]*)>/.exec(script)![1]!;
  const parts = [...command.matchAll(/'([^']+)'/g)].map(([, part]) => part!);
  expect(parts.length).toBeGreaterThan(5);
  const cuda = {} as Cuda;
  const all = [...exchangeCases(2, 1), ...extremeRankCases(2, 1, cuda), ...deviceExchangeCases(2, 2, cuda)];
  const names = chosenCases(all, parts).map(({ name }) => name);
  // Few enough for the tool; the extremes are along plans of the host and of the device.
  expect(names.length).toBeLessThan(20);
  expect(names.filter((name) => name.includes('extreme: one token to all ranks: hier'))).toHaveLength(2);
});
