// The slow, obvious planner: the rules for routing, placement, receive layout and flat schedule, written as nested
// loops over arrays of objects. It shares nothing with the planner, so that comparing the two means something.

import { obviousQuotas } from './obviousQuotas.ts';

/** ids[rank][token][k]; -1 is no expert. */
export type PlainRouting = readonly (readonly (readonly number[])[])[];

export interface ObviousOptions {
  experts: number;
  ranks: number;
  ranksPerNode?: number;
  align?: number;
  capacity?: number;
  /** Rows of one slice at most; default: no limit. */
  sliceRows?: number;
  /** Expert -> rank or ranks; empty or absent means contiguous blocks. */
  placement?: readonly (number | readonly number[])[];
  /** Default `quota-1`. */
  replicas?: 'local' | 'quota-1';
}

/** The instance that one entry is meant for; undefined where it is masked. */
export type Choice = { rank: number; expert: number } | undefined;

/** What becomes of one (token, k). */
export type Fate =
  | { kind: 'masked' }
  | { kind: 'dropped'; rank: number; expert: number }
  | { kind: 'kept'; rank: number; expert: number; row: number };

/** Rows of `source` in the block of `expert` at `rank`. */
export interface Run {
  rank: number;
  expert: number;
  source: number;
  row: number;
  rows: number;
}

/** Rows `first`, first + 1, … of a stream, sent to a peer in one step. */
export interface Slice {
  peer: number;
  first: number;
  rows: number;
}

/** A kept (token, k) and the row in which it lands. */
export interface Delivery {
  token: number;
  k: number;
  rank: number;
  expert: number;
  row: number;
}

export interface ObviousRank {
  /** fates[token][k]. */
  fates: Fate[][];
  /** Experts that live here, ascending. */
  experts: number[];
  /** First row of each block; one more element, the rows of the buffer. */
  expertOffsets: number[];
  /** Real rows of each block. */
  expertCounts: number[];
  /** Runs that arrive here, by (expert, source rank). */
  arrivals: Run[];
  /** Runs that start here, by (destination rank, expert). */
  departures: Run[];
  /** Kept entries by (destination rank, expert, token, k). */
  stream: Delivery[];
  /** Pieces of the stream in the order of issue. */
  slices: Slice[];
  /** Runs of stream rows that are contiguous at the source and, inside one block, at the destination. */
  segments: number;
  masked: number;
  dropped: number;
  /** In hierarchical plans: what crosses to other nodes; `stream` and `slices` then hold the own node's rows only. */
  forward?: ObviousForward;
}

/** A token's one row to a remote node. */
export interface ForwardedRow {
  node: number;
  token: number;
  /** What the forwarder distributes, by k. */
  entries: Delivery[];
  /** Its own row in the forwarder's staging buffer, used or not. */
  stageRow: number;
  /** Slot at the forwarder; undefined where the row has to be staged. */
  slot: number | undefined;
}

export interface ObviousForward {
  /** By (node, token). */
  rows: ForwardedRow[];
  /** Rows for each node. */
  nodeRows: number[];
  /** First staging row of this rank's rows at its forwarder in each node. */
  firstStageRow: number[];
  slices: Slice[];
  /** As a forwarder: first staging row and rows of each source rank; 0 and 0 for those it does not forward for. */
  sources: { row: number; rows: number }[];
  /** As a forwarder: rows of the staging buffer. */
  stageRows: number;
}

/** Ranks that host an expert, ascending. */
export function hostsOf(expert: number, options: ObviousOptions): number[] {
  const { experts, ranks, placement } = options;
  if (placement === undefined || placement.length === 0) return [Math.floor((expert * ranks) / experts)];
  const entry = placement[expert]!;
  return typeof entry === 'number' ? [entry] : [...entry].sort((a, b) => a - b);
}

/** The largest divisor of `ranks` up to 8. */
function defaultNodeSize(ranks: number): number {
  let best = 1;
  for (let size = 1; size <= 8; size++) if (ranks % size === 0) best = size;
  return best;
}

/** Rule `local`: a replica on the local rank, else one on its node, else any. */
function chooseLocal(expert: number, source: number, token: number, options: ObviousOptions): number {
  const nodeSize = options.ranksPerNode ?? defaultNodeSize(options.ranks);
  const hosts = hostsOf(expert, options);
  if (hosts.includes(source)) return source;
  const sameNode = hosts.filter((host) => Math.floor(host / nodeSize) === Math.floor(source / nodeSize));
  if (sameNode.length > 0) return sameNode[token % sameNode.length]!;
  return hosts[(token + source) % hosts.length]!;
}

/** Rule `quota-1`: the rank of each entry in the order (source, token, k), as each expert's quotas are used up. */
function byQuota(routing: PlainRouting, options: ObviousOptions) {
  const { experts, ranks, ranksPerNode = defaultNodeSize(ranks) } = options;
  const counts = routing.map((tokens) => {
    const chosen = tokens.flat();
    return Array.from({ length: experts }, (_, expert) => chosen.filter((id) => id === expert).length);
  });
  const hosts = counts[0]!.map((_, expert) => hostsOf(expert, options));
  const quotas = obviousQuotas({ ranks, ranksPerNode, counts, hosts });
  return (expert: number, source: number): number => {
    const quota = quotas[source]!.find((share) => share[0] === expert && share[2] > 0)!;
    quota[2]--;
    return quota[1];
  };
}

