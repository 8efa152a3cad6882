// The largest of each kind: which link, NIC, rank and expert everybody else waits for.

import { formatBytes } from '../format.ts';
import type { Traffic } from '../summary.ts';
import type { PlanFigures } from './figures.ts';
import { rows } from './words.ts';

export interface Offender {
  /** What is largest: "Busiest rank". */
  readonly what: string;
  /** Which one it is: "rank 3". */
  readonly who: string;
  /** Its amount, with the unit. */
  readonly amount: string;
  /** Times the mean of its kind; 1 where all are equal. The mean of pairs is that of the pairs in use. */
  readonly ratio: number;
  readonly why: string;
}

interface Kind {
  readonly what: string;
  readonly values: readonly number[];
  readonly name: (index: number) => string;
  readonly format: (value: number) => string;
  readonly why: string;
}

/** The largest value of one kind; nothing where all are zero. Ties go to the first. */
function offender({ what, values, name, format, why }: Kind): Offender[] {
  let most = 0;
  let total = 0;
  for (const [i, value] of values.entries()) {
    total += value;
    if (value > values[most]!) most = i;
  }
  if (total === 0) return [];
  const ratio = (values[most]! * values.length) / total;
  return [{ what, who: name(most), amount: format(values[most]!), ratio, why }];
}

/** Pairs of ranks that exchange rows over one kind of link. Idle pairs would only lower the mean: forwarding leaves most idle. */
function links(bytes: readonly (readonly number[])[], isKind: (from: number, to: number) => boolean) {
  const values: number[] = [];
  const pairs: [number, number][] = [];
  for (const [from, row] of bytes.entries()) {
    for (const [to, value] of row.entries()) {
      if (value === 0 || !isKind(from, to)) continue;
      values.push(value);
      pairs.push([from, to]);
    }
  }
  return { values, name: (i: number) => `rank ${pairs[i]![0]} to rank ${pairs[i]![1]}` };
}

/**
 * The largest of each kind, most unequal first.
 *
 * @param dropped rows that each expert instance turned away; empty where there is no capacity
 */
export function findOffenders(
  figures: PlanFigures,
  traffic: Traffic,
  dropped: readonly number[],
): readonly Offender[] {
  const { summary, experts, ranks, nicOut, nicIn } = figures;
  const rank = (i: number) => `rank ${i}`;
  const sameNode = (a: number, b: number) =>
    Math.floor(a / summary.ranksPerNode) === Math.floor(b / summary.ranksPerNode);
  const kinds: Kind[] = [
    {
      what: 'Busiest rank',
      values: ranks.rows,
      name: rank,
      format: rows,
      why: 'its experts work longest, and all others wait for it',
    },
    {
      what: 'Busiest expert',
      values: experts.rows,
      name: (i) => experts.labels[i]!,
      format: rows,
      why: 'it needs the largest block of its rank’s receive buffer',
    },
    {
      what: 'Busiest sender between nodes',
      values: nicOut,
      name: rank,
      format: formatBytes,
      why: 'its NIC finishes sending last',
    },
    {
      what: 'Busiest receiver between nodes',
      values: nicIn,
      name: rank,
      format: formatBytes,
      why: 'its NIC finishes receiving last',
    },
    {
      what: 'Busiest pair on different nodes',
      ...links(traffic.interNodeBytes, (from, to) => !sameNode(from, to)),
      format: formatBytes,
      why: 'the longest single stream over the network',
    },
    {
      what: 'Busiest pair on one node',
      ...links(traffic.intraNodeBytes, (from, to) => from !== to && sameNode(from, to)),
      format: formatBytes,
      why: 'the longest single stream over NVLink',
    },
    {
      what: 'Most entries dropped',
      values: dropped,
      name: (i) => experts.labels[i]!,
      format: rows,
      why: 'more tokens chose it than its capacity allows',
    },
    {
      what: 'Largest receive buffer',
      values: summary.recvRows,
      name: rank,
      format: (value) => formatBytes(value * summary.rowBytes),
      why: 'the memory that a rank must have before the exchange starts',
    },
  ];
  return kinds.flatMap(offender).sort((a, b) => b.ratio - a.ratio);
}
