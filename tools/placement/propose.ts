// Proposes placements by greedy replication and packing, the problem that EPLB (DeepSeek's expert parallelism load
// balancer) solves for one node group. The two steps are those of EPLB: the next replica goes to the expert with the
// highest load per replica; then instances are packed heaviest first, each on the least loaded rank with room. Unlike
// with EPLB, a rank never holds two instances of one expert, because a plan could not distinguish them.

import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import {
  checkRanksPerNode,
  defaultRanksPerNode,
  makePlacement,
  type PlacementMap,
  placementOf,
} from '../../planner/placement.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { maxOverMean } from '../figures/summary.ts';

export interface ProposalOptions {
  ranks: number;
  /** Instances beyond one per expert. Default 0. */
  replicas?: number;
  /**
   * Replicas of an expert go to different nodes if this does not worsen the balance. Default: largest divisor up to 8.
   */
  ranksPerNode?: number;
}

/** Largest load of a rank, and of a node, divided by the mean. */
export interface Imbalance {
  readonly rankMaxOverMean: number;
  readonly nodeMaxOverMean: number;
}

export interface Proposal {
  /** Expert -> rank, or ranks in ascending order. */
  readonly map: PlacementMap;
  /** Of contiguous blocks. */
  readonly before: Imbalance;
  readonly after: Imbalance;
  /** Number of replicas that were placed on a separate rank. */
  readonly replicas: number;
}

/** Loads of ranks and nodes if each expert's load is shared evenly by its instances. */
export function imbalanceOf(
  map: PlacementMap,
  counts: readonly number[],
  ranks: number,
  ranksPerNode: number,
): Imbalance {
  const rankLoads = new Array<number>(ranks).fill(0);
  const nodeLoads = new Array<number>(ranks / ranksPerNode).fill(0);
  const { instanceRank, instanceExpert } = makePlacement(counts.length, ranks, map);
  const instances = instancesOf(instanceExpert, counts.length);
  instanceRank.forEach((rank, i) => {
    const share = counts[instanceExpert[i]!]! / instances[instanceExpert[i]!]!;
    rankLoads[rank]! += share;
    nodeLoads[Math.floor(rank / ranksPerNode)]! += share;
  });
  return { rankMaxOverMean: maxOverMean(rankLoads), nodeMaxOverMean: maxOverMean(nodeLoads) };
}

function instancesOf(instanceExpert: ArrayLike<number>, experts: number): number[] {
  const instances = new Array<number>(experts).fill(0);
  for (const expert of Array.from(instanceExpert)) instances[expert]!++;
  return instances;
}

/** Instances of each expert: one, and each replica for the highest load per instance; ties go to the lower expert. */
export function replicate(counts: readonly number[], replicas: number, ranks: number): number[] {
  const instances = counts.map(() => 1);
  for (let i = 0; i < replicas; i++) {
    let next = -1;
    for (const [expert, count] of counts.entries()) {
      if (instances[expert] === ranks) continue;
      if (next < 0 || count / instances[expert]! > counts[next]! / instances[next]!) next = expert;
    }
    if (next < 0) break;
    instances[next]!++;
  }
  return instances;
}

/** The ranks while they are filled. */
class Packing {
  readonly hosted: Set<number>[];
  readonly #loads: number[];
  readonly #room: number;
  readonly #ranksPerNode: number;

  constructor(ranks: number, room: number, ranksPerNode: number) {
    this.hosted = Array.from({ length: ranks }, () => new Set<number>());
    this.#loads = new Array<number>(ranks).fill(0);
    this.#room = room;
    this.#ranksPerNode = ranksPerNode;
  }

