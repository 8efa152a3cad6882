// What a plan means for a cluster: the figures that `inspect`, the demo and the report show.

import { groupLoads } from '../../planner/balance.ts';
import type { Plan } from '../../planner/plan.ts';
import { type OptionalFields, optionalFields, type ReplicaRule } from '../../planner/spec.ts';
import { columnSums, largest, sum } from '../../planner/totals.ts';
import { visitPlan } from '../../planner/traffic.ts';
import { type Memory, memoryOf } from './memory.ts';

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
  /** Replica rule; `none` if every expert has one instance. */
  replicas: ReplicaRule | 'none';
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
  /** Bytes of rows on the largest rank, by backend. */
  memory: Memory;
  /** Why `auto` chose the strategy; empty if the caller chose it. */
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
  /** The rank that receives the most rows, and its experts with the most rows, in descending order. */
  busiest: { rank: number; rows: number; experts: { expert: number; rows: number }[] };
  copiesPerToken: {
    /** Kept (token, k) per token. */
    flat: number;
    /** Rows per token that actually leave the memory of their source rank. */
    sent: number;
  };
}

/** Largest value over the mean; 0 if all are 0. */
export function maxOverMean(values: readonly number[]): number {
  const total = sum(values);
  return total === 0 ? 0 : (Math.max(...values) * values.length) / total;
}

/** Experts of the busiest rank that are named. */
const NAMED_EXPERTS = 3;

function busiestOf({ spec, shards }: Plan): Summary['busiest'] {
  const { instanceExpert, rankFirst } = spec.placement;
  const loads = shards.map((shard) => sum(shard.expertRows));
  const most = largest(loads);
  const rank = Math.max(0, loads.indexOf(most));
  const experts = Array.from(shards[rank]!.expertRows, (rows, i) => ({
    expert: instanceExpert[rankFirst[rank]! + i]!,
    rows,
  }));
  const sorted = experts.filter(({ rows }) => rows > 0).sort((a, b) => b.rows - a.rows);
  return { rank, rows: most, experts: sorted.slice(0, NAMED_EXPERTS) };
}

function trafficOf(plan: Plan): Traffic {
  const { ranks, rowBytes } = plan.spec;
  const matrix = () => Array.from({ length: ranks }, () => new Array<number>(ranks).fill(0));
  const traffic: Traffic = { intraNodeBytes: matrix(), interNodeBytes: matrix() };
  const into = (bytes: number[][]) => (from: number, to: number, rows: number) => {
    bytes[from]![to]! += rows * rowBytes;
  };
  visitPlan(plan, { inter: into(traffic.interNodeBytes), intra: into(traffic.intraNodeBytes) });
  return traffic;
}

/** Largest bytes that any rank sends or receives between nodes. */
export function busiestNicBytes({ interNodeBytes }: Traffic): number {
  return largest([...interNodeBytes.map(sum), ...columnSums(interNodeBytes)]);
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

/** Metadata sent with forwarded rows: a count per row, and (rank, slot, k) per entry, in two words. */
function metadataBytes(plan: Plan, forwardedRows: number): number {
  return 4 * forwardedRows + 8 * sum(plan.shards.map((shard) => shard.distributeEntry.length));
}

/** Summarizes a plan. Also works on unverified plans, if their tables have the right sizes. */
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
    replicas: spec.replicas,
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
    memory: memoryOf(plan),
    reason: plan.decision.reason,
    ...(forwarding === undefined ? {} : { forwarding }),
    ...(Object.keys(rules).length === 0 ? {} : { rules }),
    ...(plan.extra === undefined ? {} : { extra: Object.keys(plan.extra) }),
    imbalance: {
      expertMaxOverMean: maxOverMean(expertCounts.flat()),
      rankMaxOverMean: maxOverMean(realRows),
    },
    busiest: busiestOf(plan),
    copiesPerToken: {
      flat: perToken(sum(keptRows)),
      sent: perToken(directRows + (forwarding?.forwardedRows ?? 0)),
    },
  };
}

/**
 * A summary for a machine: traffic between ranks that NVLink connects counts as traffic inside a node, regardless of the
 * nodes of the plan. Otherwise, in a plan with one rank per node, every copy for another rank would count as network
 * traffic.
 *
 * @param joined consecutive ranks that NVLink joins
 */
export function summaryOnMachine(summary: Summary, joined: number): Summary {
  if (joined === summary.ranksPerNode) return summary;
  const { intraNodeBytes: intra, interNodeBytes: inter } = summary.traffic;
  const node = (rank: number) => Math.floor(rank / joined);
  const pick = (isInside: boolean) =>
    intra.map((row, from) =>
      row.map((bytes, to) => ((node(from) === node(to)) === isInside ? bytes + inter[from]![to]! : 0)),
    );
  const traffic = { intraNodeBytes: pick(true), interNodeBytes: pick(false) };
  return { ...summary, ranksPerNode: joined, traffic, busiestNicBytes: busiestNicBytes(traffic) };
}
