import { FuscoError } from '../errors.ts';
import type { OnDefect } from '../format/decode.ts';
import type { Shard } from '../format/shard.ts';
import { LandingTables } from '../landing.ts';
import { markVerified, type Plan, type VerifiedPlan } from '../plan.ts';
import { checkForward, checkForwardRows, checkGroups, checkLanding } from './forward.ts';
import { Halt } from './halt.ts';
import { checkQuotas, checkReplicas, countEntries } from './replicas.ts';
import { checkEntries, checkSendOrder, type Receiver } from './rows.ts';
import { checkDirectSlices, checkForwardSlices, checkTileOrder } from './schedule.ts';
import { checkHead, checkReceive, checkSend, type RunTable } from './tables.ts';

// One pass over everything that a plan states. The order of rows is fixed (expert, source rank, token, k), so
// verification does not search for holes and overlaps: it derives each row's only possible place from the run tables and
// compares. Run tables tile every receive buffer; entries fill their runs one by one; send orders list the entries in run
// order; slices divide the send orders. Combine reads the same slots that dispatch wrote.

/** Checks of a single shard, in the order in which whole plans are checked. */
export const OWN_CHECKS = [checkHead, checkReceive, checkForwardRows] as const;

/** Checks of the rows of a shard, once the tables of all ranks agree. */
export function rowChecks(
  shard: Shard,
  receivers: readonly Receiver[],
  plan: Omit<Plan, 'shards'>,
  landing: LandingTables | undefined,
  rank: number,
): (() => void)[] {
  const { spec } = plan;
  const checks = [
    () => checkEntries(shard, receivers, spec, rank),
    () => checkSendOrder(shard, spec, rank),
    () => checkDirectSlices(shard, spec, rank),
    () => checkTileOrder(shard, spec, rank),
    () => checkReplicas(shard, spec, rank),
  ];
  if (landing === undefined) return checks;
  return [
    ...checks,
    () => checkLanding(shard, landing, rank),
    () => checkForward(shard, plan, rank),
    () => checkForwardSlices(shard, spec, rank),
  ];
}

/**
 * Verifies a plan in O(rows). Afterwards every descriptor is in bounds, every receive row is written exactly once, every
 * (token, k) is delivered exactly once, masked or dropped, to the instance that the replica rule gives, and combine is
 * the inverse of dispatch.
 *
 * @param onDefect if given, defects are reported, at most one per shard and stage, and the result is undefined if there
 *   are any
 * @throws FuscoError with the place of the first defect, if `onDefect` is not given
 */
export function verifyPlan(plan: Plan): VerifiedPlan;
export function verifyPlan(plan: Plan, onDefect: OnDefect): VerifiedPlan | undefined;
export function verifyPlan(plan: Plan, onDefect?: OnDefect): VerifiedPlan | undefined {
  const { spec, shards } = plan;
  let sound = true;
  const attempt = (check: () => void): boolean => {
    try {
      check();
      return true;
    } catch (error) {
      if (!(error instanceof Halt)) throw error;
      if (onDefect === undefined) throw error.defect;
      onDefect(error.defect);
      sound = false;
      return false;
    }
  };
  if (shards.length !== spec.ranks) {
    throw new FuscoError('E_PLAN_HEADER', `${shards.length} shards for ${spec.ranks} ranks`);
  }
  for (const check of OWN_CHECKS) {
    for (const [rank, shard] of shards.entries()) attempt(() => check(shard, spec, rank));
    if (!sound) return undefined;
  }
  // Views are made once. In a group of thousands of ranks, one view per pair of ranks would take most of the time.
  const runs = shards.map(({ runRow, runRows }): RunTable => ({ runRow, runRows }));
  for (const [rank, shard] of shards.entries()) attempt(() => checkSend(shard, runs, spec, rank));
  if (!sound) return undefined;
  let landing: LandingTables | undefined;
  if (spec.strategy === 'hier') {
    const nodeRows = joinNodeRows(plan);
    if (!attempt(() => checkGroups(plan, nodeRows))) return undefined;
    landing = new LandingTables(spec, plan.decision.groups, nodeRows);
  }
  for (const [rank, shard] of shards.entries()) {
    rowChecks(shard, shards, plan, landing, rank).every(attempt);
  }
  if (sound && spec.replicas === 'quota-1') attempt(() => checkQuotas(joinEntries(plan), spec));
  return sound ? markVerified(plan) : undefined;
}

/** Entries of every rank for every instance, u32[ranks, instances]. */
function joinEntries({ spec, shards }: Plan): Uint32Array {
  const { instances } = spec.placement;
  const counts = new Uint32Array(spec.ranks * instances);
  for (const [rank, shard] of shards.entries()) counts.set(countEntries(shard), rank * instances);
  return counts;
}

/** Rows that every rank claims to forward to every node, u32[ranks, nodes]. */
function joinNodeRows(plan: Plan): Uint32Array {
  const { nodes, ranks } = plan.spec;
  const rows = new Uint32Array(ranks * nodes);
  for (const [rank, shard] of plan.shards.entries()) rows.set(shard.forwardRows, rank * nodes);
  return rows;
}
