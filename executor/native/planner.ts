// Plans in native code, with the same bytes as the Wasm planner.

import { settledSpec } from '../../planner/decide.ts';
import { type ErrorCode, FuscoError } from '../../planner/errors.ts';
import { Shard } from '../../planner/format/shard.ts';
import { markVerified, type VerifiedPlan } from '../../planner/plan.ts';
import type { Progress } from '../../planner/planner.ts';
import { checkTable, type RoutingTable, specOfGroup } from '../../planner/routing.ts';
import { oncePerRank, type PlanOptions, type PlanSpec } from '../../planner/spec.ts';
import { needAddon } from './addon.ts';
import { translate } from './errors.ts';
import type { NativePlanner, NativePlannerOptions } from './types.ts';

/** The options of the native planner for a spec. */
export function nativeOptions(spec: PlanSpec): NativePlannerOptions {
  const { balance, partial, sum, replicas, placement, nodes, rowBytes, ...rest } = spec;
  return {
    ...rest,
    ...(balance === 'none' ? {} : { balance }),
    ...(partial === 'none' ? {} : { partial }),
    ...(sum === 'none' ? {} : { sum }),
    ...(replicas === 'none' ? {} : { replicas }),
    ...(placement.map.length === 0 ? {} : placementLists(placement.map)),
  };
}

function placementLists(map: PlanSpec['placement']['map']) {
  const placementOffsets = new Uint32Array(map.length + 1);
  map.forEach((ranks, expert) => {
    const count = typeof ranks === 'number' ? 1 : ranks.length;
    placementOffsets[expert + 1] = placementOffsets[expert]! + count;
  });
  return { placementOffsets, placementRanks: Uint16Array.from(map.flat()) };
}

/** Counts of all ranks, in rank order. */
function gather(count: number, tables: readonly RoutingTable[], countOf: (rank: number) => Uint32Array) {
  const counts = new Uint32Array(tables.length * count);
  for (const rank of tables.keys()) counts.set(countOf(rank), rank * count);
  return counts;
}

/**
 * Plans a whole group as Planner.planAll does, with the same result, on the calling thread.
 *
 * @throws FuscoError what planAll throws, and E_BACKEND without the addon
 */
export function planAllNatively(
  tables: readonly RoutingTable[],
  options: PlanOptions,
  progress?: Progress,
): VerifiedPlan {
  const { Planner } = needAddon('native planner');
  const spec = specOfGroup(tables, options);
  tables.forEach((table, rank) => {
    checkTable(table, rank, spec.topk);
  });
  let planner: NativePlanner | undefined;
  try {
    planner = new Planner(nativeOptions(spec));
    return planWith(planner, spec, tables, progress);
  } catch (error) {
    throw routingError(error, tables, spec) ?? translate(error);
  } finally {
    planner?.close();
  }
}

/** The error of an invalid id, with the same details as from the planner; undefined for other errors. */
function routingError(error: unknown, tables: readonly RoutingTable[], spec: PlanSpec) {
  const { code, path, message } = error as { code?: string; path?: string; message: string };
  const place = path?.match(/^\/ranks\/(\d+)\/tokens\/(\d+)\/k\/(\d+)$/);
  if (place == null) return undefined;
  const [rank, token, k] = place.slice(1).map(Number) as [number, number, number];
  const value = tables[rank]!.ids[token * spec.topk + k]!;
  const limit = code === 'E_ROUTING_ID' ? { limit: spec.experts - 1 } : {};
  return new FuscoError(code as ErrorCode, message, { rank, token, k, value, ...limit });
}

function planWith(
  planner: NativePlanner,
  spec: PlanSpec,
  tables: readonly RoutingTable[],
  progress: Progress | undefined,
): VerifiedPlan {
  const { counts: perRank, secondCounts } = planner.describe();
  const counts = gather(perRank, tables, (rank) => {
    progress?.(rank, 2 * spec.ranks);
    return planner.count(rank, tables[rank]!);
  });
  const second =
    secondCounts === 0
      ? undefined
      : gather(secondCounts, tables, (rank) => planner.countAgain(rank, tables[rank]!, counts));
  const { ranksPerNode, ...decision } = planner.decide(counts, second);
  const nodes = ranksPerNode === spec.ranksPerNode ? spec : oncePerRank(spec);
  const shards = tables.map((table, rank) => {
    progress?.(spec.ranks + rank, 2 * spec.ranks);
    return Shard.open(planner.shard(rank, table, counts, second), rank);
  });
  return markVerified({ spec: settledSpec(nodes, decision.strategy), decision, shards });
}
