// The figures by which two plans are compared, by the names that `--fail-on` and golden files use; docs/diff.md
// lists them, and a test compares the two.

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
  /** (to - from) / from; null where `from` is 0 and `to` is not. */
  change: number | null;
}

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
const most = (values: readonly number[]): number => values.reduce((max, value) => Math.max(max, value), 0);

/** Bytes that leave their rank, within one node or between nodes. */
function moved(matrix: readonly (readonly number[])[]): number {
  return total(matrix.map((row, from) => total(row) - row[from]!));
}

export const METRICS: readonly Metric[] = [
  {
    name: 'tokens',
    unit: 'tokens',
    meaning: 'tokens of all ranks',
    of: (s) => total(s.tokens),
  },
  {
    name: 'rows',
    unit: 'rows',
    meaning: 'entries (token, k) that reach a slot',
    of: (s) => total(s.keptRows),
  },
  {
    name: 'maskedEntries',
    unit: 'entries',
    meaning: 'entries without an expert',
    of: (s) => s.maskedEntries,
  },
  {
    name: 'droppedEntries',
    unit: 'entries',
    meaning: 'entries beyond the capacity of their expert',
    of: (s) => s.droppedEntries,
  },
  {
    name: 'paddingRows',
    unit: 'rows',
    meaning: 'rows of receive buffers that only align',
    of: (s) => s.paddingRows,
  },
  {
    name: 'busiestRecvRows',
    unit: 'rows',
    meaning: 'largest receive buffer, padding included',
    of: (s) => most(s.recvRows),
  },
  {
    name: 'busiestNicBytes',
    unit: 'bytes',
    meaning: 'most bytes that one rank sends or receives between nodes',
    of: (s) => s.busiestNicBytes,
  },
  {
    name: 'interNodeBytes',
    unit: 'bytes',
    meaning: 'bytes between nodes, all ranks',
    of: (s) => total(s.traffic.interNodeBytes.map(total)),
  },
  {
    name: 'intraNodeBytes',
    unit: 'bytes',
    meaning: 'bytes between ranks of one node, all ranks',
    of: (s) => moved(s.traffic.intraNodeBytes),
  },
  {
    name: 'imbalance',
    unit: 'ratio',
    meaning: 'largest real rows of a rank over the mean',
    of: (s) => s.imbalance.rankMaxOverMean,
  },
  {
    name: 'expertImbalance',
    unit: 'ratio',
    meaning: 'largest rows of an expert instance over the mean',
    of: (s) => s.imbalance.expertMaxOverMean,
  },
  {
    name: 'copiesPerToken',
    unit: 'ratio',
    meaning: "rows that leave their source rank's memory, per token",
    of: (s) => s.copiesPerToken.sent,
  },
  {
    name: 'segments',
    unit: 'descriptors',
    meaning: 'runs of direct rows, contiguous on both sides',
    of: (s) => s.segments,
  },
  {
    name: 'slices',
    unit: 'descriptors',
    meaning: 'slices of the direct streams',
    of: (s) => s.slices,
  },
  {
    name: 'forwardedRows',
    unit: 'rows',
    meaning: 'rows sent to forwarders; 0 in flat plans',
    of: (s) => s.forwarding?.forwardedRows ?? 0,
  },
  {
    name: 'stagedRows',
    unit: 'rows',
    meaning: 'forwarded rows that need a landing row; 0 in flat plans',
    of: (s) => s.forwarding?.stagedRows ?? 0,
  },
];

/** (to - from) / from; null where that is infinite. */
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
