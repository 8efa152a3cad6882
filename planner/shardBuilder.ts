import type { Arena } from './arena.ts';
import { FuscoError } from './errors.ts';
import { type Facts, rowsPerNode } from './facts.ts';
import * as L from './format/layout.ts';
import { placeSections, type SectionElement, Shard, writeShardHead } from './format/shard.ts';
import * as J from './jobs.ts';
import { type LandingTable, LandingTables } from './landing.ts';
import { type ExpertInstances, instancesByExpert } from './placement.ts';
import type { Decision, Plan } from './plan.ts';
import type { RoutedRank } from './routing.ts';
import { type DirectRange, directInstances, nodeOf, type PlanSpec } from './spec.ts';
import { largest, sum } from './totals.ts';
import type { Addr, PlannerExports } from './wasm.ts';

/** Addresses of the tables of one source rank. */
interface SendTables {
  sendRow: Addr<'u32'>;
  sendRows: Addr<'u32'>;
  /** Position in the send order - row. */
  shift: Addr<'u32'>;
  kept: number;
  /** Rows of the send order. */
  direct: number;
}

/** Address of a section of the current shard. */
type SectionAddress = <S extends number>(section: S) => Addr<SectionElement<S>>;

/** A rank's forwarding tables; `landing` is its view of everyone's landing rows. */
interface ForwardTables {
  landing: LandingTable;
  nodeRows: Uint32Array;
  forwarded: number;
}

/**
 * Builds shards in the planner's arena, in ascending rank order or one alone. What all ranks of a group share is
 * laid out once; each shard is then built above it, copied out, and its memory released.
 */
export class ShardBuilder {
  readonly #wasm: PlannerExports;
  readonly #arena: Arena;
  readonly #spec: PlanSpec;
  readonly #rankFirst: Addr<'u32'>;
  readonly #counts: Addr<'u32'>;
  readonly #before: Addr<'u32'>;
  /** Instances by expert, and the quotas that choose between them; undefined if the routing determines them. */
  readonly #hosts: ExpertInstances | undefined;
  /** The GROUP block. */
  readonly #group: Addr<'block'>;
  readonly #recvRows: Uint32Array;
  /** Made with the first shard of a hierarchical plan. */
  #landing: LandingTables | undefined;
  /** Ranks whose counts `#before` holds. */
  #passed = 0;