/** Where each entry goes: choices[rank][token][k]. */
export function chooseInstances(routing: PlainRouting, options: ObviousOptions): Choice[][][] {
  const hasReplicas = options.placement?.some((entry) => typeof entry !== 'number' && entry.length > 1);
  const next = hasReplicas && options.replicas !== 'local' ? byQuota(routing, options) : undefined;
  return routing.map((tokens, source) =>
    tokens.map((ids, token) =>
      ids.map((expert): Choice => {
        if (expert === -1) return undefined;
        return { rank: next?.(expert, source) ?? chooseLocal(expert, source, token, options), expert };
      }),
    ),
  );
}

/** Plans a group. */
export function obviousPlan(routing: PlainRouting, options: ObviousOptions): ObviousRank[] {
  return layOut(chooseInstances(routing, options), options);
}

/** The layout that follows once every entry has chosen its instance: choices[rank][token][k]. */
export function layOut(choices: readonly Choice[][][], options: ObviousOptions): ObviousRank[] {
  const { experts, ranks, align = 1, capacity = 0, sliceRows = Number.POSITIVE_INFINITY } = options;
  const plans: ObviousRank[] = choices.map((tokens) => ({
    fates: tokens.map((ids) => ids.map((): Fate => ({ kind: 'masked' }))),
    experts: [],
    expertOffsets: [],
    expertCounts: [],
    arrivals: [],
    departures: [],
    stream: [],
    slices: [],
    segments: 0,
    masked: 0,
    dropped: 0,
  }));

  // Who wants each instance, in the order in which its rows will lie.
  const wanted = new Map<string, { source: number; token: number; k: number }[]>();
  for (let source = 0; source < ranks; source++) {
    choices[source]!.forEach((ids, token) => {
      ids.forEach((choice, k) => {
        if (choice === undefined) {
          plans[source]!.masked++;
          return;
        }
        const key = `${choice.rank}/${choice.expert}`;
        if (!wanted.has(key)) wanted.set(key, []);
        wanted.get(key)!.push({ source, token, k });
      });
    });
  }

  for (let rank = 0; rank < ranks; rank++) {
    const plan = plans[rank]!;
    let row = 0;
    for (let expert = 0; expert < experts; expert++) {
      if (!hostsOf(expert, options).includes(rank)) continue;
      while (row % align !== 0) row++;
      plan.experts.push(expert);
      plan.expertOffsets.push(row);
      const block = row;
      const queue = wanted.get(`${rank}/${expert}`) ?? [];
      for (let source = 0; source < ranks; source++) {
        const run: Run = { rank, expert, source, row, rows: 0 };
        for (const entry of queue) {
          if (entry.source !== source) continue;
          if (capacity > 0 && row - block >= capacity) {
            plans[source]!.fates[entry.token]![entry.k] = { kind: 'dropped', rank, expert };
            plans[source]!.dropped++;
            continue;
          }
          plans[source]!.fates[entry.token]![entry.k] = { kind: 'kept', rank, expert, row };
          plans[source]!.stream.push({ token: entry.token, k: entry.k, rank, expert, row });
          run.rows++;
          row++;
        }
        plan.arrivals.push(run);
        plans[source]!.departures.push(run);
      }
      plan.expertCounts.push(row - block);
    }
    while (row % align !== 0) row++;
    plan.expertOffsets.push(row);
  }
  for (const [rank, plan] of plans.entries()) {
    plan.segments = countSegments(plan);
    plan.slices = cutSlices(rowsPerPeer(plan.stream, 0, ranks), rank, 0, sliceRows);
  }
  return plans;
}

export function countSegments({ stream }: Pick<ObviousRank, 'stream'>): number {
  let segments = 0;
  stream.forEach((row, i) => {
    const before = stream[i - 1];
    const sameBlock = before?.rank === row.rank && before.expert === row.expert;
    const follows = sameBlock && before.token + 1 === row.token && before.row + 1 === row.row;
    if (!follows) segments++;
  });
  return segments;
}

/** Rows of the stream for each peer from `first` on, in the order of the stream. */
export function rowsPerPeer(stream: readonly { rank: number }[], first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => stream.filter((row) => row.rank === first + i).length);
}

/**
 * Round after round, the next slice of every peer that has one, starting with peer `own`, then own + 1.
 *
 * @param rows rows of each peer; their parts of the stream follow one another
 * @param firstName what peer 0 is called
 */
export function cutSlices(
  rows: readonly number[],
  own: number,
  firstName: number,
  sliceRows: number,
): Slice[] {
  const ofPeer = rows.map((count, peer) => {
    const first = rows.slice(0, peer).reduce((sum, before) => sum + before, 0);
    const slices: Slice[] = [];
    for (let done = 0; done < count; done += sliceRows) {
      slices.push({ peer: firstName + peer, first: first + done, rows: Math.min(sliceRows, count - done) });
    }
    return slices;
  });
  const issued: Slice[] = [];
  const rounds = Math.max(...ofPeer.map((slices) => slices.length));
  for (let round = 0; round < rounds; round++) {
    for (let step = 0; step < rows.length; step++) {
      const slice = ofPeer[(own + step) % rows.length]![round];
      if (slice !== undefined) issued.push(slice);
    }
  }
  return issued;
}
