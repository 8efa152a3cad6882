import { checkChoice, checkInteger, FuscoError } from './errors.ts';
import { MAX_INSTANCES } from './format/layout.ts';

/** Expert -> rank, or expert -> ranks if an expert is replicated. */
export type PlacementMap = readonly (number | readonly number[])[];

/** Instances by (expert, rank): those of expert e are list[first[e]] to list[first[e + 1] - 1], in ascending order. */
export interface ExpertInstances {
  /** u32[experts + 1]. */
  readonly first: Uint32Array;
  /** u16[instances]. */
  readonly list: Uint16Array;
}

/** Which instances of each expert a source rank may choose; token t takes candidate t % count. */
export interface Candidates {
  /** u32[experts], index of the first candidate in `list`. */
  readonly first: Uint32Array;
  /** u32[experts], number of candidates. */
  readonly count: Uint32Array;
  /** u16 instances. */
  readonly list: Uint16Array;
  /** u16[experts], the only candidate of each expert; undefined if some expert has several. */
  readonly single: Uint16Array | undefined;
}

/**
 * The ranks of all experts. An instance is an (expert, rank) pair; instances are numbered by (rank, expert), so a rank's
 * instances are consecutive and in ascending expert order.
 */
export interface Placement {
  readonly experts: number;
  readonly ranks: number;
  readonly instances: number;
  /** u32[ranks + 1], first instance of each rank; the last is `instances`. */
  readonly rankFirst: Uint32Array;
  /** u16[instances]. */
  readonly instanceRank: Uint16Array;
  /** u16[instances]. */
  readonly instanceExpert: Uint16Array;
  /** The map as the plan stores it: empty for contiguous blocks, a number for an expert without replicas. */
  readonly map: PlacementMap;
}

/**
 * Rules of placements without replicas. `blocks`, the default, and `remainder-first` give every rank a contiguous block.
 * If `ranks` does not divide the experts, `blocks` spreads the longer ones evenly, and `remainder-first` gives them to
 * the first ranks, as vLLM and TensorRT-LLM do. `round-robin` places expert e on rank e % ranks.
 */
export const PLACEMENT_RULES = ['blocks', 'remainder-first', 'round-robin'] as const;
export type PlacementRule = (typeof PLACEMENT_RULES)[number];

/**
 * The rank of item `index` if `count` items are divided into contiguous blocks, of which the first `count % ranks` have
 * one more.
 */
export function remainderFirstOwner(index: number, count: number, ranks: number): number {
  const least = Math.floor(count / ranks);
  const longer = count % ranks;
  const inLonger = longer * (least + 1);
  return index < inLonger ? Math.floor(index / (least + 1)) : longer + Math.floor((index - inLonger) / least);
}

/** The map of a rule. Throws E_OPTION for another name. */
export function placementOf(rule: PlacementRule, experts: number, ranks: number): PlacementMap {
  checkChoice('placement', rule, PLACEMENT_RULES);
  return Array.from({ length: experts }, (_, expert) => {
    if (rule === 'round-robin') return expert % ranks;
    return rule === 'blocks'
      ? blockOwner(expert, experts, ranks)
      : remainderFirstOwner(expert, experts, ranks);
  });
}

/** Contiguous blocks: owner(e) = floor(e * ranks / experts). */
function blockOwner(expert: number, experts: number, ranks: number): number {
  return Math.floor((expert * ranks) / experts);
}