  /**
   * Lays out the group's tables. `counts` are those of instances, u32[ranks, instances]: see instanceCounts. Throws
   * E_LIMIT if a receive buffer would exceed MAX_ROWS, and E_MAX_ROWS if one would exceed the bound of the spec.
   */
  constructor(wasm: PlannerExports, arena: Arena, spec: PlanSpec, counts: Uint32Array) {
    this.#wasm = wasm;
    this.#arena = arena;
    this.#spec = spec;
    this.#hosts = spec.replicas === 'quota-1' ? instancesByExpert(spec.placement) : undefined;
    const { ranks, placement, capacity, align } = spec;
    const { instances } = placement;
    this.#rankFirst = arena.copy(placement.rankFirst);
    this.#counts = arena.copy(counts);
    const totals = arena.zeroed(instances);
    this.#before = arena.zeroed(instances);
    const recvRows = arena.array('u32', ranks);
    this.#group = arena.block(J.GROUP_WORDS, {
      [J.GROUP_RANKS]: ranks,
      [J.GROUP_INSTANCES]: instances,
      [J.GROUP_CAPACITY]: capacity,
      [J.GROUP_ALIGN]: align,
      [J.GROUP_RANK_FIRST]: this.#rankFirst,
      [J.GROUP_COUNTS]: this.#counts,
      [J.GROUP_TOTALS]: totals,
      [J.GROUP_BEFORE]: this.#before,
      [J.GROUP_BLOCK_ROW]: arena.array('u32', instances),
      [J.GROUP_RECV_ROWS]: recvRows,
    });
    for (let rank = 0; rank < ranks; rank++) {
      if (wasm.addCounts(totals, this.#countsOf(rank), instances) !== 0) {
        throw new FuscoError('E_LIMIT', `more than ${L.MAX_ROWS} rows for one expert`, { limit: L.MAX_ROWS });
      }
    }
    const over = wasm.layBlocks(this.#group);
    if (over !== ranks) {
      const text = `rank ${over} receives more than ${L.MAX_ROWS} rows`;
      throw new FuscoError('E_LIMIT', text, { rank: over, limit: L.MAX_ROWS });
    }
    this.#recvRows = arena.u32(recvRows, ranks).slice();
    checkMaxRows(spec, this.#recvRows);
  }

  #countsOf(rank: number): Addr<'u32'> {
    return (this.#counts + 4 * rank * this.#spec.placement.instances) as Addr<'u32'>;
  }

  /** Makes `#before` hold the counts of all ranks below `rank`. */
  #advanceTo(rank: number): void {
    const { instances } = this.#spec.placement;
    if (rank < this.#passed) {
      this.#arena.u32(this.#before, instances).fill(0);
      this.#passed = 0;
    }
    for (; this.#passed < rank; this.#passed++) {
      this.#wasm.addCounts(this.#before, this.#countsOf(this.#passed), instances);
    }
  }

  #sendTables(rank: number, direct: DirectRange): SendTables {
    this.#advanceTo(rank);
    const arena = this.#arena;
    const { instances } = this.#spec.placement;
    const sendRow = arena.array('u32', instances);
    const sendRows = arena.array('u32', instances);
    const shift = arena.array('u32', instances);
    const job = arena.block(J.SEND_WORDS, {
      [J.SEND_COUNTS]: this.#countsOf(rank),
      [J.SEND_DIRECT_FIRST]: direct.first,
      [J.SEND_DIRECT_END]: direct.end,
      [J.SEND_ROW]: sendRow,
      [J.SEND_ROWS]: sendRows,
      [J.SEND_SHIFT]: shift,
    });
    const kept = this.#wasm.fillSendTable(this.#group, job);
    return { sendRow, sendRows, shift, kept, direct: arena.u32(job, J.SEND_WORDS)[J.SEND_DIRECT_ROWS]! };
  }

  /** Rows that a rank sends to each other node after dropping, u32[nodes]; taken from its routing if it contains them. */
  nodeRows(routed: RoutedRank): Uint32Array {
    const known = rowsPerNode(routed, this.#spec);
    if (known !== undefined) return known;
    const arena = this.#arena;
    const mark = arena.mark();
    const { sendRows } = this.#sendTables(routed.rank, directInstances(this.#spec, routed.rank));
    const instances = arena.copy(routed.targets);
    this.#chooseInstances(routed, instances);
    const rows = countNodeRows(this.#wasm, arena, this.#spec, routed, instances, sendRows);
    arena.release(mark);
    return rows;
  }

  /** Under `quota-1`: replaces the experts in a rank's entries, u16[tokens, topk], by instances. */
  #chooseInstances({ rank, targets }: RoutedRank, entries: Addr<'u16'>): void {
    if (this.#hosts === undefined) return;
    const arena = this.#arena;
    const { experts, placement } = this.#spec;
    const mark = arena.mark();
    const job = arena.block(J.QUOTA_WORDS, {
      [J.QUOTA_EXPERTS]: experts,
      [J.QUOTA_MASKED]: placement.instances,
      [J.QUOTA_FIRST]: arena.copy(this.#hosts.first),
      [J.QUOTA_LIST]: arena.copy(this.#hosts.list),
      [J.QUOTA_ROWS]: this.#countsOf(rank),
      [J.QUOTA_STATE]: arena.array('u32', 2 * (experts + 1)),
    });
    this.#wasm.chooseInstances(entries, targets.length, job);
    arena.release(mark);
  }

  #forwardTables(routed: RoutedRank, decision: Decision, facts: Facts): ForwardTables {
    const { rank } = routed;
    const { nodes } = this.#spec;
    const nodeRows = this.nodeRows(routed);
    const gathered = rowsPerNode(facts, this.#spec)!;
    const claimed = gathered.subarray(rank * nodes, (rank + 1) * nodes);
    const differs = claimed.findIndex((rows, node) => rows !== nodeRows[node]);
    if (differs >= 0) {
      const text = `rank ${rank} sends ${nodeRows[differs]} rows to node ${differs}, the facts say ${claimed[differs]}`;
      throw new FuscoError('E_FACTS', text, { rank });
    }
    this.#landing ??= new LandingTables(this.#spec, decision.groups, gathered);
    const landing = this.#landing.of(rank);
    return { landing, nodeRows, forwarded: sum(nodeRows) };
  }

  /** One rank's shard. `plan` and `facts` are those of the whole group. */
  build(routed: RoutedRank, plan: Omit<Plan, 'shards'>, facts: Facts): Shard {
    const wasm = this.#wasm;
    const arena = this.#arena;
    const mark = arena.mark();
    const { topk, placement, capacity } = this.#spec;
    const { rank, tokens, masked } = routed;
    const { instances } = placement;
    const entries = tokens * topk;
    const direct = directInstances(plan.spec, rank);
    const isFlat = plan.spec.strategy === 'flat';
    const forward = isFlat ? undefined : this.#forwardTables(routed, plan.decision, facts);
    const send = this.#sendTables(rank, direct);
    const dropped = entries - masked - send.kept;
    const directSlices = this.#directSlices(rank, direct, send);
    const forwardSlices = forward === undefined ? undefined : this.#forwardSlices(rank, forward);

    const counts = this.#sectionCounts(rank, entries, send, forward);
    counts[L.S_SLICE] = L.SLICE_WORDS * directSlices.count;
    counts[L.S_FORWARD_SLICE] = L.SLICE_WORDS * (forwardSlices?.count ?? 0);
    const { offsets, bytes } = placeSections(counts);
    const shard = arena.alloc(bytes);
    zeroGaps(arena.bytes(shard, bytes), offsets);
    const at: SectionAddress = (section) => (shard + offsets[section]!) as Addr<never>;

    arena.u32(at(L.S_SEND_ROW), instances).set(arena.u32(send.sendRow, instances));
    arena.u32(at(L.S_SEND_ROWS), instances).set(arena.u32(send.sendRows, instances));
    this.#fillReceive(rank, at);
    directSlices.fill(at(L.S_SLICE));
    if (entries > 0) {
      const entryInstance = at(L.S_ENTRY_INSTANCE);
      const entrySlot = at(L.S_ENTRY_SLOT);
      arena.u16(entryInstance, entries).set(routed.targets);
      this.#chooseInstances(routed, entryInstance);
      wasm.assignSlots(entryInstance, entries, entrySlot);
      if (masked > 0) wasm.markMasked(entryInstance, entries, instances, entrySlot);
      if (dropped > 0 && capacity > 0) {
        wasm.markDropped(entryInstance, entries, instances, send.sendRow, send.sendRows, entrySlot);
      }
      const { first, end } = direct;
      const sendEntry = at(L.S_SEND_ENTRY);
      wasm.fillSendOrder(entryInstance, entrySlot, entries, send.direct, first, end, send.shift, sendEntry);
      const tile = this.#spec.tileTokens * topk;
      if (tile > 0) {
        wasm.fillTileOrder(
          entryInstance,
          entrySlot,
          entries,
          tile,
          arena.array('u64', tile),
          at(L.S_TILE_ORDER),
        );
      }
    }
    let staged = 0;
    if (forward !== undefined) {
      forwardSlices?.fill(at(L.S_FORWARD_SLICE));
      staged = this.#fillForward(rank, tokens, send, forward, at);
    }

    const words = new Array<number>(L.SHARD_WORDS).fill(0);
    words[L.W_MAGIC] = L.SHARD_MAGIC;
    words[L.W_RANK] = rank;
    words[L.W_RANKS] = this.#spec.ranks;
    words[L.W_TOKENS] = tokens;
    words[L.W_TOPK] = topk;
    words[L.W_INSTANCES] = instances;
    words[L.W_FIRST_INSTANCE] = placement.rankFirst[rank]!;
    words[L.W_LOCAL_INSTANCES] = placement.rankFirst[rank + 1]! - placement.rankFirst[rank]!;
    words[L.W_RECV_ROWS] = this.#recvRows[rank]!;
    words[L.W_KEPT] = send.kept;
    words[L.W_MASKED] = masked;
    words[L.W_DROPPED] = dropped;
    words[L.W_STAGE_ROWS] = forward?.landing.localRows ?? 0;
    words[L.W_STAGED] = staged;
    words[L.W_TILE_TOKENS] = this.#spec.tileTokens;
    const result = arena.bytes(shard, bytes).slice();
    writeShardHead(result, words, counts);
    arena.release(mark);
    return Shard.open(result, rank);
  }

  /** Number of elements of every section except the slices. */
  #sectionCounts(
    rank: number,
    entries: number,
    send: SendTables,
    forward: ForwardTables | undefined,
  ): number[] {
    const { ranks, nodes, placement } = this.#spec;
    const local = placement.rankFirst[rank + 1]! - placement.rankFirst[rank]!;
    const counts = new Array<number>(L.SECTIONS).fill(0);
    counts[L.S_EXPERT_OFFSET] = local + 1;
    counts[L.S_EXPERT_ROWS] = local;
    counts[L.S_RUN_ROW] = counts[L.S_RUN_ROWS] = local * ranks;
    counts[L.S_SEND_ROW] = counts[L.S_SEND_ROWS] = placement.instances;
    counts[L.S_ENTRY_SLOT] = counts[L.S_ENTRY_INSTANCE] = entries;
    counts[L.S_SEND_ENTRY] = send.direct;
    counts[L.S_TILE_ORDER] = this.#spec.tileTokens > 0 ? entries : 0;
    if (forward !== undefined) {
      counts[L.S_FORWARD_ROW] = counts[L.S_FORWARD_ROWS] = nodes;
      counts[L.S_FORWARD_TOKEN] = counts[L.S_FORWARD_TARGET] = forward.forwarded;
      counts[L.S_DISTRIBUTE_OFFSET] = forward.forwarded + 1;
      counts[L.S_DISTRIBUTE_ENTRY] = send.kept - send.direct;
      counts[L.S_STAGE_ROW] = counts[L.S_STAGE_ROWS] = ranks;
    }
    return counts;
  }

  #fillReceive(rank: number, at: SectionAddress): void {
    const { rankFirst } = this.#spec.placement;
    const group = this.#group;
    const first = rankFirst[rank]!;
    const local = rankFirst[rank + 1]! - first;
    this.#wasm.fillReceive(group, rank, first, local, at(L.S_EXPERT_OFFSET), at(L.S_EXPERT_ROWS));
    if (local === 0) return;
    this.#wasm.fillRunTable(group, first, local, at(L.S_RUN_ROW), at(L.S_RUN_ROWS));
  }

  /** Slices to `count` peers, ranks or nodes from `first` on, of which this rank or node is number `local`. */
  #slices(local: number, count: number, first: number, position: Addr<'u32'>) {
    const wasm = this.#wasm;
    const { sliceRows } = this.#spec;
    const slices = wasm.countSlices(count, sliceRows, position);
    return {
      count: slices,
      fill: (at: Addr<'u32'>) => wasm.fillSlices(local, count, first, sliceRows, position, at, slices),
    };
  }

  #directSlices(rank: number, { firstRank: first, endRank }: DirectRange, send: SendTables) {
    const count = endRank - first;
    const position = this.#arena.array('u32', 2 * count);
    this.#wasm.peerPositions(first, count, this.#rankFirst, send.sendRows, position);
    return this.#slices(rank - first, count, first, position);
  }

  #forwardSlices(rank: number, forward: ForwardTables) {
    const { nodes } = this.#spec;
    const position = this.#arena.array('u32', 2 * nodes);
    const pairs = this.#arena.u32(position, 2 * nodes);
    let row = 0;
    forward.nodeRows.forEach((rows, node) => {
      pairs[2 * node] = row;
      pairs[2 * node + 1] = rows;
      row += rows;
    });
    return this.#slices(nodeOf(this.#spec, rank), nodes, 0, position);
  }

  /** Kept entries that a rank sends to each other node. */
  #nodeEntries(rank: number, send: SendTables): Uint32Array {
    const { nodes, ranksPerNode, placement } = this.#spec;
    const entries = new Uint32Array(nodes);
    const sendRows = this.#arena.u32(send.sendRows, placement.instances);
    for (let node = 0; node < nodes; node++) {
      if (node === nodeOf(this.#spec, rank)) continue;
      const first = placement.rankFirst[node * ranksPerNode]!;
      entries[node] = sum(sendRows.subarray(first, placement.rankFirst[(node + 1) * ranksPerNode]!));
    }
    return entries;
  }

  #fillForward(
    rank: number,
    tokens: number,
    send: SendTables,
    forward: ForwardTables,
    at: SectionAddress,
  ): number {
    const arena = this.#arena;
    const { nodes, ranks, topk } = this.#spec;
    const { landing, nodeRows, forwarded } = forward;
    arena.u32(at(L.S_FORWARD_ROW), nodes).set(landing.firstRow);
    arena.u32(at(L.S_FORWARD_ROWS), nodes).set(nodeRows);
    arena.u32(at(L.S_STAGE_ROW), ranks).set(landing.sourceRow);
    arena.u32(at(L.S_STAGE_ROWS), ranks).set(landing.sourceRows);
    arena.u32(at(L.S_DISTRIBUTE_OFFSET), forwarded + 1)[forwarded] = send.kept - send.direct;
    if (forwarded === 0) return 0;
    const firstRow = exclusiveSums(nodeRows);
    const firstEntry = exclusiveSums(this.#nodeEntries(rank, send));
    const state = arena.zeroed(J.NODE_WORDS * nodes) as number as Addr<'block'>;
    const words = arena.u32(state, J.NODE_WORDS * nodes);
    for (let node = 0; node < nodes; node++) {
      const word = J.NODE_WORDS * node;
      words[word + J.NODE_NEXT_ROW] = firstRow[node]!;
      words[word + J.NODE_NEXT_ENTRY] = firstEntry[node]!;
      words[word + J.NODE_FORWARDER] = landing.forwarder[node]!;
      words[word + J.NODE_LANDING] = landing.firstRow[node]! - firstRow[node]!;
    }
    const job = arena.block(J.FORWARD_WORDS, {
      [J.FORWARD_ENTRY_INSTANCE]: at(L.S_ENTRY_INSTANCE),
      [J.FORWARD_ENTRY_SLOT]: at(L.S_ENTRY_SLOT),
      [J.FORWARD_TOKENS]: tokens,
      [J.FORWARD_TOPK]: topk,
      [J.FORWARD_OWNER]: arena.copy(owners(this.#spec)),
      [J.FORWARD_LOCAL_NODE]: nodeOf(this.#spec, rank),
      [J.FORWARD_NODES]: state,
      [J.FORWARD_TOKEN]: at(L.S_FORWARD_TOKEN),
      [J.FORWARD_TARGET]: at(L.S_FORWARD_TARGET),
      [J.FORWARD_OFFSET]: at(L.S_DISTRIBUTE_OFFSET),
      [J.FORWARD_ENTRY]: at(L.S_DISTRIBUTE_ENTRY),
      [J.FORWARD_LIST]: arena.array('u32', J.FORWARD_LISTED_WORDS * (send.kept - send.direct + 1)),
    });
    return this.#wasm.fillForward(job);
  }
}

/**
 * Runs the Wasm's count of rows per node: u32[nodes], 0 for the rank's own node.
 *
 * @param instances address of the rank's routing
 * @param left address of u32[instances], entries of each run that are kept; consumed
 */
export function countNodeRows(
  wasm: PlannerExports,
  arena: Arena,
  spec: PlanSpec,
  { rank, tokens }: Pick<RoutedRank, 'rank' | 'tokens'>,
  instances: Addr<'u16'>,
  left: Addr<'u32'>,
): Uint32Array {
  const { nodes, topk, placement } = spec;
  const ownerOf = arena.copy(owners(spec));
  const stamp = arena.zeroed(nodes);
  const nodeRows = arena.zeroed(nodes);
  wasm.countNodeRows(instances, tokens, topk, placement.instances, ownerOf, left, stamp, nodeRows);
  const rows = arena.u32(nodeRows, nodes).slice();
  rows[nodeOf(spec, rank)] = 0;
  return rows;
}

/** Throws E_MAX_ROWS, naming the busiest rank, if some rank receives more rows than the spec allows. */
function checkMaxRows({ maxRows }: PlanSpec, recvRows: Uint32Array): void {
  const most = largest(recvRows);
  if (maxRows === 0 || most <= maxRows) return;
  const rank = recvRows.indexOf(most);
  const text = `rank ${rank} would receive ${most} rows, maxRows is ${maxRows}`;
  throw new FuscoError('E_MAX_ROWS', text, { rank, value: most, limit: maxRows });
}

/** u32[instances], node << 16 | rank. */
function owners(spec: PlanSpec): Uint32Array {
  const { instanceRank } = spec.placement;
  const words = new Uint32Array(instanceRank.length);
  // Not Uint32Array.from: its iterator would take half the time of a rank in a group of thousands.
  for (let i = 0; i < words.length; i++) words[i] = (nodeOf(spec, instanceRank[i]!) << 16) | instanceRank[i]!;
  return words;
}

function exclusiveSums(values: Uint32Array): Uint32Array {
  const sums = new Uint32Array(values.length);
  for (let i = 1; i < sums.length; i++) sums[i] = sums[i - 1]! + values[i - 1]!;
  return sums;
}

/** Zeroes the head, and the last bytes before the start of every section and before the end, where gaps can be. */
function zeroGaps(bytes: Uint8Array, offsets: readonly number[]): void {
  bytes.fill(0, 0, L.SHARD_BODY);
  for (const offset of [...offsets, bytes.length]) {
    if (offset > L.SHARD_BODY) bytes.fill(0, offset - L.SECTION_ALIGN, offset);
  }
}
