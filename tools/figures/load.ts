// Who has how much to do, and how unequal that is.

import { largest, sum } from '../../planner/totals.ts';
import type { Summary } from './summary.ts';

export interface Load {
  /** One value per expert instance, or per rank. */
  readonly rows: readonly number[];
  readonly labels: readonly string[];
  /** The number in each label: of the expert or of the rank. */
  readonly ticks: readonly string[];
  readonly mean: number;
  readonly max: number;
  readonly maxOverMean: number;
  /** (max - mean) / mean: the share by which the busiest exceeds the average. */
  readonly excess: number;
  /** mean / max: the share of the time in which the average one works while the busiest does. */
  readonly meanOverMax: number;
}

/** The loads of a plan, of which some stand out. */
export interface Loads {
  readonly summary: Omit<Summary, 'traffic'>;
  readonly experts: Load;
  readonly ranks: Load;
  /** Payload bytes that each rank sends to and receives from other nodes. */
  readonly nicOut: readonly number[];
  readonly nicIn: readonly number[];
}

/** The measures of imbalance; without any rows they are those of a balanced load. */
export function loadOf(
  rows: readonly number[],
  labels: readonly string[],
  ticks: readonly string[] = rows.map((_, i) => String(i)),
): Load {
  const max = largest(rows);
  const mean = rows.length === 0 ? 0 : sum(rows) / rows.length;
  const maxOverMean = mean === 0 ? 1 : max / mean;
  return {
    rows,
    labels,
    ticks,
    mean,
    max,
    maxOverMean,
    excess: maxOverMean - 1,
    meanOverMax: 1 / maxOverMean,
  };
}
