// A fresh temporary directory per test, and the command line in it: in this process, or as a user runs it.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, vi } from 'vitest';
import type { ErrorCode } from '../../planner/index.ts';
import { main } from '../../tools/cli/main.ts';
import { encodeNpy, type NdArray, type NdDtype, parseNpy } from '../../tools/readers/npy.ts';
import type { PlainRouting } from './obviousPlan.ts';
import { LAUNCHER, node, type Result } from './programs.ts';

export { type Result, ROOT } from './programs.ts';

/** `node tools/fusco.js …` in the current directory. */
export function spawnFusco(...args: string[]): Promise<Result> {
  return node([LAUNCHER, ...args]);
}

/** The same without a process of its own, which saves most of the time. */
export async function fusco(...args: string[]): Promise<Result> {
  const texts = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      texts[name] += String(text);
      return true;
    }),
  );
  try {
    return { code: await main(args), ...texts };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** A command that must succeed without a word on stderr but messages; gives its JSON. */
export async function fuscoJson(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await fusco(...args, '--json');
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout.endsWith('}\n') && !stdout.slice(0, -1).includes('\n')).toBe(true);
  const value = JSON.parse(stdout);
  expect(value.formatVersion).toBe(1);
  return value;
}

/** Exit 2, nothing on stdout, one line on stderr with the code and what to do. */
export function expectRefusal(result: Result, code: ErrorCode, text: string | RegExp = ''): void {
  expect(result).toMatchObject({ code: 2, stdout: '' });
  expect(result.stderr).toMatch(new RegExp(`^error\\[${code}\\]: [^\\n]+ \\([^\\n]+\\)\\n$`));
  expect(result.stderr).toMatch(text);
}

/** Every test of the file runs in its own directory, which is the current one. */
export function useTemporaryDirectory(): void {
  const home = process.cwd();
  let directory = '';
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'fusco-cli-'));
    process.chdir(directory);
  });
  afterEach(() => {
    process.chdir(home);
    rmSync(directory, { recursive: true });
  });
}

/** All files below the current directory with their contents, to see that nothing was left or changed. */
export function snapshot(): Record<string, string> {
  const names = readdirSync('.', { recursive: true, withFileTypes: true });
  const files = names
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(files.sort().map((name) => [name, readFileSync(name, 'latin1')]));
}

export function save(file: string, bytes: Uint8Array | string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, bytes);
}

export function saveNpy(file: string, dtype: NdDtype, shape: readonly number[], data: ArrayBufferView): void {
  save(file, Buffer.concat(encodeNpy(dtype, shape, data)));
}

export function loadNpy(file: string): NdArray {
  return parseNpy(new Uint8Array(readFileSync(file)), file);
}

/** The elements of an integer array that must have this shape. */
export function loadInts(file: string, shape: readonly number[]): number[] {
  const array = loadNpy(file);
  expect([file, array.dtype, array.shape]).toEqual([file, 'i32', shape]);
  return [...(array.data as Int32Array)];
}

/** One array [ranks, tokens, topk]; all ranks have the same number of tokens. */
export function saveRouting(file: string, routing: PlainRouting): void {
  const shape = [routing.length, routing[0]!.length, routing[0]![0]!.length];
  saveNpy(file, 'i16', shape, Int16Array.from(routing.flat(2)));
}

/** A directory of rank{r}.npy [tokens, topk]. */
export function saveRoutingByRank(directory: string, routing: PlainRouting, topk: number): void {
  routing.forEach((tokens, rank) => {
    saveNpy(
      `${directory}/rank${rank}.npy`,
      'i64',
      [tokens.length, topk],
      BigInt64Array.from(tokens.flat(), BigInt),
    );
  });
}
