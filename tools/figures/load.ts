// Loads of experts and ranks, and how unequal they are.

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
}

/** The loads of a plan, from which the extremes are taken. */
export interface Loads {
  readonly summary: Omit<Summary, 'traffic'>;
  readonly experts: Load;
  readonly ranks: Load;
  /** Number of consecutive ranks that NVLink connects on the machine of the figures. */
  readonly joined: number;
  /** Payload bytes that each rank sends and receives over its NIC. */
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
  };
}
