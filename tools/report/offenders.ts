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

/** One kind of thing, of which one is the largest: its values, in any order, each with what has it. */
interface Kind {
  readonly what: string;
  readonly values: Iterable<readonly [value: number, name: () => string]>;
  readonly format: (value: number) => string;
  readonly why: string;
}

/** The largest value of one kind; nothing where all are zero. Ties go to the first. */
function offender({ what, values, format, why }: Kind): Offender[] {
  let [most, total, count] = [0, 0, 0];
  let who = () => '';
  for (const [value, name] of values) {
    total += value;
    count++;
    if (value <= most) continue;
    most = value;
    who = name;
  }
  if (total === 0) return [];
  return [{ what, who: who(), amount: format(most), ratio: (most * count) / total, why }];
}

function* named(
  values: readonly number[],
  name: (index: number) => string,
): Generator<readonly [number, () => string]> {
  for (const [i, value] of values.entries()) yield [value, () => name(i)];
}

/**
 * Pairs of ranks that exchange rows over one kind of link. Idle pairs would only lower the mean: forwarding leaves most
 * idle. One at a time, since thousands of ranks make millions of pairs.
 */
function* pairs(
  bytes: readonly (readonly number[])[],
  isKind: (from: number, to: number) => boolean,
): Generator<readonly [number, () => string]> {
  for (const [from, row] of bytes.entries()) {
    for (const [to, value] of row.entries()) {
      if (value !== 0 && isKind(from, to)) yield [value, () => `rank ${from} to rank ${to}`];
    }
  }
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
      values: named(ranks.rows, rank),
      format: rows,
      why: 'its experts work longest, and all others wait for it',
    },
    {
      what: 'Busiest expert',
      values: named(experts.rows, (i) => experts.labels[i]!),
      format: rows,
      why: 'it needs the largest block of its rank’s receive buffer',
    },
    {
      what: 'Busiest sender between nodes',
      values: named(nicOut, rank),
      format: formatBytes,
      why: 'its NIC finishes sending last',
    },
    {
      what: 'Busiest receiver between nodes',
      values: named(nicIn, rank),
      format: formatBytes,
      why: 'its NIC finishes receiving last',
    },
    {
      what: 'Busiest pair on different nodes',
      values: pairs(traffic.interNodeBytes, (from, to) => !sameNode(from, to)),
      format: formatBytes,
      why: 'the longest single stream over the network',
    },
    {
      what: 'Busiest pair on one node',
      values: pairs(traffic.intraNodeBytes, (from, to) => from !== to && sameNode(from, to)),
      format: formatBytes,
      why: 'the longest single stream over NVLink',
    },
    {
      what: 'Most entries dropped',
      values: named(dropped, (i) => experts.labels[i]!),
      format: rows,
      why: 'more tokens chose it than its capacity allows',
    },
    {
      what: 'Largest receive buffer',
      values: named(summary.recvRows, rank),
      format: (value) => formatBytes(value * summary.rowBytes),
      why: 'the memory that a rank must have before the exchange starts',
    },
  ];
  return kinds.flatMap((kind) => offender(kind)).sort((a, b) => b.ratio - a.ratio);
}
