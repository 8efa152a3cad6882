// What planning on the device costs between processes, for several numbers of tokens, with the facts over peer memory.

import type { Cuda } from '../../executor/backends/cuda/context.ts';
import type { Group } from '../../executor/group.ts';
import { DeviceMemory } from './device.ts';
import { CHAIN_CALLS, type ChainClock } from './exchangeFigures.ts';
import { uniformTable } from './ids.ts';
import { type ExchangeOptions, measure, type Rounds } from './runner.ts';

const TOKENS = [128, 256, 512, 4096, 32_768];
const STRATEGIES = [
  { name: 'flat', strategy: 'flat' },
  { name: 'once per rank', strategy: 'hier', ranksPerNode: 1 },
] as const;

/**
 * Milliseconds of one plan in a replayed graph of several. Collective.
 *
 * @param rank of this process in the group
 */
export async function measurePlans(
  { group, cuda, rank }: { readonly group: Group; readonly cuda: Cuda; readonly rank: number },
  { experts, topk, hidden }: ExchangeOptions,
  clock: ChainClock,
  rounds: Rounds,
) {
  const stages = [];
  for (const tokens of TOKENS) {
    for (const { name, ...strategy } of STRATEGIES) {
      using memory = new DeviceMemory(cuda);
      // Routers give 64-bit ids.
      const table = uniformTable(tokens, topk, experts, rank + 1);
      const values = BigInt64Array.from(table.ids as Int16Array, BigInt);
      const ids = memory.alloc(0, values.byteLength);
      cuda.copy(0, ids, values, values.byteLength);
      const routing = { ids: [ids], idDtype: 'i64', tokens: [tokens], topk } as const;
      // A captured plan needs a bound. More rows than that are clipped, which takes no longer.
      const bounds = { maxTokens: tokens, maxRecvRows: 4 * tokens * topk };
      const call = { experts, hidden, ...strategy, ...routing, ...bounds };
      const plan = async () => (await group.planOnDevice(call)).close();
      await plan();
      using graph = await cuda.captureAsync(async () => {
        for (let i = 0; i < CHAIN_CALLS; i++) await plan();
      });
      const rows = await measure({ plans: clock([() => Promise.resolve(graph.launch())], 1) }, rounds);
      stages.push({ name, tokens, planMs: rows.plans.ms / CHAIN_CALLS });
    }
  }
  return stages;
}
