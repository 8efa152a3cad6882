// What a plan makes every rank move, in rows, read off the plan's own tables.

import { forwardersOf } from '../../planner/balance.ts';
import type { Plan } from '../../planner/plan.ts';
import type { PlanSpec } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { visitPlan } from '../../planner/traffic.ts';

/** One kind of link, per rank: rows and peers by direction. All arrays have `ranks` elements. */
export interface LinkRows {
  readonly out: Float64Array;
  readonly in: Float64Array;
  readonly outPeers: Float64Array;
  readonly inPeers: Float64Array;
}

/** Rows by the link that they cross: NVLink joins neighbors, a NIC the others. */
export interface Links {
  readonly nvlink: LinkRows;
  readonly nic: LinkRows;
}

/** Rows of a dispatch; a combine moves the same rows the other way. */
export interface PlanLoads {
  readonly ranks: number;
  /** Rows between nodes of the plan: copies for forwarders in a hierarchical plan. */
  readonly inter: Links;
  /** Rows between ranks of one node of the plan: direct ones, and what forwarders distribute. */
  readonly intra: Links;
  /** Rows that a rank copies within its own memory; a row that lands in its slot is none. */
  readonly local: Float64Array;
  /** Entries of each rank that reach an expert. */
  readonly kept: Float64Array;
  /** Real rows of each receive buffer. */
  readonly received: Float64Array;
  /** Copies of a row that arrive at each forwarder. */
  readonly landed: Float64Array;
  readonly tokens: Float64Array;
  /** Rows that the combine adds up at home: kept rows, or partial sums and the rows of its own node. */
  readonly summed: Float64Array;
  /** Slices into which the busiest rank's send order is cut. */
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
  readonly add = (from: number, to: number, rows: number): void => {
    if (rows === 0 || from === to) return;
    const near = Math.floor(from / this.#joined) === Math.floor(to / this.#joined);
    const link = near ? this.nvlink : this.nic;
    link.out[from]! += rows;
    link.in[to]! += rows;
    link.outPeers[from]! += 1;
    link.inPeers[to]! += 1;
  };
}

/** The rows [from][to] by their link; those that stay on their rank are left out. */
export function linkRows(rows: readonly Float64Array[], joined: number): Links {
  const links = new LinkCounter(rows.length, joined);
  rows.forEach((row, from) => {
    row.forEach((moved, to) => {
      links.add(from, to, moved);
    });
  });
  return links;
}

/** forwarder[rank][node]: who receives a rank's copies for a node; itself on its own node. */
export function forwarderTable(spec: PlanSpec, groups: Uint16Array): Uint32Array[] {
  return Array.from({ length: spec.ranks }, (_, rank) => forwardersOf(spec, groups, rank));
}

/**
 * The loads of a plan, flat or hierarchical. O(ranks^2 + forwarded rows).
 *
 * @param joined consecutive ranks that NVLink joins; default: the nodes of the plan
 */
export function planLoads(plan: Plan, joined: number = plan.spec.ranksPerNode): PlanLoads {
  const { spec, shards } = plan;
  const { ranks } = spec;
  const isHier = spec.strategy === 'hier';
  const inter = new LinkCounter(ranks, joined);
  const landed = new Float64Array(ranks);
  // Distribution adds up over a forwarder's sources before it is counted, so that a peer counts once.
  const near = Array.from({ length: ranks }, () => new Float64Array(ranks));
  visitPlan(plan, {
    inter: (from, to, rows) => {
      inter.add(from, to, rows);
      if (isHier) landed[to]! += rows;
    },
    intra: (from, to, rows) => {
      near[from]![to]! += rows;
    },
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
    intra: linkRows(near, joined),
    local: perRank((rank) => near[rank]![rank]!),
    kept: perRank((rank) => shards[rank]!.kept),
    landed,
    received: perRank((rank) => sum(shards[rank]!.expertRows)),
    tokens: perRank((rank) => shards[rank]!.tokens),
    summed: perRank((rank) => shards[rank]!.sendEntry.length + sum(shards[rank]!.forwardRows)),
    slices: Math.max(1, ...perRank(slicesOf)),
  };
}