/** Ranks of one expert, ascending. Throws E_PLACEMENT unless they are distinct and in range. */
function ownersOf(entry: unknown, expert: number, ranks: number): number[] {
  const owners: unknown[] = Array.isArray(entry) ? entry : [entry];
  const path = `/placement/${expert}`;
  if (owners.length === 0) throw new FuscoError('E_PLACEMENT', `expert ${expert} has no rank`, { path });
  const sorted: number[] = [];
  for (const rank of owners) {
    if (typeof rank !== 'number' || !Number.isInteger(rank) || rank < 0 || rank >= ranks) {
      throw new FuscoError('E_PLACEMENT', `expert ${expert} on rank ${String(rank)} of ${ranks}`, {
        path,
        limit: ranks - 1,
      });
    }
    sorted.push(rank);
  }
  sorted.sort((a, b) => a - b);
  if (sorted.some((rank, i) => i > 0 && rank === sorted[i - 1])) {
    throw new FuscoError('E_PLACEMENT', `expert ${expert} is placed twice on one rank`, { path });
  }
  return sorted;
}

/** Builds a placement; `map` undefined or empty means contiguous blocks. Throws E_PLACEMENT or E_LIMIT. */
export function makePlacement(experts: number, ranks: number, map?: PlacementMap): Placement {
  if (map !== undefined && !Array.isArray(map)) {
    throw new FuscoError('E_PLACEMENT', 'the placement is not an array', { path: '/placement' });
  }
  const given = map !== undefined && map.length > 0;
  if (given && map.length !== experts) {
    throw new FuscoError('E_PLACEMENT', `the placement has ${map.length} entries for ${experts} experts`, {
      path: '/placement',
    });
  }
  const owners: number[][] = [];
  const hosted = new Uint32Array(ranks);
  let isBlock = true;
  let instances = 0;
  for (let expert = 0; expert < experts; expert++) {
    const owner = blockOwner(expert, experts, ranks);
    const list = given ? ownersOf(map[expert], expert, ranks) : [owner];
    isBlock &&= list.length === 1 && list[0] === owner;
    instances += list.length;
    for (const rank of list) hosted[rank]!++;
    owners.push(list);
  }
  if (instances > MAX_INSTANCES) {
    throw new FuscoError('E_LIMIT', `${instances} expert instances > ${MAX_INSTANCES}`, {
      path: '/placement',
      limit: MAX_INSTANCES,
    });
  }
  const rankFirst = new Uint32Array(ranks + 1);
  for (let rank = 0; rank < ranks; rank++) rankFirst[rank + 1] = rankFirst[rank]! + hosted[rank]!;
  const next = rankFirst.slice(0, ranks);
  const instanceRank = new Uint16Array(instances);
  const instanceExpert = new Uint16Array(instances);
  for (let expert = 0; expert < experts; expert++) {
    for (const rank of owners[expert]!) {
      const instance = next[rank]!++;
      instanceRank[instance] = rank;
      instanceExpert[instance] = expert;
    }
  }
  const stored = isBlock ? [] : owners.map((list) => (list.length === 1 ? list[0]! : list));
  return { experts, ranks, instances, rankFirst, instanceRank, instanceExpert, map: stored };
}

/** Of each placement, because every rank of a plan asks for them. Nobody changes them. */
const madeByExpert = new WeakMap<Placement, ExpertInstances>();

/** The same arrays for each call with one placement. */
export function instancesByExpert(placement: Placement): ExpertInstances {
  let made = madeByExpert.get(placement);
  if (made === undefined) madeByExpert.set(placement, (made = sortByExpert(placement)));
  return made;
}

function sortByExpert({ experts, instances, instanceExpert }: Placement): ExpertInstances {
  const first = new Uint32Array(experts + 1);
  for (const expert of instanceExpert) first[expert + 1]!++;
  for (let expert = 0; expert < experts; expert++) first[expert + 1]! += first[expert]!;
  const list = new Uint16Array(instances);
  const next = first.slice();
  // Instances ascend with their rank.
  for (let i = 0; i < instances; i++) list[next[instanceExpert[i]!]!++] = i;
  return { first, list };
}

/**
 * Rule `local`: the candidates of each expert for rows that start at `rank` are an instance on that rank, else those on
 * its node, else all of them, starting with number `rank` % count. Without replicas it is the only instance, for every
 * rank.
 */
