import type { Report } from './codec.ts';
import { FuscoError } from './errors.ts';
import { markVerified, type Plan, type VerifiedPlan } from './plan.ts';
import { StageTables } from './staging.ts';
import { checkForward, checkForwardRows, checkGroups, checkStaging } from './verify/forward.ts';
import { Halt } from './verify/halt.ts';
import { checkEntries, checkStream } from './verify/rows.ts';
import { checkDirectSlices, checkForwardSlices, checkTileOrder } from './verify/schedule.ts';
import { checkHead, checkReceive, checkSend, type RunTable } from './verify/tables.ts';

// One pass over everything that a plan says. The order of rows is fixed (expert, source rank, token, k), so
// verification does not hunt for holes and overlaps: it derives each row's only possible place from the run
// tables and compares. Run tables tile every receive buffer; entries fill their runs one by one; streams list
// the entries in run order; slices cut the streams. Combine reads the same slots that dispatch wrote.

/**
 * Verifies a plan in O(rows). Afterwards every descriptor is in bounds, every receive row is written exactly once,
 * every (token, k) is delivered exactly once, masked or dropped, and combine is dispatch's inverse.
 *
 * @param report given, defects are reported, at most one per shard and stage, and undefined is returned if any
 * @throws FuscoError with the place of the first defect, where `report` is not given
 */
export function verifyPlan(plan: Plan): VerifiedPlan;
export function verifyPlan(plan: Plan, report: Report): VerifiedPlan | undefined;
export function verifyPlan(plan: Plan, report?: Report): VerifiedPlan | undefined {
  const { spec, shards } = plan;
  let sound = true;
  const attempt = (check: () => void): boolean => {
    try {
      check();
      return true;
    } catch (error) {
      if (!(error instanceof Halt)) throw error;
      if (report === undefined) throw error.defect;
      report(error.defect);
      sound = false;
      return false;
    }
  };
  if (shards.length !== spec.ranks) {
    throw new FuscoError('E_PLAN_HEADER', `${shards.length} shards for ${spec.ranks} ranks`);
  }
  for (const check of [checkHead, checkReceive, checkForwardRows]) {
    for (const [rank, shard] of shards.entries()) attempt(() => check(shard, spec, rank));
    if (!sound) return undefined;
  }
  // Views are made once: one per pair of ranks would be most of the work of a group of thousands.
  const runs = shards.map(({ runRow, runRows }): RunTable => ({ runRow, runRows }));
  for (const [rank, shard] of shards.entries()) attempt(() => checkSend(shard, runs, spec, rank));
  if (!sound) return undefined;
  let staging: StageTables | undefined;
  if (spec.strategy === 'hier') {
    const nodeRows = joinNodeRows(plan);
    if (!attempt(() => checkGroups(plan, nodeRows))) return undefined;
    staging = new StageTables(spec, plan.decision.groups, nodeRows);
  }
  for (const [rank, shard] of shards.entries()) {
    const checks = [
      () => checkEntries(shards, spec, rank),
      () => checkStream(shard, spec, rank),
      () => checkDirectSlices(shard, spec, rank),
      () => checkTileOrder(shard, spec, rank),
    ];
    if (staging !== undefined) {
      checks.push(
        () => checkStaging(shard, staging, rank),
        () => checkForward(plan, rank),
        () => checkForwardSlices(shard, spec, rank),
      );
    }
    checks.every(attempt);
  }
  return sound ? markVerified(plan) : undefined;
}

/** What every rank claims to forward to every node, u32[ranks, nodes]. */
function joinNodeRows(plan: Plan): Uint32Array {
  const { nodes, ranks } = plan.spec;
  const rows = new Uint32Array(ranks * nodes);
  for (const [rank, shard] of plan.shards.entries()) rows.set(shard.forwardRows, rank * nodes);
  return rows;
}
