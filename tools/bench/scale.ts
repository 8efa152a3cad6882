// How planning and verification grow with ranks and tokens: every case runs in a separate process, so that the peak
// memory is that of the case. Exponents of growth come from a least-squares fit of the logarithms.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ScaleCase, ScaleFigures } from './scaleCase.ts';

const run = promisify(execFile);

export type ScaleRow = ScaleCase & ScaleFigures;
export type ScaleBench = Awaited<ReturnType<typeof benchScale>>;

/** Slope of log y over log x. */
export function exponentOf(x: readonly number[], y: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const a = x.map(Math.log);
  const b = y.map(Math.log);
  const [meanA, meanB] = [mean(a), mean(b)];
  const over = a.reduce((sum, value, i) => sum + (value - meanA) * (b[i]! - meanB), 0);
  return over / a.reduce((sum, value) => sum + (value - meanA) ** 2, 0);
}

const MEASURES: readonly [string, (row: ScaleRow) => number][] = [
  ['plan and write', (row) => row.planMs + row.writeMs],
  ['verify', (row) => row.verifyMs],
  ['planRank', (row) => row.planRankMs],
  ['file', (row) => row.fileMiB],
  ['peak memory above the start', (row) => row.peakMiB - row.startMiB],
];

/** Exponents x of figures that grow like `of`^x. */
function growthOf(rows: readonly ScaleRow[], of: 'ranks' | 'tokens', strategy: ScaleCase['strategy']) {
  const mine = rows.filter((row) => row.strategy === strategy).sort((a, b) => a[of] - b[of]);
  if (new Set(mine.map((row) => row[of])).size < 2) return [];
  const x = mine.map((row) => row[of]);
  return MEASURES.map(([what, pick]) => ({ what, of, strategy, exponent: exponentOf(x, mine.map(pick)) }));
}

/**
 * Measures every number of ranks at `tokens` tokens, and every smaller power of two of tokens down to an eighth at the
 * lowest number of ranks.
 *
 * @param experts undefined for max(256, ranks)
 */
export async function benchScale(
  ranks: readonly number[],
  tokens: number,
  topk: number,
  experts: number | undefined,
  onCase: (done: number, total: number) => void,
) {
  const strategies = ['flat', 'hier'] as const;
  const make = (count: number, length: number): ScaleCase[] =>
    strategies.map((strategy) => ({
      ...{ ranks: count, experts: experts ?? Math.max(256, count), tokens: length, topk, strategy },
    }));
  const fewest = ranks.reduce((least, count) => Math.min(least, count));
  const lengths = [8, 4, 2].map((part) => Math.floor(tokens / part)).filter((length) => length > 0);
  const asked = [
    ...lengths.flatMap((length) => make(fewest, length)),
    ...ranks.flatMap((count) => make(count, tokens)),
  ];
  const script = fileURLToPath(new URL('./scaleCase.js', import.meta.url));
  const rows: ScaleRow[] = [];
  for (const one of asked) {
    onCase(rows.length, asked.length);
    const { stdout } = await run(process.execPath, [script, JSON.stringify(one)]);
    rows.push({ ...one, ...(JSON.parse(stdout) as ScaleFigures) });
  }
  const few = rows.filter((row) => row.ranks === fewest);
  const long = rows.filter((row) => row.tokens === tokens);
  const growth = strategies.flatMap((strategy) => [
    ...growthOf(few, 'tokens', strategy),
    ...growthOf(long, 'ranks', strategy),
  ]);
  return { rows, growth };
}
