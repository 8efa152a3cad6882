// Timing for the benches: medians of interleaved runs, because these machines are shared and drift.

/** Median of the values; the mean of the middle two where they are even in number. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** One thing to time: it runs once and returns its nanoseconds. */
export type Timed = () => number | Promise<number>;

/** Runs every candidate once a round, after one round that does not count, and returns each one's median. */
export async function measure<K extends string>(
  candidates: Record<K, Timed>,
  rounds: number,
): Promise<Record<K, number>> {
  const names = Object.keys(candidates) as K[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<K, number[]>;
  for (let round = -1; round < rounds; round++) {
    for (const name of names) {
      const nanoseconds = await candidates[name]();
      if (round >= 0) times[name].push(nanoseconds);
    }
  }
  return Object.fromEntries(names.map((name) => [name, median(times[name])])) as Record<K, number>;
}

/** Nanoseconds that `work` takes. */
export function timed(work: () => void): number {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start);
}

/** The same for asynchronous work. */
export async function timedAsync(work: () => Promise<unknown>): Promise<number> {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start);
}

/** A measured figure beside what is asked of it. */
export interface Verdict {
  readonly name: string;
  readonly value: number;
  readonly goal: string;
  readonly reached: boolean;
}

export function atMost(name: string, value: number, limit: number): Verdict {
  return { name, value, goal: `<= ${limit}`, reached: value <= limit };
}

export function atLeast(name: string, value: number, limit: number): Verdict {
  return { name, value, goal: `>= ${limit}`, reached: value >= limit };
}

/** Lines that show the verdicts. */
export function verdictLines(verdicts: readonly Verdict[]): string[][] {
  return verdicts.map(({ name, value, goal, reached }) => [
    name,
    value.toFixed(2),
    goal,
    reached ? 'yes' : 'NO',
  ]);
}
