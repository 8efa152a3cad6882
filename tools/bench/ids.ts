// Routing for the benches: seeded, so that two runs time the same work.

import type { RoutingTable } from '../../planner/routing.ts';
import { type CounterSizes, counterTable } from '../workload/counterHash.ts';

/** 32-bit numbers of a linear congruential generator; good enough to spread ids, and repeatable. */
export function congruential(seed: number): () => number {
  let state = seed >>> 0;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
}

/** `count` ids in [0, experts), uniform. */
export function uniformIds(count: number, experts: number, seed: number): Uint16Array {
  const next = congruential(seed);
  return Uint16Array.from({ length: count }, () => Math.floor((next() / 2 ** 32) * experts));
}

/** `count` ids whose frequency falls with rank^-exponent (Zipf). */
export function zipfIds(count: number, experts: number, exponent: number, seed: number): Uint16Array {
  const cumulative = new Float64Array(experts);
  let total = 0;
  for (let e = 0; e < experts; e++) cumulative[e] = total += (e + 1) ** -exponent;
  const next = congruential(seed);
  return Uint16Array.from({ length: count }, () => {
    const wanted = (next() / 2 ** 32) * total;
    return Math.min(
      cumulative.findIndex((sum) => sum > wanted),
      experts - 1,
    );
  });
}

/** One rank's table of distinct uniform experts per token. */
export function uniformTable(tokens: number, topk: number, experts: number, seed: number): RoutingTable {
  const next = congruential(seed);
  const ids = new Int16Array(tokens * topk);
  const pool = Int16Array.from({ length: experts }, (_, expert) => expert);
  for (let token = 0; token < tokens; token++) {
    for (let k = 0; k < topk; k++) {
      const pick = k + Math.floor((next() / 2 ** 32) * (experts - k));
      [pool[k], pool[pick]] = [pool[pick]!, pool[k]!];
      ids[token * topk + k] = pool[k]!;
    }
  }
  return { ids, tokens, topk };
}

/** A table for each rank. */
export function uniformTables(ranks: number, tokens: number, topk: number, experts: number): RoutingTable[] {
  return Array.from({ length: ranks }, (_, rank) => uniformTable(tokens, topk, experts, rank + 1));
}

/** Routings of the benches between GPUs: seeded here, or that of the CollectiveX benchmark. */
export const WORKLOADS = ['uniform', 'collectivex'] as const;
export type BenchWorkload = (typeof WORKLOADS)[number];
/** Of the CollectiveX benchmark. */
const COLLECTIVEX_SEED = 67;

/** One rank's table of a workload. */
export function workloadTable(workload: BenchWorkload, sizes: CounterSizes, rank: number): RoutingTable {
  const { tokens, topk, experts } = sizes;
  if (workload === 'uniform') return uniformTable(tokens, topk, experts, rank + 1);
  return counterTable({ ...sizes, seed: COLLECTIVEX_SEED }, rank);
}

/** The tables of all ranks. */
export function workloadTables(workload: BenchWorkload, sizes: CounterSizes): RoutingTable[] {
  return Array.from({ length: sizes.ranks }, (_, rank) => workloadTable(workload, sizes, rank));
}
