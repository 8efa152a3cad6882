// What a plan means for a cluster: the figures that `inspect`, the demo and the report show.

import type { Plan } from '../planner/plan.ts';
import { nodeOf } from '../planner/spec.ts';

export interface Traffic {
  /** Payload bytes between ranks of one node; row = sender, column = receiver; the diagonal stays on its rank. */
  intraNodeBytes: number[][];
  /** Payload bytes between ranks of different nodes. */
  interNodeBytes: number[][];
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

/** Largest value over the mean; 0 where there is nothing at all. */
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

function trafficOf(plan: Plan): Traffic {
  const { spec } = plan;
  const part = (isWanted: (sender: number, receiver: number) => boolean) =>
    rowMatrix(plan).map((row, sender) =>
      row.map((rows, receiver) => (isWanted(sender, receiver) ? rows * spec.rowBytes : 0)),
    );
  const sameNode = (a: number, b: number) => nodeOf(spec, a) === nodeOf(spec, b);
  return { intraNodeBytes: part(sameNode), interNodeBytes: part((a, b) => !sameNode(a, b)) };
}

/** Sums a plan up. Works on unverified plans too, as far as their tables have the right sizes. */
export function summarize(plan: Plan): Summary {
  const { spec, shards } = plan;
  const tokens = shards.map((shard) => shard.tokens);
  const expertCounts = shards.map((shard) => [...shard.expertRows]);
  const realRows = expertCounts.map(sum);
  const keptRows = shards.map((shard) => shard.kept);
  const perToken = sum(tokens) === 0 ? 0 : sum(keptRows) / sum(tokens);
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
    traffic: trafficOf(plan),
    imbalance: {
      expertMaxOverMean: maxOverMean(expertCounts.flat()),
      rankMaxOverMean: maxOverMean(realRows),
    },
    copiesPerToken: { flat: perToken, sent: perToken },
  };
}
