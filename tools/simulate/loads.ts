// The rows that every rank moves under a plan, from the tables of the plan.

import { forwardersOf } from '../../planner/balance.ts';
import type { Shard } from '../../planner/format/shard.ts';
import type { Plan } from '../../planner/plan.ts';
import type { PlanSpec } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { rowMatrix, type TrafficVisitor, visitEntries, visitPlan } from '../../planner/traffic.ts';

/** One kind of link, per rank: rows and peers by direction. All arrays have `ranks` elements. */
export interface LinkRows {
  readonly out: Float64Array;
  readonly in: Float64Array;
  readonly outPeers: Float64Array;
  readonly inPeers: Float64Array;
}

/** Rows by link: NVLink between neighbors, NICs between all others. */
export interface Links {
  readonly nvlink: LinkRows;
  readonly nic: LinkRows;
}

/** Rows of a dispatch; a combine over the same path moves the same rows back. */
export interface PlanLoads {
  readonly ranks: number;
  /** Rows between nodes of the plan: copies for forwarders in a hierarchical plan. */
  readonly inter: Links;
  /** Rows between ranks of one node of the plan: direct ones, and what forwarders distribute. */
  readonly intra: Links;
  /** Rows that a rank copies within its memory; rows that land in their slot are not copied. */
  readonly local: Float64Array;
  /** Entries of each rank that reach an expert. */
  readonly kept: Float64Array;
  /** Real rows of each receive buffer. */
  readonly received: Float64Array;
  /** Copies of a row that arrive at each forwarder. */
  readonly landed: Float64Array;
  readonly tokens: Float64Array;
  /** Rows that the combine adds on the rank of the token: kept rows, or partial sums and the rows of the local node. */
  readonly summed: Float64Array;
  /** Number of slices of the busiest rank's send order. */
  readonly slices: number;
}

function emptyLink(ranks: number): LinkRows {
  const zeros = () => new Float64Array(ranks);
  return { out: zeros(), in: zeros(), outPeers: zeros(), inPeers: zeros() };
}

/** Rows by their link; `joined` consecutive ranks reach each other over NVLink. */
class LinkCounter implements Links {
  readonly nvlink: LinkRows;
  readonly nic: LinkRows;
  readonly #joined: number;

  constructor(ranks: number, joined: number) {
    this.nvlink = emptyLink(ranks);
    this.nic = emptyLink(ranks);
    this.#joined = joined;
  }

  /** Once for each pair of ranks, so that a peer counts once. */
  add(from: number, to: number, rows: number): void {
    if (rows === 0 || from === to) return;
    const near = Math.floor(from / this.#joined) === Math.floor(to / this.#joined);
    const link = near ? this.nvlink : this.nic;
    link.out[from]! += rows;
    link.in[to]! += rows;
    link.outPeers[from]! += 1;
    link.inPeers[to]! += 1;
  }
}

/** The rows [from][to] by their link; rows that stay on their rank are not included. */
export function linkRows(rows: readonly Float64Array[], joined: number): Links {
  const links = new LinkCounter(rows.length, joined);
  rows.forEach((row, from) => {
    row.forEach((moved, to) => {
      links.add(from, to, moved);
    });
  });
  return links;
}

/** forwarder[rank][node]: the rank that receives a rank's copies for a node; on the local node, the rank itself. */
export function forwarderTable(spec: PlanSpec, groups: Uint16Array): Uint32Array[] {
  return Array.from({ length: spec.ranks }, (_, rank) => forwardersOf(spec, groups, rank));
}

/**
 * The loads of a plan, flat or hierarchical. O(ranks^2 + forwarded rows).
 *
 * @param joined consecutive ranks that NVLink joins; default: the nodes of the plan
 */
export function planLoads(plan: Plan, joined: number = plan.spec.ranksPerNode): PlanLoads {
  if (plan.spec.strategy === 'flat') return entryLoads(plan, joined);
  return loadsOf(plan, joined, {
    visit: visitPlan,
    lands: true,
    summed: ({ sendEntry, forwardRows }) => sendEntry.length + sum(forwardRows),
    slices: ({ forwardSlices }) => forwardSlices.length / 3,
  });
}

/**
 * The loads if every row of the plan's entries goes straight to its slot: those of a flat plan. O(ranks^2).
 *
 * @param joined as for planLoads
 */
export function entryLoads(plan: Plan, joined: number = plan.spec.ranksPerNode): PlanLoads {
  const { sliceRows } = plan.spec;
  const matrix = rowMatrix(plan);
  return loadsOf(plan, joined, {
    visit: visitEntries,
    lands: false,
    summed: ({ kept }) => kept,
    slices: ({ rank }) => sum(matrix[rank]!.map((rows) => Math.ceil(rows / sliceRows))),
  });
}

/** How rows travel. */
interface Way {
  readonly visit: (plan: Plan, visitor: TrafficVisitor) => void;
  /** Whether rows between nodes land at a forwarder, which distributes them. */
  readonly lands: boolean;
  readonly summed: (shard: Shard) => number;
  readonly slices: (shard: Shard) => number;
}

function loadsOf(plan: Plan, joined: number, { visit, lands, summed, slices }: Way): PlanLoads {
  const { spec, shards } = plan;
  const { ranks } = spec;
  const inter = new LinkCounter(ranks, joined);
  const landed = new Float64Array(ranks);
  // Distribution is added up over the sources of a forwarder before it is counted, so that a peer counts once.
  const near = Array.from({ length: ranks }, () => new Float64Array(ranks));
  visit(plan, {
    inter: (from, to, rows) => {
      inter.add(from, to, rows);
      if (lands) landed[to]! += rows;
    },
    intra: (from, to, rows) => {
      near[from]![to]! += rows;
    },
  });
  const perRank = (pick: (rank: number) => number) =>
    Float64Array.from({ length: ranks }, (_, rank) => pick(rank));
  return {
    ranks,
    inter,
    intra: linkRows(near, joined),
    local: perRank((rank) => near[rank]![rank]!),
    kept: perRank((rank) => shards[rank]!.kept),
    landed,
    received: perRank((rank) => sum(shards[rank]!.expertRows)),
    tokens: perRank((rank) => shards[rank]!.tokens),
    summed: perRank((rank) => summed(shards[rank]!)),
    slices: Math.max(1, ...shards.map(slices)),
  };
}
