import { Arena } from './arena.ts';
import { decide } from './decide.ts';
import { FuscoError } from './errors.ts';
import { countedThing, countsPerRank, type Facts } from './facts.ts';
import type { Shard } from './format/shard.ts';
import * as J from './jobs.ts';
import { candidatesFor } from './placement.ts';
import { markVerified, type Plan, type VerifiedPlan } from './plan.ts';
import { instanceCounts } from './quotas.ts';
import { checkTable, idType, type RoutedRank, type RoutingTable, specOfGroup } from './routing.ts';
import { countNodeRows, ShardBuilder } from './shardBuilder.ts';
import { considersOncePerRank, oncePerRank, type PlanOptions, type PlanSpec } from './spec.ts';
import type { PlannerExports } from './wasm.ts';

/** Called before every part of a long operation, with the number of completed parts and the total. */
export type Progress = (done: number, total: number) => void;

/** Plans the ranks of one group one at a time. */
export interface GroupPlanner {
  /** What the facts decided. */
  readonly plan: Omit<Plan, 'shards'>;
  /** One rank's shard, byte-identical to the one that planAll makes. */
  readonly shard: (rank: number, table: RoutingTable) => Shard;
}

/**
 * The caller of the planner's Wasm: lays out its arena, passes addresses, and copies the finished shards out.
 * Deterministic: the same routing and options give the same bytes on every machine. Not re-entrant; make one per
 * thread.
 */
export class Planner {
  readonly #wasm: PlannerExports;
  readonly #arena: Arena;
  /** Counts how often the arena was reset: tables that were laid out before the last reset no longer exist. */
  #use = 0;

  private constructor(wasm: PlannerExports) {
    this.#wasm = wasm;
    this.#arena = new Arena(wasm.memory, wasm.heapBase());
  }

  /**
   * Instantiates the planner from its compiled or uncompiled Wasm. In Node, loadPlanner() finds the file.
   *
   * @throws FuscoError E_MEMORY if the address space of a Wasm memory cannot be reserved
   */
  static async create(wasm: WebAssembly.Module | BufferSource): Promise<Planner> {
    const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    let instance: WebAssembly.Instance;
    try {
      instance = await WebAssembly.instantiate(module);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw new FuscoError('E_MEMORY', 'no memory for the planner: its Wasm could not be started', { cause });
    }
    return new Planner(instance.exports as unknown as PlannerExports);
  }

  /** Current bytes of the planner's memory: the arena of the largest rank planned so far. */
  get memoryBytes(): number {
    return this.#arena.memory.buffer.byteLength;
  }

  /**
   * Plans a whole group offline.
   *
   * @param tables one routing table per rank, all with the same topk
   * @param progress called before every rank of both passes
   * @throws FuscoError E_RANKS, E_ROUTING_*, E_OPTION, E_PLACEMENT, E_LIMIT, E_MEMORY
   */
  planAll(tables: readonly RoutingTable[], options: PlanOptions, progress?: Progress): VerifiedPlan {
    const asked = specOfGroup(tables, options);
    const width = countsPerRank(asked);
    const routed = tables.map((table, rank) => {
      progress?.(rank, 2 * asked.ranks);
      return this.routeRank(rank, table, asked);
    });
    const counts = new Uint32Array(asked.ranks * width);
    for (const part of routed) counts.set(part.counts, part.rank * width);

    const builder = this.#keptBuilder(asked, counts);
    const facts: Facts = {
      counts,
      ...(asked.strategy === 'flat' ? {} : { nodeRows: joinRows(routed, asked, builder) }),
      ...(considersOncePerRank(asked) ? { rankRows: this.#joinRankRows(routed, asked, counts) } : {}),
    };
    const plan = decide(asked, facts);
    const isAsked = plan.spec.ranksPerNode === asked.ranksPerNode;
    const settled = isAsked ? builder : this.#keptBuilder(plan.spec, counts);
    const shards = routed.map((part) => {
      progress?.(asked.ranks + part.rank, 2 * asked.ranks);
      return settled().build(part, plan, facts);
    });
    return markVerified({ ...plan, shards });
  }

  #joinRankRows(routed: readonly RoutedRank[], asked: PlanSpec, counts: Uint32Array): Uint32Array {
    const spec = oncePerRank(asked);
    return joinRows(routed, spec, this.#keptBuilder(spec, counts));
  }

  /**
   * First half of planning one rank at run time: validates its routing and counts its entries per instance, or per expert
   * if quotas choose the instance. The gathered counts of all ranks are the facts that planRank needs.
   */
  routeRank(rank: number, table: RoutingTable, spec: PlanSpec): RoutedRank {
    this.#reset();
    return this.#route(rank, table, spec);
  }

  #reset(): void {
    this.#arena.reset();
    this.#use++;
  }

  /** routeRank above what the arena holds. */
  #route(rank: number, table: RoutingTable, spec: PlanSpec): RoutedRank {
    const mark = this.#arena.mark();
    try {
      return this.#routeAbove(rank, table, spec);
    } finally {
      this.#arena.release(mark);
    }
  }

