// Clock, median and verdicts of the benches.

/** Median of the values; the mean of the middle two if their number is even. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Runs something once and returns its nanoseconds. */
export type Timed = () => number | Promise<number>;

/** Nanoseconds that `work` takes. */
export function timed(work: () => void): number {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start);
}

/** Nanoseconds until the promise of `work` settles. */
export async function timedAsync(work: () => Promise<unknown>): Promise<number> {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start);
}

/** A measured figure and its goal. */
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
