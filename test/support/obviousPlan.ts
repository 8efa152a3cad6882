// The slow, obvious planner: the rules for routing, placement, receive layout and flat schedule, written as nested
// loops over arrays of objects. It shares nothing with the planner, so that comparing the two means something.

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
  stream: { token: number; k: number; rank: number; expert: number; row: number }[];
  /** Pieces of the stream in the order of issue. */
  slices: { peer: number; first: number; rows: number }[];
  /** Runs of stream rows that are contiguous at the source and, inside one block, at the destination. */
  segments: number;
  masked: number;
  dropped: number;
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

/** A replica on the own rank, else one on the own node, else any; among several, token % count decides. */
function choose(expert: number, source: number, token: number, options: ObviousOptions): number {
  const nodeSize = options.ranksPerNode ?? defaultNodeSize(options.ranks);
  const hosts = hostsOf(expert, options);
  if (hosts.includes(source)) return source;
  const sameNode = hosts.filter((host) => Math.floor(host / nodeSize) === Math.floor(source / nodeSize));
  const candidates = sameNode.length > 0 ? sameNode : hosts;
  return candidates[token % candidates.length]!;
}

/** Plans a group. */
export function obviousPlan(routing: PlainRouting, options: ObviousOptions): ObviousRank[] {
  const choices = routing.map((tokens, source) =>
    tokens.map((ids, token) =>
      ids.map((expert): Choice => {
        return expert === -1 ? undefined : { rank: choose(expert, source, token, options), expert };
      }),
    ),
  );
  return layOut(choices, options);
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
    plan.slices = cutSlices(plan, rank, ranks, sliceRows);
  }
  return plans;
}

function countSegments({ stream }: ObviousRank): number {
  let segments = 0;
  stream.forEach((row, i) => {
    const before = stream[i - 1];
    const sameBlock = before?.rank === row.rank && before.expert === row.expert;
    const follows = sameBlock && before.token + 1 === row.token && before.row + 1 === row.row;
    if (!follows) segments++;
  });
  return segments;
}

/** Round after round, the next slice of every peer that has one, starting with the rank itself, then rank + 1. */
function cutSlices({ stream }: ObviousRank, rank: number, ranks: number, sliceRows: number) {
  const ofPeer: { peer: number; first: number; rows: number }[][] = [];
  for (let peer = 0; peer < ranks; peer++) {
    const rows = stream.filter((row) => row.rank === peer).length;
    const first = stream.filter((row) => row.rank < peer).length;
    const slices = [];
    for (let done = 0; done < rows; done += sliceRows) {
      slices.push({ peer, first: first + done, rows: Math.min(sliceRows, rows - done) });
    }
    ofPeer.push(slices);
  }
  const issued: { peer: number; first: number; rows: number }[] = [];
  const rounds = Math.max(...ofPeer.map((slices) => slices.length));
  for (let round = 0; round < rounds; round++) {
    for (let step = 0; step < ranks; step++) {
      const slice = ofPeer[(rank + step) % ranks]![round];
      if (slice !== undefined) issued.push(slice);
    }
  }
  return issued;
}