  #onNode(rank: number, expert: number): boolean {
    const first = rank - (rank % this.#ranksPerNode);
    return this.hosted.slice(first, first + this.#ranksPerNode).some((experts) => experts.has(expert));
  }

  /** Puts an instance on the least loaded rank with room; ties go to a node without the expert, then to the lower rank. */
  place(expert: number, load: number): boolean {
    let best = -1;
    for (const [rank, experts] of this.hosted.entries()) {
      if (experts.size >= this.#room || experts.has(expert)) continue;
      const gain = best < 0 ? -1 : this.#loads[rank]! - this.#loads[best]!;
      if (gain < 0 || (gain === 0 && this.#onNode(best, expert) && !this.#onNode(rank, expert))) best = rank;
    }
    if (best < 0) return false;
    this.#put(best, expert, load);
    return true;
  }

  #put(rank: number, expert: number, load: number): void {
    this.hosted[rank]!.add(expert);
    this.#loads[rank]! += load;
  }

  /** If only ranks that hold the expert have room: moves another expert there and takes its place. */
  swapIn(expert: number, load: number, loadOf: (expert: number) => number): boolean {
    const open = this.hosted.findIndex((experts) => experts.size < this.#room);
    for (const [rank, experts] of this.hosted.entries()) {
      if (open < 0 || experts.has(expert)) continue;
      const other = [...experts].find((candidate) => !this.hosted[open]!.has(candidate));
      if (other === undefined) continue;
      experts.delete(other);
      this.#put(rank, expert, load - loadOf(other));
      this.#put(open, other, loadOf(other));
      return true;
    }
    return false;
  }
}

/** Packs instances heaviest first. */
function pack(counts: readonly number[], instances: readonly number[], packing: Packing): PlacementMap {
  const loadOf = (expert: number) => counts[expert]! / instances[expert]!;
  const order = counts.map((_, expert) => expert).sort((a, b) => loadOf(b) - loadOf(a) || a - b);
  for (const expert of order) {
    for (let i = 0; i < instances[expert]!; i++) {
      if (!packing.place(expert, loadOf(expert))) packing.swapIn(expert, loadOf(expert), loadOf);
    }
  }
  const ranksOf: number[][] = counts.map(() => []);
  packing.hosted.forEach((experts, rank) => {
    for (const expert of experts) ranksOf[expert]!.push(rank);
  });
  return ranksOf.map((ranks) => (ranks.length === 1 ? ranks[0]! : ranks));
}

/** Instances of a map. */
function instanceCount(map: PlacementMap): number {
  return map.reduce<number>((sum, entry) => sum + (typeof entry === 'number' ? 1 : entry.length), 0);
}

/**
 * Adds replicas to a map one by one, each for the highest load per instance and on the least loaded rank without it, and
 * omits those that would make the busiest rank busier. No rank gets more instances than `room`.
 */
function addReplicas(
  map: PlacementMap,
  counts: readonly number[],
  replicas: number,
  { ranks, room }: { readonly ranks: number; readonly room: number },
): PlacementMap {
  const hosts = map.map((entry) => (typeof entry === 'number' ? [entry] : [...entry]));
  const loads = new Array<number>(ranks).fill(0);
  const held = new Array<number>(ranks).fill(0);
  hosts.forEach((list, expert) => {
    for (const rank of list) {
      loads[rank]! += counts[expert]! / list.length;
      held[rank]!++;
    }
  });
  const share = (expert: number) => counts[expert]! / hosts[expert]!.length;
  const open = new Set(counts.keys());
  for (let left = replicas; left > 0 && open.size > 0; ) {
    const expert = [...open].reduce((best, next) => (share(next) > share(best) ? next : best));
    const list = hosts[expert]!;
    const free = [...loads.keys()].filter((rank) => held[rank]! < room && !list.includes(rank));
    const to = free.reduce((best, rank) => (loads[rank]! < loads[best]! ? rank : best), free[0] ?? -1);
    const next = counts[expert]! / (list.length + 1);
    if (to < 0 || loads[to]! + next > Math.max(...loads)) {
      open.delete(expert);
      continue;
    }
    for (const rank of list) loads[rank]! += next - share(expert);
    loads[to]! += next;
    held[to]!++;
    list.push(to);
    left--;
  }
  return hosts.map((list) => (list.length === 1 ? list[0]! : list.sort((a, b) => a - b)));
}

/**
 * Proposes the ranks of each expert. The busiest rank of the result is never busier than that of contiguous blocks, which
 * are kept if packing is not better. Replicas that only make it busier are omitted.
 *
 * @param counts load of each expert, integers from 0
 * @throws FuscoError E_OPTION for sizes out of range, or more replicas than ranks can hold
 */
export function proposePlacement(counts: readonly number[], options: ProposalOptions): Proposal {
  const experts = checkInteger('experts', counts.length, 1, MAX_INSTANCES);
  const ranks = checkInteger('ranks', options.ranks, 1, MAX_RANKS);
  const ranksPerNode = checkRanksPerNode(options.ranksPerNode ?? defaultRanksPerNode(ranks), ranks);
  const most = Math.min(experts * (ranks - 1), MAX_INSTANCES - experts);
  const asked = checkInteger('replicas', options.replicas ?? 0, 0, most);
  const room = (replicas: number) => Math.ceil((experts + replicas) / ranks);
  const packWith = (replicas: number) =>
    pack(counts, replicate(counts, replicas, ranks), new Packing(ranks, room(replicas), ranksPerNode));
  const blocks = placementOf('blocks', experts, ranks);
  const before = imbalanceOf(blocks, counts, ranks, ranksPerNode);
  const proposalOf = (map: PlacementMap): Proposal => {
    const after = imbalanceOf(map, counts, ranks, ranksPerNode);
    return { map, before, after, replicas: instanceCount(map) - experts };
  };
  const better = (a: Proposal, b: Proposal) => (b.after.rankMaxOverMean < a.after.rankMaxOverMean ? b : a);
  const packed = packWith(asked);
  if (packed.some((entry) => typeof entry !== 'number' && entry.length === 0)) {
    throw new FuscoError('E_INTERNAL', 'an expert found no rank');
  }
  const proposal = proposalOf(packed);
  if (asked === 0) return better(proposalOf(blocks), proposal);
  if (proposal.after.rankMaxOverMean <= before.rankMaxOverMean) return proposal;
  // If replicas cannot be packed: the better map without them, plus those replicas that do no harm.
  const base = better(proposalOf(blocks), proposalOf(packWith(0)));
  return better(base, proposalOf(addReplicas(base.map, counts, asked, { ranks, room: room(asked) })));
}

/**
 * How often each expert was chosen in a routing.
 *
 * @throws FuscoError E_ROUTING_ID for the first id that is neither -1 nor in 0..experts - 1
 */
export function countChoices(tables: readonly RoutingTable[], experts: number): number[] {
  const counts = new Array<number>(experts).fill(0);
  for (const [rank, { ids, topk }] of tables.entries()) {
    for (let entry = 0; entry < ids.length; entry++) {
      const id = Number(ids[entry]!);
      if (id === -1) continue;
      if (id < 0 || id >= experts) {
        const [token, k] = [Math.floor(entry / topk), entry % topk];
        const text = `rank ${rank} token ${token} k ${k}: expert ${id} is not -1 and not in 0..${experts - 1}`;
        throw new FuscoError('E_ROUTING_ID', text, { rank, token, k, value: id, limit: experts - 1 });
      }
      counts[id]!++;
    }
  }
  return counts;
}
