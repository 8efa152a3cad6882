// Placements for the replica rule `quota-1`: as few replicas as possible so that in every step no rank has more than `target`
// times the mean.
//
// Quotas move rows along chains of replicas, so one replica can relieve ranks that do not host its expert. A rank stays
// busy because of a set of ranks whose experts have no host outside the set (Hall's theorem). Each replica that is added
// opens the set that limits the worst step: its expert with the most rows gets a host outside. At the end, replicas that
// later ones made redundant are removed.

import { makePlacement, type PlacementMap } from '../../planner/placement.ts';
import { sum } from '../../planner/totals.ts';
import { quotaLoads } from './quotaLoads.ts';

export interface FewestOptions {
  readonly ranks: number;
  /** Largest rows of a rank over the mean, from 1. */
  readonly target: number;
  /** Maximum number of replicas. */
  readonly most: number;
  /**
   * Whether to use all of `most`: replicas that the target does not need go to the experts with the most rows per
   * instance.
   */
  readonly useAll: boolean;
}

/** The step that is furthest above the target, and the set of ranks that limits it. */
interface Obstacle {
  readonly rows: readonly number[];
  readonly loads: Float64Array;
  readonly closed: readonly number[];
  /** Rows of the busiest rank divided by the allowed rows. */
  readonly excess: number;
}

/** A placement while replicas are added and removed. */
class Hosts {
  readonly #hosts: number[][];
  readonly #used: number[];
  readonly #steps: readonly (readonly number[])[];
  readonly #target: number;

  constructor(base: PlacementMap, ranks: number, steps: readonly (readonly number[])[], target: number) {
    this.#hosts = base.map((entry) => (typeof entry === 'number' ? [entry] : [...entry]));
    this.#used = new Array<number>(ranks).fill(0);
    for (const rank of this.#hosts.flat()) this.#used[rank]!++;
    this.#steps = steps;
    this.#target = target;
  }

  get map(): PlacementMap {
    return this.#hosts.map((hosts) => (hosts.length === 1 ? hosts[0]! : [...hosts].sort((a, b) => a - b)));
  }

  count(expert: number): number {
    return this.#hosts[expert]!.length;
  }

  add(expert: number, rank: number): void {
    this.#hosts[expert]!.push(rank);
    this.#used[rank]!++;
  }

  remove(expert: number, rank: number): void {
    this.#hosts[expert] = this.#hosts[expert]!.filter((host) => host !== rank);
    this.#used[rank]!--;
  }

  /** The worst step above the target; undefined if there is none. */
  obstacle(): Obstacle | undefined {
    const { length: ranks } = this.#used;
    const placement = makePlacement(this.#hosts.length, ranks, this.map);
    let worst: Obstacle | undefined;
    for (const rows of this.#steps) {
      const mean = sum(rows) / ranks;
      const { loads, closed } = quotaLoads(placement, rows, Math.floor(this.#target * mean));
      if (closed.length === 0) continue;
      const excess = Math.max(...loads) / mean;
      if (worst === undefined || excess > worst.excess) worst = { rows, loads, closed, excess };
    }
    return worst;
  }

  /** Adds the replica that opens the closed set; returns it, or undefined if no rank outside has room. */
  open({ rows, loads, closed }: Obstacle, room: number): [expert: number, rank: number] | undefined {
    const inside = new Set(closed);
    const rank = this.#leastLoaded(loads, room, (candidate) => !inside.has(candidate));
    if (rank === undefined) return undefined;
    let expert = -1;
    for (const [candidate, hosts] of this.#hosts.entries()) {
      if (!hosts.some((host) => inside.has(host)) || hosts.includes(rank)) continue;
      if (expert < 0 || rows[candidate]! > rows[expert]!) expert = candidate;
    }
    if (expert < 0) return undefined;
    this.add(expert, rank);
    return [expert, rank];
  }

  /** Gives the expert with the most rows per instance one more host; returns whether any rank has room for one. */
  spread(rows: readonly number[], room: number): boolean {
    const order = [...this.#hosts.keys()].sort(
      (a, b) => rows[b]! / this.count(b) - rows[a]! / this.count(a) || a - b,
    );
    const loads = new Float64Array(this.#used.length);
    for (const [expert, hosts] of this.#hosts.entries()) {
      for (const host of hosts) loads[host]! += rows[expert]! / hosts.length;
    }
    for (const expert of order) {
      const rank = this.#leastLoaded(loads, room, (candidate) => !this.#hosts[expert]!.includes(candidate));
      if (rank === undefined) continue;
      this.add(expert, rank);
      return true;
    }
    return false;
  }

  #leastLoaded(loads: Float64Array, room: number, allowed: (rank: number) => boolean): number | undefined {
    let best: number | undefined;
    for (const [rank, used] of this.#used.entries()) {
      if (used >= room || !allowed(rank)) continue;
      if (best === undefined || loads[rank]! < loads[best]!) best = rank;
    }
    return best;
  }
}

type Replica = readonly [expert: number, rank: number];

/** Adds replicas until every step meets the target, or no more may be added; returns whether it is met. */
function meetTarget(hosts: Hosts, added: Replica[], most: number, room: () => number): boolean {
  for (;;) {
    const obstacle = hosts.obstacle();
    if (obstacle === undefined || added.length >= most) return obstacle === undefined;
    const replica = hosts.open(obstacle, room());
    if (replica === undefined) return false;
    added.push(replica);
  }
}

/** Removes replicas, the last ones first, without which the target is met as well; returns how many. */
function removeSuperfluous(hosts: Hosts, added: readonly Replica[]): number {
  let removed = 0;
  for (const [expert, rank] of [...added].reverse()) {
    hosts.remove(expert, rank);
    if (hosts.obstacle() === undefined) removed++;
    else hosts.add(expert, rank);
  }
  return removed;
}

/**
 * Adds replicas to a placement without any.
 *
 * @param base expert -> rank
 * @param steps rows of each expert in each step
 */
export function fewestReplicas(
  base: PlacementMap,
  steps: readonly (readonly number[])[],
  { ranks, target, most, useAll }: FewestOptions,
): PlacementMap {
  const hosts = new Hosts(base, ranks, steps, target);
  const added: Replica[] = [];
  // If the number of replicas is given, all ranks have the same number of places; otherwise places are added with the
  // replicas.
  const room = () => Math.ceil((base.length + (useAll ? most : added.length + ranks)) / ranks);
  let used = 0;
  if (meetTarget(hosts, added, most, room)) used -= removeSuperfluous(hosts, added);
  used += added.length;
  const total = base.map((_, expert) => sum(steps.map((rows) => rows[expert]!)));
  while (useAll && used < most && hosts.spread(total, room())) used++;
  return hosts.map;
}
