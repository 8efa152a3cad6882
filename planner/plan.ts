import type { Shard } from './shard.ts';
import type { PlanSpec } from './spec.ts';

declare const verified: unique symbol;

/** A plan: what was asked for, and one shard per rank. It may come from anywhere and say anything. */
export interface Plan {
  readonly spec: PlanSpec;
  readonly shards: readonly Shard[];
}

/** A plan that this process made, or that verifyPlan accepted: the only kind that an executor takes. */
export interface VerifiedPlan extends Plan {
  readonly [verified]: true;
}

const accepted = new WeakSet<Plan>();

/** For the planner and the verifier alone: lets a plan be executed. */
export function markVerified(plan: Plan): VerifiedPlan {
  accepted.add(plan);
  return plan as VerifiedPlan;
}

export function isVerified(plan: Plan): plan is VerifiedPlan {
  return accepted.has(plan);
}
