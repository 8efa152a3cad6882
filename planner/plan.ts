import { FuscoError } from './errors.ts';
import type { Shard } from './format/shard.ts';
import type { BalanceRule, PlanSpec, Strategy } from './spec.ts';

declare const verified: unique symbol;

/** What the facts decided; identical on all ranks. */
export interface Decision {
  readonly strategy: Strategy;
  /** Rule of the balancer that was chosen; `none` in flat plans. */
  readonly rule: BalanceRule | 'none';
  /** u16[ranks], rail group of every rank; empty in flat plans. */
  readonly groups: Uint16Array;
  /** Why `auto` chose the strategy; empty if the caller chose it. Not part of the plan id. */
  readonly reason: string;
}

/** A plan: the options, the decision, and one shard per rank. It need not be valid: see VerifiedPlan. */
export interface Plan {
  /** Its strategy is flat or hierarchical, never `auto`. */
  readonly spec: PlanSpec & { readonly strategy: Strategy };
  readonly decision: Decision;
  readonly shards: readonly Shard[];
  /** Data of other programs in the header; it is written as it was read. Not part of the plan id. */
  readonly extra?: Extra;
}

/** A map of the header's `extra`: keys of ASCII letters, digits and `._-` that start with a letter. */
export interface Extra {
  readonly [key: string]: number | string | Uint8Array | Extra;
}

/** A plan that this process made, or that verifyPlan accepted. Executors accept no other plans. */
export interface VerifiedPlan extends Plan {
  readonly [verified]: true;
}

const accepted = new WeakSet<Plan>();

/** Marks a plan as verified. Only the planner (on any thread) and the verifier may call this. */
export function markVerified(plan: Plan): VerifiedPlan {
  accepted.add(plan);
  return plan as VerifiedPlan;
}

export function isVerified(plan: Plan): plan is VerifiedPlan {
  return accepted.has(plan);
}

/**
 * Refuses a plan that lacks the shards of some ranks: ranks that plan at run time make only their own. Throws E_RANKS.
 */
export function checkWhole({ shards }: Plan): void {
  // Not every(): array methods skip missing elements.
  for (let rank = 0; rank < shards.length; rank++) {
    if (shards[rank] !== undefined) continue;
    throw new FuscoError('E_RANKS', `the plan has no shard of rank ${rank}: another process made it`, {
      rank,
      hint: 'Plan all ranks in one process, with planAll or `fusco plan`.',
    });
  }
}