export function candidatesFor(placement: Placement, rank: number, ranksPerNode: number): Candidates {
  const { experts, instances, instanceRank } = placement;
  const hosts = instancesByExpert(placement);
  const count = new Uint32Array(experts).fill(1);
  if (instances === experts) return { first: hosts.first, count, list: hosts.list, single: hosts.list };
  const nodeRank = rank - (rank % ranksPerNode);
  const first = new Uint32Array(experts);
  const list = new Uint16Array(instances);
  let at = 0;
  for (let expert = 0; expert < experts; expert++) {
    const [start, end] = [hosts.first[expert]!, hosts.first[expert + 1]!];
    const rankOf = (host: number) => instanceRank[hosts.list[host]!]!;
    // Hosts are in ascending order, so those of a node are consecutive.
    let near = start;
    while (near < end && rankOf(near) < nodeRank) near++;
    let far = near;
    while (far < end && rankOf(far) < nodeRank + ranksPerNode) far++;
    let local = near;
    while (local < far && rankOf(local) !== rank) local++;
    const [from, to] = local < far ? [local, local + 1] : near < far ? [near, far] : [start, end];
    count[expert] = to - from;
    first[expert] = at;
    const turn = near < far ? 0 : rank % (end - start);
    for (let i = 0; i < to - from; i++) list[at++] = hosts.list[from + ((i + turn) % (to - from))]!;
  }
  // With one candidate each, first[e] == e, and the list itself is the table.
  return { first, count, list, single: at === experts ? list : undefined };
}

/**
 * Ranks whose weight gradients of an expert must be added, in ascending order, for each expert. If every rank adds in this
 * order, all instances of an expert keep identical weights.
 */
export function weightGradientRanks(placement: Placement): number[][] {
  const { first, list } = instancesByExpert(placement);
  return Array.from({ length: placement.experts }, (_, expert) =>
    Array.from(list.subarray(first[expert]!, first[expert + 1]!), (i) => placement.instanceRank[i]!),
  );
}

/** The default number of ranks per node: the largest divisor of `ranks` up to 8. */
export function defaultRanksPerNode(ranks: number): number {
  for (let size = Math.min(8, ranks); size > 1; size--) if (ranks % size === 0) return size;
  return 1;
}

/** Throws E_OPTION unless `ranksPerHost` divides `ranks` and is a multiple of `ranksPerNode`. */
export function checkRanksPerHost(ranksPerHost: number, ranksPerNode: number, ranks: number): number {
  checkInteger('ranksPerHost', ranksPerHost, 1, ranks);
  if (ranks % ranksPerHost === 0 && ranksPerHost % ranksPerNode === 0) return ranksPerHost;
  const text = `ranksPerHost ${ranksPerHost} is not a multiple of ranksPerNode ${ranksPerNode} that divides ${ranks} ranks`;
  throw new FuscoError('E_OPTION', text, { limit: ranks });
}

/** Throws E_OPTION unless `ranksPerNode` divides `ranks`. */
export function checkRanksPerNode(ranksPerNode: number, ranks: number): number {
  checkInteger('ranksPerNode', ranksPerNode, 1, ranks);
  if (ranks % ranksPerNode === 0) return ranksPerNode;
  const text = `ranksPerNode ${ranksPerNode} does not divide ${ranks} ranks: nodes of unequal size are not supported`;
  throw new FuscoError('E_OPTION', text, {
    value: ranksPerNode,
    limit: ranks,
    hint: nodeSizeHint(commonDivisor(ranksPerNode, ranks), ranks),
  });
}

/** The greatest integer that divides both. */
export function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

/** What to do about nodes of unequal size. */
export function nodeSizeHint(size: number, ranks: number): string {
  if (size === 1)
    return 'Give 1 rank a node: no larger number divides them, and then every rank counts as a node.';
  return `Use ${size} ranks per node: then ${ranks / size} groups of ${size} ranks, each inside one node, are planned as nodes.`;
}
