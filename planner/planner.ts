import { Arena } from './arena.ts';
import { FuscoError } from './errors.ts';
import type { Facts } from './facts.ts';
import {
  MAX_ROWS,
  S_ENTRY_INSTANCE,
  S_ENTRY_SLOT,
  S_EXPERT_OFFSET,
  S_EXPERT_ROWS,
  S_RUN_ROW,
  S_RUN_ROWS,
  S_SEND_ENTRY,
  S_SEND_ROW,
  S_SEND_ROWS,
  S_SLICE,
  SECTION_ALIGN,
  SECTIONS,
  SHARD_BODY,
  SHARD_MAGIC,
  SHARD_WORDS,
  SLICE_WORDS,
  W_DROPPED,
  W_FIRST_INSTANCE,
  W_INSTANCES,
  W_KEPT,
  W_LOCAL_INSTANCES,
  W_MAGIC,
  W_MASKED,
  W_RANK,
  W_RANKS,
  W_RECV_ROWS,
  W_SEGMENTS,
  W_TOKENS,
  W_TOPK,
} from './layout.ts';
import { type Candidates, candidatesFor } from './placement.ts';
import { markVerified, type VerifiedPlan } from './plan.ts';
import { checkTable, idType, type RoutingTable } from './routing.ts';
import { alignSection, placeSections, Shard, writeShardHead } from './shard.ts';
import { type PlanOptions, type PlanSpec, resolveOptions } from './spec.ts';
import type { PlannerExports } from './wasm.ts';

/** One rank's routing after validation: where each entry goes, and the counts that the other ranks need. */
export interface RoutedRank {
  readonly rank: number;
  readonly tokens: number;
  /** u16[tokens, topk]: destination instance; `instances` where masked. */
  readonly instances: Uint16Array;
  /** u32[instances]: this rank's contribution to the facts. */
  readonly counts: Uint32Array;
  readonly masked: number;
}

/** Addresses of what all shards of one plan share. */
interface GroupTables {
  rankFirst: number;
  counts: number;
  totals: number;
  before: number;
  blockRow: number;
  recvRows: number;
}

/**
 * The host side of the planner's Wasm: lays out its arena, passes addresses, and copies the finished shards out.
 * Deterministic: the same routing and options give the same bytes on every machine. Not re-entrant; make one per
 * thread.
 */
export class Planner {
  readonly #wasm: PlannerExports;
  readonly #arena: Arena;

  private constructor(wasm: PlannerExports) {
    this.#wasm = wasm;
    this.#arena = new Arena(wasm.memory, wasm.heapBase());
  }

  /** Instantiates the planner from its compiled or uncompiled Wasm. In Node, loadPlanner() finds the file. */
  static async create(wasm: WebAssembly.Module | BufferSource): Promise<Planner> {
    const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    const instance = await WebAssembly.instantiate(module);
    return new Planner(instance.exports as unknown as PlannerExports);
  }

  /** Bytes of the planner's own memory at present: the arena of the largest rank planned so far. */
  get memoryBytes(): number {
    return this.#arena.memory.buffer.byteLength;
  }

  /**
   * Plans a whole group offline.
   *
   * @param tables one routing table per rank, all with the same topk
   * @throws FuscoError E_RANKS, E_ROUTING_*, E_OPTION, E_PLACEMENT, E_LIMIT, E_MEMORY
   */
  planAll(tables: readonly RoutingTable[], options: PlanOptions): VerifiedPlan {
    const first = tables[0];
    if (first === undefined || tables.length !== options.ranks) {
      throw new FuscoError('E_RANKS', `routing of ${tables.length} ranks for a plan of ${options.ranks}`, {
        value: tables.length,
        limit: options.ranks,
      });
    }
    checkTable(first, 0, first.topk);
    const spec = resolveOptions(options, first.topk);
    const { instances } = spec.placement;
    const routed = tables.map((table, rank) => this.routeRank(rank, table, spec));
    const counts = new Uint32Array(spec.ranks * instances);
    for (const part of routed) counts.set(part.counts, part.rank * instances);

    this.#arena.reset();
    const group = this.#layGroup(spec, { counts });
    const shards = routed.map((part) => {
      const shard = this.#buildShard(part, spec, group);
      this.#wasm.addCounts(group.before, group.counts + 4 * part.rank * instances, instances);
      return shard;
    });
    return markVerified({ spec, shards });
  }

