// Coverage-guided fuzzing inside one JavaScript process: an input that makes the code under test count a statement or
// a branch that no other counted, or count it by another order of magnitude, is kept and mutated further. Counters are
// Istanbul's; test/fuzz/run.mjs instruments the sources of this project as it bundles them.

import { mutate, pick, type Random } from './mutate.ts';

/** One thing that reads bytes from outside. */
export interface Target {
  readonly name: string;
  /** Inputs to start from; at least one. */
  readonly seeds: () => Promise<readonly Uint8Array[]> | readonly Uint8Array[];
  /** Words of the format. */
  readonly words: readonly string[];
  readonly maxBytes: number;
  /** Reads the bytes. What it throws is a finding unless it is a refusal; see isRefusal. */
  readonly run: (bytes: Uint8Array) => Promise<void> | void;
}

export interface Finding {
  readonly input: Uint8Array;
  readonly error: unknown;
}

export interface FuzzReport {
  readonly runs: number;
  /** Counters and their orders of magnitude that some input reached. */
  readonly features: number;
  /** Inputs that are worth keeping, seeds among them. */
  readonly corpus: readonly Uint8Array[];
  readonly finding: Finding | undefined;
}

export interface FuzzOptions {
  readonly random: Random;
  /** Milliseconds on the clock of performance.now() at which to stop. */
  readonly until: number;
  readonly maxRuns?: number;
  /** Inputs of former runs. */
  readonly corpus?: readonly Uint8Array[];
  /** Called before every run, so that an input that never returns is known. */
  readonly before?: (input: Uint8Array) => void;
  readonly isRefusal: (error: unknown) => boolean;
  /** False: every input counts as old, as if there were no counters; to see what guidance is worth. */
  readonly isGuided?: boolean;
}

/** Counts of statements, or of the ways that one branch can go, by number from 0. */
type Counters = Record<number, number>;

interface FileCoverage {
  readonly s: Counters;
  readonly b: Record<number, Counters>;
}

/** Every table of counters of the bundle, with its length. */
function countersOf(files: Readonly<Record<string, FileCoverage>>): [Counters, number][] {
  const tables = Object.values(files).flatMap(({ s, b }) => [s, ...Object.values(b)]);
  return tables.map((counters) => [counters, Object.keys(counters).length]);
}

/** 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more: a bit each. */
function magnitude(count: number): number {
  if (count < 4) return 1 << (count - 1);
  if (count < 8) return 8;
  if (count < 16) return 16;
  if (count < 32) return 32;
  return count < 128 ? 64 : 128;
}

/** What inputs have reached so far. */
class Coverage {
  readonly #tables = countersOf(
    (globalThis as { __coverage__?: Record<string, FileCoverage> }).__coverage__ ?? {},
  );
  /** By counter, the magnitudes seen. */
  readonly #seen = new Uint8Array(this.#tables.reduce((sum, [, length]) => sum + length, 0));
  features = 0;

  /** Reads and clears every counter; true where one is new or of a new magnitude. */
  harvest(): boolean {
    const before = this.features;
    let first = 0;
    for (const [counters, length] of this.#tables) {
      for (let i = 0; i < length; i++) {
        const count = counters[i]!;
        if (count === 0) continue;
        counters[i] = 0;
        const bit = magnitude(count);
        if ((this.#seen[first + i]! & bit) !== 0) continue;
        this.#seen[first + i]! |= bit;
        this.features++;
      }
      first += length;
    }
    return this.features > before;
  }
}

/**
 * Runs a target on its seeds, the corpus and mutations of both until the time is over or something is found.
 * Deterministic in `random` and `maxRuns`.
 */
export async function fuzz(target: Target, options: FuzzOptions): Promise<FuzzReport> {
  const { random, until, maxRuns = Number.POSITIVE_INFINITY, before, isRefusal, isGuided = true } = options;
  const coverage = new Coverage();
  const corpus: Uint8Array[] = [];
  let runs = 0;
  const attempt = async (input: Uint8Array): Promise<Finding | undefined> => {
    runs++;
    before?.(input);
    try {
      await target.run(input);
    } catch (error) {
      if (!isRefusal(error)) return { input, error };
    }
    if (coverage.harvest() && isGuided) corpus.push(input);
    return undefined;
  };
  const seeds = [...(await target.seeds()), ...(options.corpus ?? [])];
  coverage.harvest();
  let finding: Finding | undefined;
  for (const seed of seeds) {
    finding ??= await attempt(seed);
  }
  if (corpus.length === 0) corpus.push(...seeds);
  while (finding === undefined && runs < maxRuns && performance.now() < until) {
    // The newest inputs reach farthest; half of the time one of them is taken.
    const newest = corpus.slice(-16);
    const base = pick(random, random() < 0.5 ? newest : corpus);
    finding = await attempt(mutate(random, base, pick(random, corpus), target.words, target.maxBytes));
  }
  return { runs, features: coverage.features, corpus, finding };
}
