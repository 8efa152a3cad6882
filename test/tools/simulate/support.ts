// A machine with round numbers, and plans small enough to be worked out by hand.

import { loadPlanner } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import type { Constants, Topology } from '../../../tools/simulate/topology.ts';
import { toTables } from '../../support/workloads.ts';

/** With rows of 1000 bytes, a row takes 0.1 us on the NIC, 0.01 us on NVLink, and 0.001 us in memory. */
export const ROUND: Constants = {
  nvlinkGBps: 100,
  nvlinkLatencyUs: 2,
  scatterReached: 1,
  nicGBps: 10,
  nicLatencyUs: 5,
  hbmGBps: 1000,
  hbmReached: 1,
  permuteReached: 1,
  launchUs: 0,
  setupUs: 0,
  channels: 1,
  overlap: 1,
  gemmTflops: 100,
  gemmReached: 1,
};

/** Nodes of `ranksPerNode` ranks that NVLink joins. */
export function machine(changes: Partial<Constants> = {}, ranksPerNode = 64): Topology {
  const constants = { ...ROUND, ...changes };
  return { name: 'round', nodes: 64, ranksPerNode, memoryGB: 80, constants, source: 'round numbers' };
}

export const planner = await loadPlanner();

/** Every rank sends the experts `choices[rank]` (one list a token) `repeat` times; one expert a rank. */
export function planOf(
  choices: readonly (readonly (readonly number[])[])[],
  options: Partial<PlanOptions> = {},
  repeat = 1,
): VerifiedPlan {
  const routing = choices.map((tokens) => Array.from({ length: repeat }, () => tokens).flat());
  const topk = Math.max(1, ...routing.flat().map((token) => token.length));
  const ranks = choices.length;
  return planner.planAll(toTables(routing, topk), { experts: ranks, ranks, hidden: 500, ...options });
}
