import type { Group, GroupPlanOptions, RoutingTable, VerifiedPlan } from 'fusco';

/** Plans one exchange from the tables of the ranks that live in this process: here, those of all ranks. */
export async function planLocal(
  group: Group,
  tables: readonly RoutingTable[],
  options: GroupPlanOptions,
): Promise<VerifiedPlan> {
  return group.plan(tables, options);
}
