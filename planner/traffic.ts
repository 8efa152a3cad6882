// Rows that a dispatch moves between ranks, from what each rank sends to each rank. A combine moves them in the other
// direction; a combine by token returns the rows of all entries.

import { forwardersOf } from './balance.ts';
import type { Plan } from './plan.ts';
import { nodeOf, type PlanSpec } from './spec.ts';
import { sum } from './totals.ts';
import { forwardedRows } from './walk.ts';

/** Called for rows that go from one rank to another; it may be called several times for a pair of ranks. */
export type OnRows = (from: number, to: number, rows: number) => void;

export interface TrafficVisitor {
  readonly inter: OnRows;
  /** Rows inside a node, including those that stay on their rank. */
  readonly intra: OnRows;
}

/** Who forwards, and how much: hierarchical plans only. */
export interface Forwarding {
  /** u16[ranks], rail group of every rank. */
  readonly groups: Uint16Array;
  /** Rows that a rank forwards to a node. */
  readonly rows: (from: number, node: number) => number;
}

/**
 * Visits the traffic of a flat plan, or of a hierarchical one: one row to each forwarder, and from there one row per
 * entry. O(ranks^2).
 *
 * @param rows kept rows from a rank to a rank
 */
export function visitTraffic(
  spec: PlanSpec,
  rows: (from: number, to: number) => number,
  forwarding: Forwarding | undefined,
  { inter, intra }: TrafficVisitor,
): void {
  for (let from = 0; from < spec.ranks; from++) {
    const local = nodeOf(spec, from);
    const forwarders = forwarding && forwardersOf(spec, forwarding.groups, from);
    for (let to = 0; to < spec.ranks; to++) {
      const node = nodeOf(spec, to);
      if (node === local) intra(from, to, rows(from, to));
      else if (forwarders === undefined) inter(from, to, rows(from, to));
      else intra(forwarders[node]!, to, rows(from, to));
    }
    forwarders?.forEach((forwarder, node) => {
      if (node !== local) inter(from, forwarder, forwarding!.rows(from, node));
    });
  }
}

/** Kept rows that every rank sends to every rank: row = sender, column = receiver. */
export function rowMatrix({ spec, shards }: Plan): number[][] {
  const { rankFirst } = spec.placement;
  return shards.map(({ sendRows }) =>
    shards.map((_, peer) => sum(sendRows.subarray(rankFirst[peer]!, rankFirst[peer + 1]!))),
  );
}

/**
 * Visits the rows of all entries, each straight to its slot: the rows of a flat plan, or the rows that a sum by token
 * returns.
 */
export function visitEntries(plan: Plan, visitor: TrafficVisitor): void {
  const matrix = rowMatrix(plan);
  visitTraffic(plan.spec, (from, to) => matrix[from]![to]!, undefined, visitor);
}

/**
 * Visits the traffic of a plan's dispatch without the rows that arrive in a slot of their forwarder, because they are not
 * copied there.
 */
export function visitPlan(plan: Plan, visitor: TrafficVisitor): void {
  const { spec, decision, shards } = plan;
  const matrix = rowMatrix(plan);
  const rows = (from: number, to: number) => matrix[from]![to]!;
  const forwarded = (from: number, node: number) => shards[from]!.forwardRows[node] ?? 0;
  const forwarding = spec.strategy === 'hier' ? { groups: decision.groups, rows: forwarded } : undefined;
  visitTraffic(spec, rows, forwarding, visitor);
  const inSlot = new Float64Array(spec.ranks);
  for (const rank of shards.keys()) {
    for (const { forwarder, target } of forwardedRows(plan, rank)) if (target >= 0) inSlot[forwarder]!++;
  }
  inSlot.forEach((count, rank) => {
    visitor.intra(rank, rank, -count);
  });
}

/** Rows that each rank sends to and receives from other ranks over one kind of link. */
export class LinkTotals {
  readonly out: number[];
  readonly in: number[];

  constructor(ranks: number) {
    this.out = new Array<number>(ranks).fill(0);
    this.in = new Array<number>(ranks).fill(0);
  }

  /** An OnRows. */
  readonly add = (from: number, to: number, rows: number): void => {
    if (from === to) return;
    this.out[from]! += rows;
    this.in[to]! += rows;
  };

  /** The larger of the two directions. */
  rows(rank: number): number {
    return Math.max(this.out[rank]!, this.in[rank]!);
  }
}
