// Where experts should live: greedy replication and packing, the problem that EPLB (DeepSeek's expert parallelism
// load balancer) solves for one node group. Two steps after it: the next replica goes to the expert with the
// highest load per replica; then instances are packed heaviest first, each on the least loaded rank with room. Unlike
// EPLB's, a rank never holds two instances of one expert, because a plan could not tell them apart.

import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import {
  checkRanksPerNode,
  defaultRanksPerNode,
  makePlacement,
  type PlacementMap,
} from '../../planner/placement.ts';
import { maxOverMean } from '../figures/summary.ts';

export interface ProposalOptions {
  ranks: number;
  /** Instances beyond one per expert. Default 0. */
  replicas?: number;
  /** Replicas of an expert go to different nodes where that costs no balance. Default: largest divisor up to 8. */
  ranksPerNode?: number;
}

/** Largest load of a rank, and of a node, over the mean. */
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
  /** Replicas that found a rank of their own. */
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

/** The ranks while they fill up. */
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

  /** Where only ranks that hold the expert have room: moves another expert there and takes its place. */
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

/**
 * Proposes where each expert lives. The result is never worse balanced than contiguous blocks: those are kept where
 * packing does not beat them.
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
  const instances = replicate(counts, asked, ranks);
  const room = Math.ceil((experts + asked) / ranks);
  const packed = pack(counts, instances, new Packing(ranks, room, ranksPerNode));
  const measure = (map: PlacementMap) => imbalanceOf(map, counts, ranks, ranksPerNode);
  const before = measure([]);
  const after = measure(packed);
  if (asked === 0 && after.rankMaxOverMean >= before.rankMaxOverMean) {
    const blocks = counts.map((_, expert) => Math.floor((expert * ranks) / experts));
    return { map: blocks, before, after: before, replicas: 0 };
  }
  const placed = packed.reduce<number>(
    (sum, entry) => sum + (typeof entry === 'number' ? 1 : entry.length),
    0,
  );
  if (packed.some((entry) => typeof entry !== 'number' && entry.length === 0)) {
    throw new FuscoError('E_INTERNAL', 'an expert found no rank');
  }
  return { map: packed, before, after, replicas: placed - experts };
}

/** How often each expert was chosen in a routing. Ids out of range are the planner's to refuse; here they throw. */
export function countChoices(
  tables: readonly { ids: ArrayLike<number | bigint> }[],
  experts: number,
): number[] {
  const counts = new Array<number>(experts).fill(0);
  for (const [rank, { ids }] of tables.entries()) {
    for (let entry = 0; entry < ids.length; entry++) {
      const id = Number(ids[entry]!);
      if (id === -1) continue;
      if (id < 0 || id >= experts) {
        throw new FuscoError(
          'E_ROUTING_ID',
          `rank ${rank} entry ${entry}: expert ${id} is not in 0..${experts - 1}`,
        );
      }
      counts[id]!++;
    }
  }
  return counts;
}
