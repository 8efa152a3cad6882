// The figures by which two plans are compared, by the names that `--fail-on` and golden files use; docs/diff.md
// lists them, and a test compares the two.

import type { Plan } from '../../planner/plan.ts';
import { columnSums, largest, sum } from '../../planner/totals.ts';
import { formatBytes, formatCount, formatUs } from '../figures/format.ts';
import { type Summary, summarize, summaryOnMachine } from '../figures/summary.ts';
import { predictPlan } from '../simulate/compare.ts';
import { linkedRanks, type Topology } from '../simulate/topology.ts';

export type MetricUnit = 'rows' | 'entries' | 'bytes' | 'tokens' | 'descriptors' | 'ratio' | 'us';

/** A plan as metrics see it. */
export interface Measured {
  /** With the nodes of the machine. */
  readonly summary: Summary;
  /** Of dispatch and combine, on the machine of the comparison. */
  readonly predictedUs: number;
}

export interface Metric {
  readonly name: string;
  readonly unit: MetricUnit;
  readonly meaning: string;
  readonly of: (measured: Measured) => number;
  /** The property that a plan needs for the metric to be different from 0, in words, and whether the plan has it. */
  readonly needs?: readonly [what: string, has: (summary: Summary) => boolean];
}

/** Sums a plan up and predicts its time on a machine. */
export function measure(plan: Plan, topology: Topology): Measured {
  const summary = summaryOnMachine(summarize(plan), linkedRanks(topology, plan.spec.ranks));
  return { summary, predictedUs: predictPlan(plan, topology).us };
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

/** Largest number of bytes that a rank sends to or receives from other ranks of its node. */
export function busiestNvlinkBytes({ traffic }: Summary): number {
  const others = traffic.intraNodeBytes.map((row, rank) => row.with(rank, 0));
  return largest([...others.map(sum), ...columnSums(others)]);
}

function metric(
  name: string,
  unit: MetricUnit,
  meaning: string,
  of: (summary: Summary) => number,
  needs?: Metric['needs'],
): Metric {
  return { name, unit, meaning, of: ({ summary }) => of(summary), ...(needs && { needs }) };
}

const NODES: Metric['needs'] = ['several nodes', (s) => s.ranks > s.ranksPerNode];
const FORWARDING: Metric['needs'] = ['forwarding', (s) => s.forwarding !== undefined];

export const METRICS: readonly Metric[] = [
  {
    name: 'predicted',
    unit: 'us',
    meaning: 'predicted time of dispatch and combine, in microseconds',
    of: ({ predictedUs }) => predictedUs,
  },
  metric('tokens', 'tokens', 'tokens of all ranks', (s) => sum(s.tokens)),
  metric('rows', 'rows', 'entries (token, k) that reach a slot', (s) => sum(s.keptRows)),
  metric('maskedEntries', 'entries', 'entries without an expert', (s) => s.maskedEntries),
  metric(
    'droppedEntries',
    'entries',
    'entries beyond the capacity of their expert',
    (s) => s.droppedEntries,
    ['a capacity', (s) => s.capacity > 0],
  ),
  metric('paddingRows', 'rows', 'rows of receive buffers that only pad blocks', (s) => s.paddingRows, [
    'padded blocks',
    (s) => s.align > 1,
  ]),
  metric('busiestRecvRows', 'rows', 'largest receive buffer, padding included', (s) => largest(s.recvRows)),
  metric(
    'busiestNicBytes',
    'bytes',
    'most bytes that one rank sends or receives between nodes',
    (s) => s.busiestNicBytes,
    NODES,
  ),
  metric(
    'busiestNvlinkBytes',
    'bytes',
    'most bytes that one rank sends or receives inside its node',
    busiestNvlinkBytes,
    ['several ranks per node', (s) => s.ranksPerNode > 1],
  ),
  metric(
    'interNodeBytes',
    'bytes',
    'bytes between nodes, all ranks',
    (s) => sum(s.traffic.interNodeBytes.map(sum)),
    NODES,
  ),
  metric('intraNodeBytes', 'bytes', 'bytes between ranks of one node, all ranks', (s) =>
    moved(s.traffic.intraNodeBytes),
  ),
  metric(
    'imbalance',
    'ratio',
    'real rows of the busiest rank divided by the mean',
    (s) => s.imbalance.rankMaxOverMean,
  ),
  metric(
    'expertImbalance',
    'ratio',
    'rows of the busiest expert instance divided by the mean',
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
    FORWARDING,
  ),
  metric(
    'stagedRows',
    'rows',
    'forwarded rows that need a landing row; 0 in flat plans',
    (s) => s.forwarding?.stagedRows ?? 0,
    FORWARDING,
  ),
];

/** (to - from) / from; null if that is infinite. */
export function relativeChange(from: number, to: number): number | null {
  if (from === to) return 0;
  return from === 0 ? null : (to - from) / from;
}

/** All metrics of both plans, in the order of METRICS. */
export function compareMetrics(a: Measured, b: Measured): MetricDelta[] {
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

/** A value in its unit: `41.2 MiB`, `262,144`, `1.820`. */
export function formatValue(value: number, unit: MetricUnit): string {
  if (unit === 'bytes') return formatBytes(value);
  if (unit === 'us') return formatUs(value);
  return unit === 'ratio' ? value.toFixed(3) : formatCount(value);
}

/** `imbalance 1.085 -> 1.105 (+1.9 %)` */
export function formatDelta({ name, unit, from, to, change }: MetricDelta): string {
  return `${name} ${formatValue(from, unit)} -> ${formatValue(to, unit)} (${formatChange(change)})`;
}
