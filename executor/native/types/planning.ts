// Planning on the CPU and plan files in the native addon.

import type { Decision } from '../../../planner/plan.ts';
import type { RoutingTable } from '../../../planner/routing.ts';
import type { Balance, Dtype, PartialDtype, ReplicaRule, Strategy, SumOrder } from '../../../planner/spec.ts';

/** Options of a plan; absent ones have the defaults of fusco_plan_options. */
export interface NativePlannerOptions {
  readonly experts: number;
  readonly ranks: number;
  readonly ranksPerNode?: number;
  readonly topk: number;
  readonly hidden?: number;
  readonly dtype: Dtype;
  readonly combineDtype?: Dtype;
  readonly align?: number;
  readonly capacity?: number;
  /** Planning on the device refuses `auto` (E_OPTION). */
  readonly strategy?: Strategy | 'auto';
  readonly balance?: Balance;
  readonly partial?: PartialDtype;
  readonly sum?: SumOrder;
  readonly replicas?: ReplicaRule;
  readonly sliceRows?: number;
  readonly tileTokens?: number;
  readonly maxRows?: number;
  /** Of `auto` only. */
  readonly ranksPerHost?: number;
  /** [experts + 1]: where the ranks of each expert start in `placementRanks`; absent: contiguous blocks. */
  readonly placementOffsets?: Uint32Array;
  readonly placementRanks?: Uint16Array;
}

export interface NativePlannerInfo {
  readonly instances: number;
  /** Counts of a rank in the first gather. */
  readonly counts: number;
  /** In the second gather; 0: none is needed. */
  readonly secondCounts: number;
  /** 32 bytes that are identical on ranks with the same options. */
  readonly optionsDigest: Uint8Array;
}

/** Plans one rank at a time on the CPU. `counts` are those of all ranks, in rank order. Errors carry `code`. */
export interface NativePlanner {
  describe(): NativePlannerInfo;
  count(rank: number, table: RoutingTable): Uint32Array;
  countAgain(rank: number, table: RoutingTable, counts: Uint32Array): Uint32Array;
  /** `ranksPerNode`: of the plan; that of the options, or 1 if `auto` chose once per rank. */
  decide(
    counts: Uint32Array,
    secondCounts: Uint32Array | undefined,
  ): Decision & { readonly ranksPerNode: number };
  shard(
    rank: number,
    table: RoutingTable,
    counts: Uint32Array,
    secondCounts: Uint32Array | undefined,
  ): Uint8Array;
  close(): void;
}

/** A plan file that native code has read and verified. Errors carry `code` and may carry `path`. */
export interface NativePlanFile {
  /** 32 bytes. */
  planId(): Uint8Array;
  shard(rank: number): Uint8Array;
  /** Plans the routing again and compares. */
  checkRouting(tables: readonly RoutingTable[]): void;
  /** Writes the plan again. `reason`: why `auto` chose the strategy, or empty. */
  write(path: string, reason: string): void;
  close(): void;
}
