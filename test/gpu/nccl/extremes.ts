// The exchanges of extremes.ts between processes, along plans of the host and, if all ranks are on one machine, of the
// device.

import assert from 'node:assert/strict';
import type { Cuda } from '../../../executor/backends/cuda/context.ts';
import type { Group } from '../../../executor/group.ts';
import { planId } from '../../../planner/format/digest.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import { assertSameOutputs, outputsOf, runCalls, runExchanges } from '../exchanges.ts';
import { type Extreme, extremes, planOfExtreme } from '../extremes.ts';
import { Buffers } from '../support.ts';
import type { RankCase } from './cases.ts';
import { expectedOf, planOnDevice } from './deviceExchanges.ts';

async function alongHostPlan(group: Group, extreme: Extreme): Promise<void> {
  const { plan, input } = await planOfExtreme(extreme);
  const expected = outputsOf(await expectedOf(plan, input), group.localRanks[0]!);
  assertSameOutputs(await runExchanges(group, plan, input), expected, input);
}

async function alongDevicePlan(group: Group, extreme: Extreme, cuda: Cuda): Promise<void> {
  const { plan, input } = await planOfExtreme(extreme);
  const rank = group.localRanks[0]!;
  using buffers = new Buffers(cuda);
  using exchange = await planOnDevice(group, buffers, extreme.tables, extreme.options);
  assert.deepEqual(exchange.recvRows, [plan.shards[rank]!.recvRows]);
  const found = await runCalls(exchange, plan, input, group.localRanks, buffers);
  assertSameOutputs(found, outputsOf(await expectedOf(plan, input), rank), input);
  assert.equal(await exchange.planId(), await planId(plan, nodeSha256));
}

/**
 * @param ranksPerNode of one of the hierarchical plans
 * @param cuda context of the group; undefined if ranks are on several machines, which plan on the host
 */
export function extremeRankCases(ranks: number, ranksPerNode: number, cuda: Cuda | undefined): RankCase[] {
  return extremes(ranks, ranksPerNode).flatMap((extreme) => {
    const host = {
      name: `extreme: ${extreme.name}`,
      run: (group: Group) => alongHostPlan(group, extreme),
    };
    if (cuda === undefined) return [host];
    const name = `device plans: extreme: ${extreme.name}`;
    return [host, { name, run: (group: Group) => alongDevicePlan(group, extreme, cuda) }];
  });
}