  #routeAbove(rank: number, table: RoutingTable, spec: PlanSpec): RoutedRank {
    checkRank(rank, spec);
    checkTable(table, rank, spec.topk);
    const { experts, topk } = spec;
    const width = countsPerRank(spec);
    const { tokens } = table;
    const entries = tokens * topk;
    const arena = this.#arena;
    const stamp = arena.zeroed(experts);
    const counts = this.#wasm.slotTable();
    arena.u32(counts, width + 1).fill(0);
    const ids = arena.copy(table.ids);
    const targets = arena.array('u16', entries);
    const job = arena.block(J.ROUTE_WORDS, {
      [J.ROUTE_TOKENS]: tokens,
      [J.ROUTE_TOPK]: topk,
      [J.ROUTE_EXPERTS]: experts,
      [J.ROUTE_MASKED]: width,
      [J.ROUTE_STAMP]: stamp,
      [J.ROUTE_TARGETS]: targets,
      ...this.#copyTargets(spec, rank),
    });
    const kind = this.#wasm.route(idType(table.ids, rank), ids, job);
    if (kind !== 0) {
      throw badEntry(kind, arena.u32(job, J.ROUTE_WORDS)[J.ROUTE_ENTRY]!, rank, table, experts);
    }
    this.#wasm.countInstances(targets, entries);
    const routed = {
      rank,
      tokens,
      targets: arena.u16(targets, entries).slice(),
      counts: arena.u32(counts, width).slice(),
      masked: arena.u32(counts, width + 1)[width]!,
    };
    if (spec.strategy === 'flat' || spec.capacity > 0 || spec.replicas === 'quota-1') return routed;
    const rowsOf = (nodes: PlanSpec) => {
      const left = arena.copy(routed.counts);
      return countNodeRows(this.#wasm, arena, nodes, routed, targets, left);
    };
    return {
      ...routed,
      nodeRows: rowsOf(spec),
      ...(considersOncePerRank(spec) ? { rankRows: rowsOf(oncePerRank(spec)) } : {}),
    };
  }

  /**
   * What a rank adds to the facts if the strategy is not flat: its rows per node, u32[nodes]. They depend on the counts
   * of all ranks only if there is a capacity or quotas; otherwise, one all-gather collects both.
   */
  nodeRows(routed: RoutedRank, counts: Uint32Array, spec: PlanSpec): Uint32Array {
    return this.#builder(spec, checkCounts(routed, counts, spec)).nodeRows(routed);
  }

  /**
   * What a rank adds to the facts if `auto` may choose once per rank: its rows per rank, u32[ranks]; undefined otherwise.
   * They are known at the same time as its rows per node.
   */
  rankRows(routed: RoutedRank, counts: Uint32Array, spec: PlanSpec): Uint32Array | undefined {
    return considersOncePerRank(spec) ? this.nodeRows(routed, counts, oncePerRank(spec)) : undefined;
  }

  /**
   * Second half of planning one rank at run time: its shard, byte-identical to the one that planAll makes.
   *
   * @throws FuscoError E_FACTS if the facts contradict the routing of the rank
   */
  planRank(routed: RoutedRank, facts: Facts, spec: PlanSpec): Shard {
    checkCounts(routed, facts.counts, spec);
    const plan = decide(spec, facts);
    return this.#builder(plan.spec, facts.counts).build(routed, plan, facts);
  }

