// Random routings and options, and the plans of the two planners for them.

import { isDeepStrictEqual } from 'node:util';
import { planAllNatively } from '../../executor/native/planner.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { Balance, PlanOptions, Strategy } from '../../planner/spec.ts';
import {
  FAMILIES,
  ID_DTYPES,
  type IdDtype,
  makeRouting,
  placementOf,
  randomFrom,
  toTables,
} from './workloads.ts';

/** [ranks, ranks of a node]. */
const GROUPS = [
  [1, 1],
  [2, 1],
  [4, 1],
  [8, 1],
  [8, 8],
  [8, 4],
  [8, 2],
  [6, 3],
  [12, 4],
  [16, 4],
] as const;

/** Ids below this fit the type. */
const ID_LIMITS: Partial<Record<IdDtype, number>> = { i8: 128, u8: 256 };

export interface RandomPlan {
  options: PlanOptions;
  tables: RoutingTable[];
}

/** A random plan: a pure function of its number. */
export function randomPlan(number: number): RandomPlan {
  const random = randomFrom(number);
  const below = (limit: number) => Math.floor(random() * limit);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)]!;
  const [ranks, ranksPerNode] = pick(GROUPS);
  const dtype = pick(ID_DTYPES);
  const experts = Math.min(pick([8, 16, 64, 256, 288]), ID_LIMITS[dtype] ?? 65535);
  const topk = pick([1, 2, 3, 6, 8]);
  const tokens = pick([0, 1, 7, below(40)]);
  const options: PlanOptions = {
    experts,
    ranks,
    ranksPerNode,
    hidden: pick([16, 1024, 7168]),
    dtype: pick(['f32', 'bf16', 'fp8', 'bytes'] as const),
    align: pick([1, 16, 128]),
    capacity: pick([0, 0, 1, 3, 40]),
    strategy: pick<Strategy>(['flat', 'hier', 'hier']),
    balance: pick<Balance>(['best', 'static', 'rotate', 'lpt']),
    partial: pick(['payload', 'f32'] as const),
    sum: pick(['node', 'node', 'token'] as const),
    placement: placementOf(pick(['blocks', 'scattered', 'replicas']), experts, ranks),
    replicas: pick(['quota-1', 'quota-1', 'local'] as const),
    sliceBytes: pick([1, 65536, 1 << 20]),
    tileTokens: pick([0, 0, 1, 4, 32]),
  };
  const masked = dtype.startsWith('u') ? 0 : pick([0, 0.1, 1]);
  const family = pick(FAMILIES);
  const routing = makeRouting({ family, seed: number, step: below(5), ranks, tokens, topk, experts, masked });
  return { options, tables: toTables(routing, topk, dtype) };
}

/** A random plan whose strategy is `auto`, on machines of one or several nodes: a pure function of its number. */
export function randomAutoPlan(number: number): RandomPlan {
  const { options, tables } = randomPlan(number);
  const { ranks, ranksPerNode = 1 } = options;
  const random = randomFrom(~number);
  const hosts = [1, 2, 3, 4, 8, 16]
    .map((nodes) => nodes * ranksPerNode)
    .filter((ranksPerHost) => ranks % ranksPerHost === 0);
  const ranksPerHost = hosts[Math.floor(random() * hosts.length)]!;
  return { options: { ...options, strategy: 'auto', ranksPerHost }, tables };
}

/** What differs between the plans of the two planners; empty if nothing does. */
export function planDifferences(wasm: Planner, { options, tables }: RandomPlan): string[] {
  const expected = wasm.planAll(tables, options);
  const found = planAllNatively(tables, options);
  const parts = (['decision', 'spec'] as const).filter(
    (part) => !isDeepStrictEqual(found[part], expected[part]),
  );
  const shards = expected.shards.flatMap((shard, rank) =>
    Buffer.compare(shard.bytes, found.shards[rank]!.bytes) === 0 ? [] : [`the shard of rank ${rank}`],
  );
  return [...parts, ...shards];
}
