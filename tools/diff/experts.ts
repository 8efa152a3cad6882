// The ranks of experts, and the rows that they receive.

import type { Plan } from '../../planner/plan.ts';

/** An expert whose ranks have changed. */
export interface ExpertMove {
  readonly expert: number;
  /** Ranks with an instance, ascending; empty where the plan has no such expert. */
  readonly from: number[];
  readonly to: number[];
  /** Rows that the expert receives in the second plan. */
  readonly rows: number;
}

/** Rows that every logical expert receives, over its replicas. */
export function expertRows(plan: Plan): number[] {
  const { experts, instanceExpert, rankFirst } = plan.spec.placement;
  const rows = new Array<number>(experts).fill(0);
  for (const shard of plan.shards) {
    shard.expertRows.forEach((count, j) => {
      rows[instanceExpert[rankFirst[shard.rank]! + j]!]! += count;
    });
  }
  return rows;
}

/** Ranks of every expert. */
function homes({ spec }: Plan): number[][] {
  const { experts, instances, instanceExpert, instanceRank } = spec.placement;
  const found: number[][] = Array.from({ length: experts }, () => []);
  for (let i = 0; i < instances; i++) found[instanceExpert[i]!]!.push(instanceRank[i]!);
  return found;
}

/** Experts that moved, most rows first. */
export function expertMoves(a: Plan, b: Plan): ExpertMove[] {
  const [before, after] = [homes(a), homes(b)];
  const rows = expertRows(b);
  const experts = Array.from({ length: Math.max(before.length, after.length) }, (_, expert) => expert);
  return experts
    .map((expert) => ({
      expert,
      from: before[expert] ?? [],
      to: after[expert] ?? [],
      rows: rows[expert] ?? 0,
    }))
    .filter(({ from, to }) => from.join() !== to.join())
    .sort((x, y) => y.rows - x.rows || x.expert - y.expert);
}

function rankList(ranks: readonly number[]): string {
  if (ranks.length === 0) return 'nowhere';
  return `${ranks.length === 1 ? 'rank' : 'ranks'} ${ranks.join(', ')}`;
}

/** `expert 5: rank 0 -> rank 7` */
export function expertMoveText({ expert, from, to }: ExpertMove): string {
  return `expert ${expert}: ${rankList(from)} -> ${rankList(to)}`;
}
