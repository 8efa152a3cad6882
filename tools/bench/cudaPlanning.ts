// What planning on the device costs, from ids in device memory to all tables of all ranks, against native planning on the
// host.

import { openCuda } from '../../executor/backends/cuda/context.ts';
import { nativeCuda } from '../../executor/internal.ts';
import { needAddon } from '../../executor/native/addon.ts';
import { nativeOptions, planAllNatively } from '../../executor/native/planner.ts';
import { FuscoError } from '../../planner/errors.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { DeviceClock, DeviceMemory } from './device.ts';
import { uniformTables } from './ids.ts';
import { timed } from './measure.ts';
import { type ExchangeOptions, measure } from './runner.ts';

const TOKENS = [128, 512, 4096];
const STRATEGIES = [
  { name: 'flat', strategy: 'flat' },
  { name: 'once per rank', strategy: 'hier', ranksPerNode: 1 },
] as const;

type Sizes = ExchangeOptions & { readonly ranks: number };

/** Milliseconds for all ranks. */
async function benchPlanning(tokens: number, choice: (typeof STRATEGIES)[number], sizes: Sizes) {
  const { ranks, topk, experts, hidden, rounds } = sizes;
  const { name, ...strategy } = choice;
  const options: PlanOptions = { ranks, experts, hidden, ...strategy };
  // Routers give 64-bit ids.
  const tables = uniformTables(ranks, tokens, topk, experts).map(({ ids }) => ({
    ids: BigInt64Array.from(ids, BigInt),
    ...{ tokens, topk },
  }));
  const { DevicePlanner, BufferedPlan } = needAddon('cuda');
  using cuda = openCuda(ranks);
  using memory = new DeviceMemory(cuda);
  using clock = new DeviceClock(cuda);
  const spec = nativeOptions(resolveOptions(options, topk));
  const planner = new DevicePlanner(nativeCuda(cuda), spec, { maxTokens: tokens });
  const buffers = tables.map((_, rank) => memory.alloc(rank, planner.bufferBytes));
  const ids = tables.map(({ ids: values }, rank) => {
    const buffer = memory.alloc(rank, values.byteLength);
    cuda.copy(rank, buffer, values, values.byteLength);
    return { ids: buffer, dtype: 'i64', tokens, topk } as const;
  });
  const plan = () => new BufferedPlan(planner, buffers, ids).close();
  plan();
  cuda.synchronize();
  using graph = cuda.capture(plan);
  const expected = planAllNatively(tables, options);
  const check = () => {
    const found = new BufferedPlan(planner, buffers, undefined);
    for (const [rank, { bytes }] of expected.shards.entries()) {
      if (Buffer.compare(found.shard(rank), bytes) === 0) continue;
      throw new FuscoError('E_INTERNAL', `planning on the device: the shard of rank ${rank} is wrong`);
    }
    found.close();
  };
  const rows = await measure(
    {
      device: { run: clock.timed(plan), check },
      replay: { run: clock.timed(() => graph.launch()), check },
      host: () => timed(() => planAllNatively(tables, options)),
    },
    { rounds },
  );
  planner.close();
  return { name, tokens, ms: rows.device.ms, replayMs: rows.replay.ms, hostMs: rows.host.ms };
}

/** Planning of all ranks for several numbers of tokens of a rank. */
export async function benchCudaPlanning(sizes: Sizes) {
  const stages = [];
  for (const tokens of TOKENS) {
    for (const choice of STRATEGIES) stages.push(await benchPlanning(tokens, choice, sizes));
  }
  return stages;
}