  /**
   * Plans the ranks of a group one at a time, each from its table, and keeps no shard. The tables of the group are laid
   * out once; planRank lays them out for every rank. Ascending ranks are fastest.
   *
   * @throws FuscoError E_FACTS if the facts have another size or lack data that the strategy needs
   */
  group(facts: Facts, spec: PlanSpec): GroupPlanner {
    checkCountsSize(facts.counts, spec);
    const plan = decide(spec, facts);
    const builder = this.#keptBuilder(plan.spec, facts.counts);
    return {
      plan,
      shard: (rank, table) => {
        const shared = builder();
        const routed = this.#route(rank, table, plan.spec);
        checkCounts(routed, facts.counts, spec);
        return shared.build(routed, plan, facts);
      },
    };
  }

  /** nodeRows for one rank after the other; the tables of the group are laid out once. */
  groupNodeRows(counts: Uint32Array, spec: PlanSpec): (rank: number, table: RoutingTable) => Uint32Array {
    const builder = this.#keptBuilder(spec, counts);
    return (rank, table) => {
      const shared = builder();
      const routed = this.#route(rank, table, spec);
      checkCounts(routed, counts, spec);
      return shared.nodeRows(routed);
    };
  }

  /** A builder that is made again if the arena has been used for something else since. */
  #keptBuilder(spec: PlanSpec, counts: Uint32Array): () => ShardBuilder {
    checkCountsSize(counts, spec);
    let builder: ShardBuilder | undefined;
    let use = 0;
    return () => {
      if (builder === undefined || use !== this.#use) {
        builder = this.#builder(spec, counts);
        use = this.#use;
      }
      return builder;
    };
  }

  #builder(spec: PlanSpec, counts: Uint32Array): ShardBuilder {
    this.#reset();
    return new ShardBuilder(this.#wasm, this.#arena, spec, instanceCounts(spec, counts));
  }

  /** Words of a ROUTE block: the targets that replace experts. */
  #copyTargets(
    { replicas, experts, placement, ranksPerNode }: PlanSpec,
    rank: number,
  ): Record<number, number> {
    const arena = this.#arena;
    if (replicas === 'quota-1')
      return { [J.ROUTE_SINGLE]: arena.copy(Uint16Array.from({ length: experts }, (_, e) => e)) };
    const { single, first, count, list } = candidatesFor(placement, rank, ranksPerNode);
    if (single !== undefined) return { [J.ROUTE_SINGLE]: arena.copy(single) };
    return {
      [J.ROUTE_FIRST]: arena.copy(first),
      [J.ROUTE_COUNT]: arena.copy(count),
      [J.ROUTE_CANDIDATES]: arena.copy(list),
    };
  }
}

/** Rows of all ranks to the nodes of `spec`, u32[ranks, nodes]. */
function joinRows(
  routed: readonly RoutedRank[],
  { ranks, nodes }: PlanSpec,
  builder: () => ShardBuilder,
): Uint32Array {
  const rows = new Uint32Array(ranks * nodes);
  for (const part of routed) rows.set(builder().nodeRows(part), part.rank * nodes);
  return rows;
}

function checkCountsSize(counts: Uint32Array, spec: PlanSpec, rank?: number): void {
  const width = countsPerRank(spec);
  if (counts.length === spec.ranks * width) return;
  const text = `${counts.length} counts for ${spec.ranks} ranks x ${width}`;
  throw new FuscoError('E_FACTS', text, rank === undefined ? {} : { rank });
}

/** The gathered counts. Throws E_FACTS unless they have the right size and contain the counts of this rank. */
function checkCounts({ rank, counts: own }: RoutedRank, counts: Uint32Array, spec: PlanSpec): Uint32Array {
  const width = countsPerRank(spec);
  checkCountsSize(counts, spec, rank);
  const claimed = counts.subarray(rank * width, (rank + 1) * width);
  const differs = claimed.findIndex((count, i) => count !== own[i]);
  if (differs < 0) return counts;
  const to = `${countedThing(spec)} ${differs}`;
  const text = `rank ${rank} routes ${own[differs]} rows to ${to}, the facts say ${claimed[differs]}`;
  throw new FuscoError('E_FACTS', text, { rank });
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
  const where = `rank ${rank} token ${token} k ${k}: expert ${value}`;
  const details = { rank, token, k, value };
  if (kind !== 1) {
    return new FuscoError('E_ROUTING_DUPLICATE', `${where} was already chosen by this token`, details);
  }
  const limit = experts - 1;
  return new FuscoError('E_ROUTING_ID', `${where} is not -1 and not in 0..${limit}`, { ...details, limit });
}
