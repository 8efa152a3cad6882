import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { compareTimes, readTimes, timesIn } from '../../../tools/bench/compare.ts';

/** A result of `fusco bench cuda`, cut down. */
const result = (ms: number) => ({
  formatVersion: 1,
  device: { name: 'a GPU', freeBytes: 3 },
  options: { rounds: 3 },
  workloads: [
    {
      name: 'uniform',
      tokens: 8,
      dispatch: { ms, rate: 1000, share: 0.9 },
      idleDispatchMs: { ownStreams: 2 * ms, oneStream: 3 * ms },
    },
  ],
  rowWork: [
    { name: 'gate', tokens: 1, ms: 5 * ms, hostMs: 40 },
    { name: 'gate', tokens: 2, ms: 6 * ms, hostMs: 50 },
  ],
  sweep: [{ multiprocessors: 4, dispatchMs: ms }],
});

it('finds every time, and names it by the names of what it is in', () => {
  expect([...timesIn(result(1), ['cuda'])]).toEqual([
    ['cuda / workloads / uniform / dispatch / ms', 1],
    ['cuda / workloads / uniform / idleDispatchMs / ownStreams', 2],
    ['cuda / workloads / uniform / idleDispatchMs / oneStream', 3],
    ['cuda / rowWork / gate, 1 tokens / ms', 5],
    ['cuda / rowWork / gate, 1 tokens / hostMs', 40],
    ['cuda / rowWork / gate, 2 tokens / ms', 6],
    ['cuda / rowWork / gate, 2 tokens / hostMs', 50],
    ['cuda / sweep / 4 SMs / dispatchMs', 1],
  ]);
});

it('marks a time that is over 2 % slower and beyond all runs of the old build', () => {
  const old = new Map([
    ['same', [10, 10, 10]],
    ['slower', [10, 10.1, 10.05]],
    ['slower within the spread', [10, 10, 12]],
    ['slower by 1 %', [10, 10, 10]],
    ['faster', [10, 10, 10]],
    ['gone', [1]],
  ]);
  const now = new Map([
    ['same', [10, 10, 10]],
    ['slower', [10.4, 10.3, 10.5]],
    ['slower within the spread', [11, 11, 11]],
    ['slower by 1 %', [10.1, 10.1, 10.1]],
    ['faster', [5, 5, 5]],
    ['added', [1]],
  ]);
  const { figures, worse, onlyOld, onlyNew } = compareTimes(old, now);
  expect(figures.map(({ name, worse }) => [name, worse])).toEqual([
    ['slower within the spread', false],
    ['slower', true],
    ['slower by 1 %', false],
    ['same', false],
    ['faster', false],
  ]);
  expect(worse).toBe(1);
  expect(figures[1]).toMatchObject({
    old: { median: 10.05, least: 10, most: 10.1, runs: 3 },
    new: { median: 10.4, least: 10.3, most: 10.5, runs: 3 },
    ratio: 10.4 / 10.05,
  });
  expect([onlyOld, onlyNew]).toEqual([['gone'], ['added']]);
});

it('reads all runs of a folder, and leaves other files', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'fusco-compare-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'cuda-1.json'), JSON.stringify(result(1)));
  await writeFile(join(folder, 'cuda-2.json'), JSON.stringify(result(2)));
  await writeFile(join(folder, 'bench-1.log'), 'text');
  const times = await readTimes(folder);
  expect(times.get('cuda / workloads / uniform / dispatch / ms')).toEqual([1, 2]);
  expect(times.size).toBe(8);
  await expect(readTimes(join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'E_FILE_NOT_FOUND' });
});
