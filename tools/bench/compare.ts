// Compares two builds by the results of their benchmarks on one machine. Each benchmark has run several times with the
// old and the new build in turn, and each run has written a JSON file, BENCH-RUN.json.

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readError } from '../readers/file.ts';
import { readJson } from '../readers/json.ts';
import { median } from './measure.ts';

/** The new median may be larger than the old one by this much. */
const TOLERANCE = 1.02;

/** Milliseconds of every run, by the name of the figure. */
export type Times = ReadonlyMap<string, readonly number[]>;

/** Name of an element: by its name if it has one that no other element of the list has. */
function labelOf(element: unknown, index: number, list: readonly unknown[]): string {
  const { name, tokens, multiprocessors } = element as Record<string, unknown>;
  if (typeof name !== 'string') return multiprocessors === undefined ? `${index}` : `${multiprocessors} SMs`;
  const isUnique = list.filter((other) => (other as { name?: unknown }).name === name).length === 1;
  return isUnique ? name : `${name}, ${tokens} tokens`;
}

/**
 * All times in a benchmark result, each named by its path: fields called `ms`, and everything in fields called `...Ms`.
 */
export function* timesIn(
  value: unknown,
  path: readonly string[],
  isTime = false,
): Generator<[string, number]> {
  if (typeof value === 'number') {
    if (isTime) yield [path.join(' / '), value];
  } else if (Array.isArray(value)) {
    for (const [i, element] of value.entries())
      yield* timesIn(element, [...path, labelOf(element, i, value)]);
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, part] of Object.entries(value)) {
      yield* timesIn(part, [...path, key], isTime || /^ms$|Ms$/.test(key));
    }
  }
}

/**
 * The times of all runs in a folder.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ; E_FORMAT if a file is not JSON
 */
export async function readTimes(folder: string): Promise<Times> {
  const times = new Map<string, number[]>();
  const names = await readdir(folder).catch((error) => {
    throw readError(folder, error);
  });
  for (const name of names.sort()) {
    const bench = /^(.+)-\d+\.json$/.exec(name)?.[1];
    if (bench === undefined) continue;
    const result = await readJson(join(folder, name));
    for (const [figure, ms] of timesIn(result, [bench]))
      times.set(figure, [...(times.get(figure) ?? []), ms]);
  }
  return times;
}

function spread(times: readonly number[]) {
  return { median: median(times), least: Math.min(...times), most: Math.max(...times), runs: times.length };
}

export type Comparison = ReturnType<typeof compareTimes>;

/** Compares the figures of both builds, those that grew most first. Times are in milliseconds. */
export function compareTimes(old: Times, now: Times) {
  const figures = [...old].flatMap(([name, oldTimes]) => {
    const newTimes = now.get(name);
    if (newTimes === undefined) return [];
    const [before, after] = [spread(oldTimes), spread(newTimes)];
    const ratio = after.median / before.median;
    /** More than 2 % slower, and slower than every run of the old build. */
    const worse = ratio > TOLERANCE && after.median > before.most;
    return [{ name, old: before, new: after, ratio, worse }];
  });
  return {
    figures: figures.sort((a, b) => b.ratio - a.ratio),
    worse: figures.filter((figure) => figure.worse).length,
    onlyOld: [...old.keys()].filter((name) => !now.has(name)),
    onlyNew: [...now.keys()].filter((name) => !old.has(name)),
  };
}
