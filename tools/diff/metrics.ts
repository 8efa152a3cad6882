// The figures by which two plans are compared, by the names that `--fail-on` and golden files use; docs/diff.md
// lists them, and a test compares the two.

import { largest, sum } from '../../planner/totals.ts';
import { formatBytes, formatCount } from '../figures/format.ts';
import type { Summary } from '../figures/summary.ts';

export type MetricUnit = 'rows' | 'entries' | 'bytes' | 'tokens' | 'descriptors' | 'ratio';

export interface Metric {
  readonly name: string;
  readonly unit: MetricUnit;
  readonly meaning: string;
  readonly of: (summary: Summary) => number;
}

/** A metric's value in both plans. */
export interface MetricDelta {
  name: string;
  unit: MetricUnit;
  from: number;
  to: number;
  /** (to - from) / from; null if `from` is 0 and `to` is not. */
  change: number | null;
}

/** Bytes that leave their rank, within one node or between nodes. */
function moved(matrix: readonly (readonly number[])[]): number {
  return sum(matrix.map((row, from) => sum(row) - row[from]!));
}

function metric(name: string, unit: MetricUnit, meaning: string, of: Metric['of']): Metric {
  return { name, unit, meaning, of };
}

export const METRICS: readonly Metric[] = [
  metric('tokens', 'tokens', 'tokens of all ranks', (s) => sum(s.tokens)),
  metric('rows', 'rows', 'entries (token, k) that reach a slot', (s) => sum(s.keptRows)),
  metric('maskedEntries', 'entries', 'entries without an expert', (s) => s.maskedEntries),
  metric('droppedEntries', 'entries', 'entries beyond the capacity of their expert', (s) => s.droppedEntries),
  metric('paddingRows', 'rows', 'rows of receive buffers that only pad blocks', (s) => s.paddingRows),
  metric('busiestRecvRows', 'rows', 'largest receive buffer, padding included', (s) => largest(s.recvRows)),
  metric(
    'busiestNicBytes',
    'bytes',
    'most bytes that one rank sends or receives between nodes',
    (s) => s.busiestNicBytes,
  ),
  metric('interNodeBytes', 'bytes', 'bytes between nodes, all ranks', (s) =>
    sum(s.traffic.interNodeBytes.map(sum)),
  ),
  metric('intraNodeBytes', 'bytes', 'bytes between ranks of one node, all ranks', (s) =>
    moved(s.traffic.intraNodeBytes),
  ),
  metric(
    'imbalance',
    'ratio',
    'largest real rows of a rank over the mean',
    (s) => s.imbalance.rankMaxOverMean,
  ),
  metric(
    'expertImbalance',
    'ratio',
    'largest rows of an expert instance over the mean',
    (s) => s.imbalance.expertMaxOverMean,
  ),
  metric(
    'copiesPerToken',
    'ratio',
    "rows that leave their source rank's memory, per token",
    (s) => s.copiesPerToken.sent,
  ),
  metric(
    'segments',
    'descriptors',
    'sequences of rows sent directly, contiguous on both sides',
    (s) => s.segments,
  ),
  metric('slices', 'descriptors', 'slices of the send orders of rows sent directly', (s) => s.slices),
  metric(
    'forwardedRows',
    'rows',
    'rows sent to forwarders; 0 in flat plans',
    (s) => s.forwarding?.forwardedRows ?? 0,
  ),
  metric(
    'stagedRows',
    'rows',
    'forwarded rows that need a landing row; 0 in flat plans',
    (s) => s.forwarding?.stagedRows ?? 0,
  ),
];

/** (to - from) / from; null if that is infinite. */
export function relativeChange(from: number, to: number): number | null {
  if (from === to) return 0;
  return from === 0 ? null : (to - from) / from;
}

/** All metrics of both plans, in the order of METRICS. */
export function compareMetrics(a: Summary, b: Summary): MetricDelta[] {
  return METRICS.map(({ name, unit, of }) => {
    const [from, to] = [of(a), of(b)];
    return { name, unit, from, to, change: relativeChange(from, to) };
  });
}

/** `-8.0 %`, `+100 %`, or `new` if there was nothing before. */
export function formatChange(change: number | null): string {
  if (change === null) return 'new';
  const percent = 100 * change;
  const digits = Math.abs(percent) >= 100 ? 0 : 1;
  return `${percent < 0 ? '-' : '+'}${Math.abs(percent).toFixed(digits)} %`;
}

/** A value in its unit: `41.2 MiB`, `262,144`, `1.82`. */
export function formatValue(value: number, unit: MetricUnit): string {
  if (unit === 'bytes') return formatBytes(value);
  return unit === 'ratio' ? value.toFixed(2) : formatCount(value);
}

/** Two byte counts in the unit of the larger one, which is written once: `41.2 -> 37.9 MiB`. */
function formatBytePair(from: number, to: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const larger = Math.max(from, to, 1);
  const power = Math.min(units.length - 1, Math.floor(Math.log2(larger) / 10));
  const show = (bytes: number) => (bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1);
  return `${show(from)} -> ${show(to)} ${units[power]}`;
}

const HEADLINE: readonly (readonly [metric: string, label: string])[] = [
  ['rows', 'rows'],
  ['busiestNicBytes', 'busiest NIC'],
  ['imbalance', 'imbalance'],
  ['segments', 'segments'],
];

/** The four figures that matter most, in one line. */
export function headlineOf(metrics: readonly MetricDelta[]): string {
  const parts = HEADLINE.map(([name, label]) => {
    const { unit, from, to, change } = metrics.find((metric) => metric.name === name)!;
    const pair =
      unit === 'bytes'
        ? formatBytePair(from, to)
        : unit === 'ratio'
          ? `${from.toFixed(2)} -> ${to.toFixed(2)}`
          : `${from} -> ${to}`;
    return `${label} ${pair}${unit === 'bytes' && from !== to ? ` (${formatChange(change)})` : ''}`;
  });
  return parts.join('  ');
}
