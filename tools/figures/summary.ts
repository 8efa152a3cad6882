// What a plan means for a cluster: the figures that `inspect`, the demo and the report show.

import { forwardersOf, groupLoads } from '../../planner/balance.ts';
import type { Plan } from '../../planner/plan.ts';
import { nodeOf, type OptionalFields, optionalFields } from '../../planner/spec.ts';

export interface Traffic {
  /** Payload bytes between ranks of one node; row = sender, column = receiver; the diagonal stays on its rank. */
  intraNodeBytes: number[][];
  /** Payload bytes between ranks of different nodes. */
  interNodeBytes: number[][];
}

export interface Forwarding {
  /** The balancer's rule. */
  rule: string;
  /** Rail group of every rank. */
  groups: number[];
  /** The paper's measure: rows that each rail group sends between nodes. */
  groupLoads: number[];
  /** Rows that cross between nodes. */
  forwardedRows: number;
  /** Those of them that use a landing row, because no slot of their forwarder can hold them. */
  stagedRows: number;
  /** Rows of each rank's landing buffer. */
  stageRows: number[];
  /** Bytes of metadata that travel with the forwarded rows, all ranks together. */
  metadataBytes: number;
}

export interface Summary {
  ranks: number;
  ranksPerNode: number;
  experts: number;
  instances: number;
  topk: number;
  dtype: string;
  hidden: number;
  rowBytes: number;
  align: number;
  capacity: number;
  strategy: string;
  /** Tokens per source rank. */
  tokens: number[];
  /** Rows of each receive buffer, padding included. */
  recvRows: number[];
  /** Real rows per rank and local expert. */
  expertCounts: number[][];
  /** Rows that are neither masked nor dropped, per source rank. */
  keptRows: number[];
  maskedEntries: number;
  droppedEntries: number;
  paddingRows: number;
  segments: number;
  slices: number;
  traffic: Traffic;
  /** Largest bytes that any rank sends or receives between nodes. */
  busiestNicBytes: number;
  /** Why `auto` chose the strategy; empty where it was asked for. */
  reason: string;
  /** Hierarchical plans only. */
  forwarding?: Forwarding;
  /** Header fields that differ from their default: `sum`, `replicas`, `combineDtype`. */
  rules?: OptionalFields;
  /** Keys that other programs added to the header. */
  extra?: string[];
  imbalance: {
    /** Largest expert instance's rows over the mean. */
    expertMaxOverMean: number;
    /** Largest rank's real rows over the mean. */
    rankMaxOverMean: number;
  };
  copiesPerToken: {
    /** Kept (token, k) per token. */
    flat: number;
    /** Rows that really leave their source rank's memory per token. */
    sent: number;
  };
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** Largest value over the mean; 0 if all are 0. */
export function maxOverMean(values: readonly number[]): number {
  const total = sum(values);
  return total === 0 ? 0 : (Math.max(...values) * values.length) / total;
}

/** Rows that every rank sends to every rank: row = sender, column = receiver. */
export function rowMatrix(plan: Plan): number[][] {
  const { rankFirst } = plan.spec.placement;
  return plan.shards.map(({ sendRows }) =>
    plan.shards.map((_, peer) => sum(sendRows.subarray(rankFirst[peer]!, rankFirst[peer + 1]!))),
  );
}

/** Rows that a hierarchical plan moves: sender to forwarder between nodes, forwarder to owner inside one. */
function forwardedTraffic(plan: Plan): { intra: number[][]; inter: number[][] } {
  const { spec, decision, shards } = plan;
  const matrix = () => shards.map(() => new Array<number>(spec.ranks).fill(0));
  const [intra, inter] = [matrix(), matrix()];
  const rows = rowMatrix(plan);
  for (const [rank, shard] of shards.entries()) {
    const forwarders = forwardersOf(spec, decision.groups, rank);
    const { forwardTarget } = shard;
    // A broken plan may list more nodes than there are, and its shards may claim other ranks.
    const forwardRows = shard.forwardRows.subarray(0, spec.nodes);
    let first = 0;
    for (let to = 0; to < spec.ranks; to++) {
      const via = nodeOf(spec, to) === nodeOf(spec, rank) ? rank : forwarders[nodeOf(spec, to)]!;
      intra[via]![to]! += rows[rank]![to]!;
    }
    for (const [node, count] of forwardRows.entries()) {
      const via = forwarders[node]!;
      inter[rank]![via]! += count;
      // A row that landed in a slot of its forwarder is there already.
      for (const target of forwardTarget.subarray(first, first + count)) if (target >= 0) intra[via]![via]!--;
      first += count;
    }
  }
  return { intra, inter };
}

function trafficOf(plan: Plan): Traffic {
  const { spec } = plan;
  const bytes = (rows: number[][]) => rows.map((row) => row.map((count) => count * spec.rowBytes));
  if (spec.strategy === 'hier') {
    const { intra, inter } = forwardedTraffic(plan);
    return { intraNodeBytes: bytes(intra), interNodeBytes: bytes(inter) };
  }
  const rows = rowMatrix(plan);
  const part = (near: boolean) =>
    rows.map((row, from) => row.map((n, to) => ((nodeOf(spec, from) === nodeOf(spec, to)) === near ? n : 0)));
  return { intraNodeBytes: bytes(part(true)), interNodeBytes: bytes(part(false)) };
}

/** Largest bytes that any rank sends or receives between nodes. */
export function busiestNicBytes({ interNodeBytes }: Traffic): number {
  const sent = interNodeBytes.map(sum);
  const received = interNodeBytes.map((_, to) => sum(interNodeBytes.map((row) => row[to]!)));
  return Math.max(...sent, ...received);
}

/** What the balancer did; undefined in flat plans. */
function forwardingOf(plan: Plan): Forwarding | undefined {
  const { spec, decision, shards } = plan;
  if (spec.strategy === 'flat') return undefined;
  const nodeRows = new Uint32Array(spec.ranks * spec.nodes);
  for (const [rank, shard] of shards.entries()) {
    nodeRows.set(shard.forwardRows.subarray(0, spec.nodes), rank * spec.nodes);
  }
  const forwardedRows = sum(nodeRows);
  return {
    rule: decision.rule,
    groups: [...decision.groups],
    groupLoads: groupLoads(spec, decision.groups, nodeRows),
    forwardedRows,
    stagedRows: sum(shards.map((shard) => shard.staged)),
    stageRows: shards.map((shard) => shard.stageRows),
    metadataBytes: metadataBytes(plan, forwardedRows),
  };
}

/** What travels with forwarded rows: a count a row, and (rank, slot, k) an entry, as two words. */
function metadataBytes(plan: Plan, forwardedRows: number): number {
  return 4 * forwardedRows + 8 * sum(plan.shards.map((shard) => shard.distributeEntry.length));
}

/** Sums a plan up. Works on unverified plans too, as far as their tables have the right sizes. */
export function summarize(plan: Plan): Summary {
  const { spec, shards } = plan;
  const tokens = shards.map((shard) => shard.tokens);
  const expertCounts = shards.map((shard) => [...shard.expertRows]);
  const realRows = expertCounts.map(sum);
  const keptRows = shards.map((shard) => shard.kept);
  const perToken = (rows: number) => (sum(tokens) === 0 ? 0 : rows / sum(tokens));
  const forwarding = forwardingOf(plan);
  const rules = optionalFields(spec);
  const traffic = trafficOf(plan);
  const directRows = sum(shards.map((shard) => shard.sendEntry.length));
  return {
    ranks: spec.ranks,
    ranksPerNode: spec.ranksPerNode,
    experts: spec.experts,
    instances: spec.placement.instances,
    topk: spec.topk,
    dtype: spec.dtype,
    hidden: spec.hidden,
    rowBytes: spec.rowBytes,
    align: spec.align,
    capacity: spec.capacity,
    strategy: spec.strategy,
    tokens,
    recvRows: shards.map((shard) => shard.recvRows),
    expertCounts,
    keptRows,
    maskedEntries: sum(shards.map((shard) => shard.masked)),
    droppedEntries: sum(shards.map((shard) => shard.dropped)),
    paddingRows: sum(shards.map((shard) => shard.recvRows)) - sum(realRows),
    segments: sum(shards.map((shard) => shard.segments)),
    slices: sum(shards.map((shard) => shard.slices.length / 3)),
    traffic,
    busiestNicBytes: busiestNicBytes(traffic),
    reason: plan.decision.reason,
    ...(forwarding === undefined ? {} : { forwarding }),
    ...(Object.keys(rules).length === 0 ? {} : { rules }),
    ...(plan.extra === undefined ? {} : { extra: Object.keys(plan.extra) }),
    imbalance: {
      expertMaxOverMean: maxOverMean(expertCounts.flat()),
      rankMaxOverMean: maxOverMean(realRows),
    },
    copiesPerToken: {
      flat: perToken(sum(keptRows)),
      sent: perToken(directRows + (forwarding?.forwardedRows ?? 0)),
    },
  };
}