  /**
   * First half of planning one rank at run time: validates its routing and counts its rows per instance. The
   * counts of all ranks, gathered, are the facts that planRank needs.
   */
  routeRank(rank: number, table: RoutingTable, spec: PlanSpec): RoutedRank {
    checkRank(rank, spec);
    checkTable(table, rank, spec.topk);
    const { experts, placement, topk, ranksPerNode } = spec;
    const { tokens } = table;
    const entries = tokens * topk;
    const arena = this.#arena;
    arena.reset();
    const status = arena.alloc(4);
    const stamp = arena.zeroed(experts);
    const counts = arena.zeroed(placement.instances + 1);
    const choice = this.#copyCandidates(candidatesFor(placement, rank, ranksPerNode));
    const ids = arena.copy(table.ids);
    const instances = arena.alloc(2 * entries);
    const kind = this.#wasm.route(
      idType(table.ids, rank),
      ids,
      tokens,
      topk,
      experts,
      choice.single,
      choice.first,
      choice.count,
      choice.list,
      placement.instances,
      stamp,
      instances,
      status,
    );
    if (kind !== 0) throw badEntry(kind, arena.u32(status, 1)[0]!, rank, table, experts);
    this.#wasm.countInstances(instances, entries, counts);
    return {
      rank,
      tokens,
      instances: arena.u16(instances, entries).slice(),
      counts: arena.u32(counts, placement.instances).slice(),
      masked: arena.u32(counts, placement.instances + 1)[placement.instances]!,
    };
  }

  /**
   * Second half of planning one rank at run time: its shard, byte for byte the one that planAll makes.
   *
   * @throws FuscoError E_FACTS where the facts contradict the rank's own routing
   */
  planRank(routed: RoutedRank, facts: Facts, spec: PlanSpec): Shard {
    const { instances } = spec.placement;
    const { rank } = routed;
    if (facts.counts.length !== spec.ranks * instances) {
      throw new FuscoError(
        'E_FACTS',
        `${facts.counts.length} counts for ${spec.ranks} ranks x ${instances}`,
        { rank },
      );
    }
    const own = facts.counts.subarray(rank * instances, (rank + 1) * instances);
    const differs = own.findIndex((count, i) => count !== routed.counts[i]);
    if (differs >= 0) {
      throw new FuscoError(
        'E_FACTS',
        `rank ${rank} routes ${routed.counts[differs]} rows to instance ${differs}, the facts say ${own[differs]}`,
        { rank },
      );
    }
    this.#arena.reset();
    const group = this.#layGroup(spec, facts);
    for (let source = 0; source < rank; source++) {
      this.#wasm.addCounts(group.before, group.counts + 4 * source * instances, instances);
    }
    return this.#buildShard(routed, spec, group);
  }

  #copyCandidates(choice: Candidates) {
    const arena = this.#arena;
    if (choice.single !== undefined)
      return { single: arena.copy(choice.single), first: 0, count: 0, list: 0 };
    return {
      single: 0,
      first: arena.copy(choice.first),
      count: arena.copy(choice.count),
      list: arena.copy(choice.list),
    };
  }

  /** Block starts of every instance, from the facts. */
  #layGroup(spec: PlanSpec, facts: Facts): GroupTables {
    const { ranks, placement, capacity, align } = spec;
    const { instances } = placement;
    const arena = this.#arena;
    const group: GroupTables = {
      rankFirst: arena.copy(placement.rankFirst),
      counts: arena.copy(facts.counts),
      totals: arena.zeroed(instances),
      before: arena.zeroed(instances),
      blockRow: arena.alloc(4 * instances),
      recvRows: arena.alloc(4 * ranks),
    };
    for (let rank = 0; rank < ranks; rank++) {
      if (this.#wasm.addCounts(group.totals, group.counts + 4 * rank * instances, instances) !== 0) {
        throw new FuscoError('E_LIMIT', `more than ${MAX_ROWS} rows for one expert`, { limit: MAX_ROWS });
      }
    }
    const { rankFirst, totals, blockRow, recvRows } = group;
    const over = this.#wasm.layBlocks(ranks, rankFirst, totals, capacity, align, blockRow, recvRows);
    if (over !== ranks) {
      throw new FuscoError('E_LIMIT', `rank ${over} receives more than ${MAX_ROWS} rows`, {
        rank: over,
        limit: MAX_ROWS,
      });
    }
    return group;
  }

  /** Plans one rank inside the arena and copies the shard out; `group.before` holds the lower ranks' counts. */
  #buildShard(routed: RoutedRank, spec: PlanSpec, group: GroupTables): Shard {
    const wasm = this.#wasm;
    const arena = this.#arena;
    const mark = arena.mark();
    const { ranks, topk, capacity, sliceRows, placement } = spec;
    const { rank, tokens, masked } = routed;
    const { instances } = placement;
    const entries = tokens * topk;
    const first = placement.rankFirst[rank]!;
    const local = placement.rankFirst[rank + 1]! - first;

    const sendRow = arena.alloc(4 * instances);
    const sendRows = arena.alloc(4 * instances);
    const next = arena.alloc(4 * (instances + 1));
    const stream = arena.alloc(8 * (instances + 1));
    const position = arena.alloc(8 * ranks);
    const own = group.counts + 4 * rank * instances;
    const { before, blockRow } = group;
    const kept = wasm.fillSendTable(
      instances,
      before,
      own,
      blockRow,
      capacity,
      sendRow,
      sendRows,
      next,
      stream,
    );
    const slices = wasm.countSlices(ranks, group.rankFirst, sendRows, sliceRows, position);
    const recvRows = arena.u32(group.recvRows, ranks)[rank]!;
    const dropped = entries - masked - kept;

    const counts = new Array<number>(SECTIONS).fill(0);
    counts[S_EXPERT_OFFSET] = local + 1;
    counts[S_EXPERT_ROWS] = local;
    counts[S_RUN_ROW] = counts[S_RUN_ROWS] = local * ranks;
    counts[S_SEND_ROW] = counts[S_SEND_ROWS] = instances;
    counts[S_SLICE] = SLICE_WORDS * slices;
    counts[S_ENTRY_SLOT] = counts[S_ENTRY_INSTANCE] = entries;
    counts[S_SEND_ENTRY] = kept;
    const { offsets, bytes } = placeSections(counts);
    const shard = arena.alloc(bytes);
    zeroGaps(arena.bytes(shard, bytes), offsets);
    const at = (section: number) => shard + offsets[section]!;

    arena.u32(at(S_SEND_ROW), instances).set(arena.u32(sendRow, instances));
    arena.u32(at(S_SEND_ROWS), instances).set(arena.u32(sendRows, instances));
    if (local > 0) {
      const { totals } = group;
      wasm.fillRunTable(
        ranks,
        instances,
        first,
        local,
        group.counts,
        blockRow,
        capacity,
        at(S_RUN_ROW),
        at(S_RUN_ROWS),
      );
      wasm.fillReceive(
        first,
        local,
        blockRow,
        totals,
        capacity,
        recvRows,
        at(S_EXPERT_OFFSET),
        at(S_EXPERT_ROWS),
      );
    } else {
      arena.u32(at(S_EXPERT_OFFSET), 1)[0] = 0;
    }
    if (slices > 0) wasm.fillSlices(rank, ranks, sliceRows, position, at(S_SLICE), slices);

    let segments = 0;
    if (entries > 0) {
      const entryInstance = at(S_ENTRY_INSTANCE);
      const entrySlot = at(S_ENTRY_SLOT);
      arena.u16(entryInstance, entries).set(routed.instances);
      wasm.assignSlots(entryInstance, entries, next, entrySlot);
      if (masked > 0) wasm.markMasked(entryInstance, entries, instances, entrySlot);
      if (dropped > 0) wasm.markDropped(entryInstance, entries, instances, sendRow, sendRows, entrySlot);
      segments = wasm.fillStream(entryInstance, entrySlot, tokens, topk, stream, at(S_SEND_ENTRY));
    }

    const words = new Array<number>(SHARD_WORDS).fill(0);
    words[W_MAGIC] = SHARD_MAGIC;
    words[W_RANK] = rank;
    words[W_RANKS] = ranks;
    words[W_TOKENS] = tokens;
    words[W_TOPK] = topk;
    words[W_INSTANCES] = instances;
    words[W_FIRST_INSTANCE] = first;
    words[W_LOCAL_INSTANCES] = local;
    words[W_RECV_ROWS] = recvRows;
    words[W_KEPT] = kept;
    words[W_MASKED] = masked;
    words[W_DROPPED] = dropped;
    words[W_SEGMENTS] = segments;
    const result = arena.bytes(shard, bytes).slice();
    writeShardHead(result, words, counts);
    arena.release(mark);
    return Shard.open(result, rank);
  }
}

