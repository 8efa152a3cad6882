// The largest of each kind: the link, NIC, rank and expert for which all others wait.

import { formatBytes, rows } from './format.ts';
import type { Loads } from './load.ts';
import type { Traffic } from './summary.ts';

export interface Offender {
  /** The kind: "Busiest rank". */
  readonly what: string;
  /** The one that is largest: "rank 3". */
  readonly who: string;
  /** Its amount, with the unit. */
  readonly amount: string;
  /** Ratio to the mean of its kind; 1 if all are equal. The mean of pairs is that of the pairs in use. */
  readonly ratio: number;
  readonly why: string;
}

/** The largest of named values of one kind; undefined if all are 0. Ties go to the first. */
function largestOf(
  what: string,
  values: Iterable<readonly [value: number, name: () => string]>,
  format: (value: number) => string,
  why: string,
): Offender[] {
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
 * @param dropped rows that each expert instance dropped; empty without a capacity
 */
export function findOffenders(
  loads: Loads,
  traffic: Traffic,
  dropped: readonly number[],
): readonly Offender[] {
  const { summary, experts, ranks, nicOut, nicIn, joined } = loads;
  const { rowBytes } = summary;
  const { intraNodeBytes: intra, interNodeBytes: inter } = traffic;
  const rank = (i: number) => `rank ${i}`;
  const expert = (i: number) => experts.labels[i]!;
  const bufferBytes = (recvRows: number) => formatBytes(recvRows * rowBytes);
  const sameNode = (a: number, b: number) => Math.floor(a / joined) === Math.floor(b / joined);
  const remote = pairs(inter, (from, to) => !sameNode(from, to));
  const local = pairs(intra, (from, to) => from !== to && sameNode(from, to));
  const out = named(nicOut, rank);
  const into = named(nicIn, rank);
  return [
    largestOf('Busiest rank', named(ranks.rows, rank), rows, 'its experts take longest, and all others wait'),
    largestOf('Busiest expert', named(experts.rows, expert), rows, 'the largest block of its receive buffer'),
    largestOf('Busiest sender between nodes', out, formatBytes, 'its NIC finishes sending last'),
    largestOf('Busiest receiver between nodes', into, formatBytes, 'its NIC finishes receiving last'),
    largestOf(
      'Busiest pair on different nodes',
      remote,
      formatBytes,
      'the longest transfer over the network',
    ),
    largestOf('Busiest pair on one node', local, formatBytes, 'the longest transfer over NVLink'),
    largestOf('Most entries dropped', named(dropped, expert), rows, 'more tokens chose it than its capacity'),
    largestOf(
      'Largest receive buffer',
      named(summary.recvRows, rank),
      bufferBytes,
      'the memory that a rank must have before the exchange starts',
    ),
  ]
    .flat()
    .sort((a, b) => b.ratio - a.ratio);
}
