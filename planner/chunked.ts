// Plans that are larger than memory: made one shard at a time.
//
// The header of a file precedes its shards and contains their digests, so a writer must know every shard before it writes
// the first one. It plans each rank twice: once for the size and the digest, and once to write. The output can therefore
// be a pipe, and the cost is about that of reading the file again to hash it. For all ranks, only the facts, u32[ranks,
// instances], and 32 bytes per shard are kept.

import { countsPerRank, type Facts } from './facts.ts';
import { type ListedShard, layFile } from './format/encode.ts';
import type { Hashing } from './format/hash.ts';
import type { Plan } from './plan.ts';
import type { Planner, Progress } from './planner.ts';
import type { RoutingTable } from './routing.ts';
import {
  considersOncePerRank,
  oncePerRank,
  type PlanOptions,
  type PlanSpec,
  resolveOptions,
} from './spec.ts';

/**
 * The routing of one rank. It is requested several times; the caller may read it again, generate it again, or keep it.
 */
export type RoutingSource = (rank: number) => RoutingTable | Promise<RoutingTable>;

/** A plan whose shards exist one at a time. */
export interface ChunkedPlan {
  readonly plan: Omit<Plan, 'shards'>;
  /** 64 hex digits. */
  readonly planId: string;
  /** Bytes of the file. */
  readonly length: number;
  /**
   * The bytes of the file in order, identical to those of encodePlan. Each rank is planned again when its bytes are
   * requested.
   */
  readonly chunks: (progress?: Progress) => AsyncGenerator<Uint8Array>;
}

/** The facts of all ranks, which are routed one at a time. Throws what routeRank throws. */
export async function gatherChunked(
  planner: Planner,
  table: RoutingSource,
  spec: PlanSpec,
  onRank?: (rank: number) => void,
): Promise<Facts> {
  const { ranks, nodes } = spec;
  const width = countsPerRank(spec);
  const countsRanks = considersOncePerRank(spec);
  const counts = new Uint32Array(ranks * width);
  const isFlat = spec.strategy === 'flat';
  const nodeRows = new Uint32Array(isFlat ? 0 : ranks * nodes);
  const rankRows = new Uint32Array(countsRanks ? ranks * ranks : 0);
  let isComplete = true;
  for (let rank = 0; rank < ranks; rank++) {
    onRank?.(rank);
    const routed = planner.routeRank(rank, await table(rank), spec);
    counts.set(routed.counts, rank * width);
    isComplete &&= routed.nodeRows !== undefined;
    if (routed.nodeRows !== undefined) nodeRows.set(routed.nodeRows, rank * nodes);
    if (routed.rankRows !== undefined) rankRows.set(routed.rankRows, rank * ranks);
  }
  if (isFlat) return { counts };
  if (!isComplete) {
    // What a rank sends to a node depends on the quotas and on the dropped entries, which depend on the counts of all
    // ranks.
    const rowsOf = planner.groupNodeRows(counts, spec);
    for (let rank = 0; rank < ranks; rank++) nodeRows.set(rowsOf(rank, await table(rank)), rank * nodes);
    const rankRowsOf = planner.groupNodeRows(counts, oncePerRank(spec));
    for (let rank = 0; rank < ranks && countsRanks; rank++) {
      rankRows.set(rankRowsOf(rank, await table(rank)), rank * ranks);
    }
  }
  return { counts, nodeRows, ...(countsRanks ? { rankRows } : {}) };
}

/**
 * Plans a whole group in the memory of one rank. Tables are requested in ascending rank order: once for the facts (twice
 * for a hierarchical plan with a capacity or with quotas), once here and once in `chunks`.
 *
 * @throws what Planner.planAll throws
 */
export async function planChunked(
  planner: Planner,
  table: RoutingSource,
  options: PlanOptions,
  { sha256, running }: Hashing,
  progress?: Progress,
): Promise<ChunkedPlan> {
  const first = await table(0);
  const spec = resolveOptions(options, first.topk);
  const { ranks } = spec;
  const facts = await gatherChunked(planner, table, spec, (rank) => progress?.(rank, 2 * ranks));
  const group = planner.group(facts, spec);
  const listed: ListedShard[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    progress?.(ranks + rank, 2 * ranks);
    const { bytes } = group.shard(rank, await table(rank));
    listed.push([bytes.length, Uint8Array.from(await sha256([bytes]))]);
  }
  const { head, fronts, tail, length, planId } = await layFile(group.plan, listed, sha256);
  async function* chunks(onWrite?: Progress): AsyncGenerator<Uint8Array> {
    const hash = running();
    const covered = (bytes: Uint8Array): Uint8Array => {
      hash.update(bytes);
      return bytes;
    };
    yield covered(head);
    for (let rank = 0; rank < ranks; rank++) {
      onWrite?.(rank, ranks);
      yield covered(fronts[rank]!);
      yield covered(group.shard(rank, await table(rank)).bytes);
    }
    yield covered(tail);
    yield Uint8Array.from(hash.digest());
  }
  return { plan: group.plan, planId, length, chunks };
}
