// What a plan makes every rank move, in rows, read off the plan's own tables.

import { forwardersOf } from '../../planner/balance.ts';
import type { Plan } from '../../planner/plan.ts';
import { nodeOf, type PlanSpec } from '../../planner/spec.ts';
import { rowMatrix } from '../figures/summary.ts';

/** One kind of link, per rank: rows and peers by direction. All arrays have `ranks` elements. */
export interface LinkRows {
  readonly out: Float64Array;
  readonly in: Float64Array;
  readonly outPeers: Float64Array;
  readonly inPeers: Float64Array;
}

/** Rows of a dispatch; a combine moves the same rows the other way. */
export interface PlanLoads {
  readonly ranks: number;
  /** Rows between nodes: copies for forwarders in a hierarchical plan. */
  readonly inter: LinkRows;
  /** Rows between ranks of one node: direct ones, and what forwarders distribute. */
  readonly intra: LinkRows;
  /** Rows that a rank copies within its own memory; a row that lands in its slot is none. */
  readonly local: Float64Array;
  /** Entries of each rank that reach an expert. */
  readonly kept: Float64Array;
  /** Real rows of each receive buffer. */
  readonly received: Float64Array;
  readonly tokens: Float64Array;
  /** Rows that the combine adds up at home: kept rows, or partial sums and the rows of its own node. */
  readonly summed: Float64Array;
  /** Slices into which the busiest rank's send order is cut. */
  readonly slices: number;
}

export function emptyLink(ranks: number): LinkRows {
  const zeros = () => new Float64Array(ranks);
  return { out: zeros(), in: zeros(), outPeers: zeros(), inPeers: zeros() };
}

export function addRows(link: LinkRows, from: number, to: number, rows: number): void {
  if (rows === 0) return;
  link.out[from]! += rows;
  link.in[to]! += rows;
  link.outPeers[from]! += 1;
  link.inPeers[to]! += 1;
}

/** forwarder[rank][node]: who receives a rank's copies for a node; itself on its own node. */
export function forwarderTable(spec: PlanSpec, groups: Uint16Array): Uint32Array[] {
  return Array.from({ length: spec.ranks }, (_, rank) => forwardersOf(spec, groups, rank));
}

/** Forwarded rows of a rank that land in a slot of their forwarder, by node. */
function landedRows(plan: Plan, rank: number): Float64Array {
  const { forwardRows, forwardTarget } = plan.shards[rank]!;
  const landed = new Float64Array(plan.spec.nodes);
  let row = 0;
  for (let node = 0; node < landed.length; node++) {
    const end = row + forwardRows[node]!;
    for (; row < end; row++) if (forwardTarget[row]! >= 0) landed[node]!++;
  }
  return landed;
}

/** The loads of a plan, flat or hierarchical. O(ranks^2 + forwarded rows). */
export function planLoads(plan: Plan): PlanLoads {
  const { spec, shards, decision } = plan;
  const { ranks, nodes } = spec;
  const isHier = spec.strategy === 'hier';
  const rows = rowMatrix(plan);
  const inter = emptyLink(ranks);
  const local = new Float64Array(ranks);
  const summed = new Float64Array(ranks);
  // Distribution adds up over a forwarder's sources before it is counted, so that a peer counts once.
  const near = Array.from({ length: ranks }, () => new Float64Array(ranks));
  const forwarders = isHier ? forwarderTable(spec, decision.groups) : [];
  for (let from = 0; from < ranks; from++) {
    for (let to = 0; to < ranks; to++) {
      const moved = rows[from]![to]!;
      const isNear = nodeOf(spec, from) === nodeOf(spec, to);
      if (!isHier && !isNear) addRows(inter, from, to, moved);
      const via = isNear ? from : forwarders[from]?.[nodeOf(spec, to)];
      if (via !== undefined) near[via]![to]! += moved;
      if (isNear || !isHier) summed[from]! += moved;
    }
    if (!isHier) continue;
    const landed = landedRows(plan, from);
    for (let node = 0; node < nodes; node++) {
      const copies = shards[from]!.forwardRows[node]!;
      const via = forwarders[from]![node]!;
      addRows(inter, from, via, copies);
      summed[from]! += copies;
      near[via]![via]! -= landed[node]!;
    }
  }
  const intra = emptyLink(ranks);
  near.forEach((row, from) => {
    row.forEach((moved, to) => {
      if (from === to) local[from] = moved;
      else addRows(intra, from, to, moved);
    });
  });
  const perRank = (pick: (rank: number) => number) =>
    Float64Array.from({ length: ranks }, (_, rank) => pick(rank));
  const slicesOf = (rank: number) => {
    const { slices, forwardSlices } = shards[rank]!;
    return (isHier ? forwardSlices : slices).length / 3;
  };
  return {
    ranks,
    inter,
    intra,
    local,
    kept: perRank((rank) => shards[rank]!.kept),
    received: perRank((rank) => shards[rank]!.expertRows.reduce((sum, n) => sum + n, 0)),
    tokens: perRank((rank) => shards[rank]!.tokens),
    summed,
    slices: Math.max(1, ...perRank(slicesOf)),
  };
}