/** Zeroes the bytes in front of every section's start and at the end, where gaps may lie. */
function zeroGaps(bytes: Uint8Array, offsets: readonly number[]): void {
  bytes.fill(0, 0, SHARD_BODY);
  for (const offset of offsets) if (offset > SHARD_BODY) bytes.fill(0, offset - SECTION_ALIGN, offset);
  bytes.fill(0, Math.max(SHARD_BODY, alignSection(bytes.length) - SECTION_ALIGN));
}

function checkRank(rank: number, spec: PlanSpec): void {
  if (!Number.isInteger(rank) || rank < 0 || rank >= spec.ranks) {
    throw new FuscoError('E_RANKS', `rank ${rank} of a group of ${spec.ranks}`, { limit: spec.ranks - 1 });
  }
}

function badEntry(
  kind: number,
  entry: number,
  rank: number,
  table: RoutingTable,
  experts: number,
): FuscoError {
  const token = Math.floor(entry / table.topk);
  const k = entry % table.topk;
  const value = table.ids[entry]!;
  const where = `rank ${rank} token ${token} k ${k}`;
  const details = { rank, token, k, value };
  if (kind === 1) {
    return new FuscoError(
      'E_ROUTING_ID',
      `${where}: expert ${value} is not -1 and not in 0..${experts - 1}`,
      {
        ...details,
        limit: experts - 1,
      },
    );
  }
  return new FuscoError(
    'E_ROUTING_DUPLICATE',
    `${where}: expert ${value} was already chosen by this token`,
    details,
  );
}
