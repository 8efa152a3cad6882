// What planning on the device costs, from ids in device memory to all tables of all ranks, against native planning on the
// host.

import { type Cuda, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import { nativeCuda, requireBenchAddon } from '../../executor/internal.ts';
import { type NativeBufferedPlan, type NativeDevicePlanner, needAddon } from '../../executor/native/addon.ts';
import { nativeOptions, planAllNatively } from '../../executor/native/planner.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { DeviceClock, DeviceMemory } from './device.ts';
import { uniformTables } from './ids.ts';
import { timed } from './measure.ts';
import { type ExchangeOptions, measure } from './runner.ts';

const TOKENS = [128, 256, 512, 4096];
const STRATEGIES = [
  { name: 'flat', strategy: 'flat' },
  { name: 'once per rank', strategy: 'hier', ranksPerNode: 1 },
] as const;

type Strategy = (typeof STRATEGIES)[number];
type Sizes = ExchangeOptions & { readonly ranks: number };

/** What one planner and its plan are measured with, closed together. */
class Subject implements Disposable {
  readonly cuda;
  readonly memory;
  readonly planner: NativeDevicePlanner;
  readonly ids;
  readonly options: PlanOptions;
  readonly expected: VerifiedPlan;
  /** Rows of every receive buffer: a captured exchange needs a bound. */
  readonly bound: number;
  readonly #buffers: DeviceBuffer[];
  readonly #tables;

  constructor(cuda: Cuda, tables: readonly RoutingTable[], options: PlanOptions) {
    const { DevicePlanner } = needAddon('cuda');
    const [{ topk }] = tables as [RoutingTable];
    const maxTokens = Math.max(...tables.map(({ tokens }) => tokens));
    this.cuda = cuda;
    this.memory = new DeviceMemory(cuda);
    this.options = options;
    const spec = nativeOptions(resolveOptions(options, topk));
    this.expected = planAllNatively(tables, options);
    this.bound = Math.max(...this.expected.shards.map(({ recvRows }) => recvRows));
    this.planner = new DevicePlanner(nativeCuda(cuda), spec, { maxTokens, maxRecvRows: this.bound });
    this.#buffers = tables.map((_, rank) => this.memory.alloc(rank, this.planner.bufferBytes));
    // Routers give 64-bit ids.
    this.#tables = tables.map(({ ids, tokens }) => ({
      ids: BigInt64Array.from(ids as Int32Array, BigInt),
      ...{ tokens, topk },
    }));
    this.ids = this.#tables.map(({ ids: values, tokens }, rank) => {
      const buffer = this.memory.alloc(rank, values.byteLength);
      cuda.copy(rank, buffer, values, values.byteLength);
      return { ids: buffer, dtype: 'i64', tokens, topk } as const;
    });
  }

  /** Enqueues planning. The caller closes the plan. */
  plan(): NativeBufferedPlan {
    const { BufferedPlan } = needAddon('cuda');
    return new BufferedPlan(this.planner, this.#buffers, this.ids);
  }

  /** Throws E_INTERNAL unless the plan buffers hold the plan of the host. */
  readonly check = (): void => {
    const { BufferedPlan } = needAddon('cuda');
    const found = new BufferedPlan(this.planner, this.#buffers, undefined);
    for (const [rank, { bytes }] of this.expected.shards.entries()) {
      if (Buffer.compare(found.shard(rank), bytes) === 0) continue;
      throw new FuscoError('E_INTERNAL', `planning on the device: the shard of rank ${rank} is wrong`);
    }
    found.close();
  };

  /** Copies the ids to the host and plans there. */
  planOnHost(): VerifiedPlan {
    for (const [rank, { ids }] of this.#tables.entries()) {
      this.cuda.copy(rank, ids, this.ids[rank]!.ids, ids.byteLength);
    }
    this.cuda.synchronize();
    return planAllNatively(this.#tables, this.options);
  }

  [Symbol.dispose](): void {
    this.planner.close();
    this.memory[Symbol.dispose]();
  }
}

/**
 * Milliseconds for all ranks: of planning, also with a kernel for each pass where one kernel makes the plan, and from ids
 * to rows in place along a plan that is given, that is made on the device and that is made on the host.
 *
 * @param tables one for each rank of the context
 */
export async function benchDevicePlanning(
  cuda: Cuda,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  rounds: number,
) {
  using subject = new Subject(cuda, tables, options);
  using clock = new DeviceClock(cuda);
  using given = cuda.devicePlan(subject.expected);
  const { memory, expected, bound, check } = subject;
  const { rowBytes } = expected.spec;
  const from = expected.shards.map(({ tokens }, rank) => memory.random(rank, tokens * rowBytes));
  const to = expected.shards.map((_, rank) => memory.alloc(rank, bound * rowBytes));
  const dispatch = { payloads: [{ rowBytes, dtype: 'bf16', from, to }] } as const;
  const plan = () => subject.plan().close();
  const live = () => {
    const made = subject.plan();
    made.dispatch('auto', dispatch);
    made.close();
  };
  plan();
  live();
  cuda.synchronize();
  using graph = cuda.capture(plan);
  using liveGraph = cuda.capture(live);
  using givenGraph = cuda.capture(() => void given.dispatch(dispatch));
  const { cudaSmallPlans } = requireBenchAddon();
  cudaSmallPlans(0);
  using byPassGraph = cuda.capture(plan);
  cudaSmallPlans(1);
  const rows = await measure(
    {
      device: { run: clock.timed(plan), check },
      replay: { run: clock.timed(() => graph.launch()), check },
      byPass: { run: clock.timed(() => byPassGraph.launch()), check },
      host: () => timed(() => planAllNatively(tables, options)),
      givenRows: clock.timed(() => givenGraph.launch()),
      liveRows: clock.timed(() => liveGraph.launch()),
      hostRows: () =>
        timed(() => {
          given.upload(subject.planOnHost());
          given.dispatch(dispatch);
          cuda.synchronize();
        }),
    },
    { rounds },
  );
  return {
    ms: rows.device.ms,
    replayMs: rows.replay.ms,
    /** In a replayed graph, with a kernel for each pass. */
    byPassMs: rows.byPass.ms,
    hostMs: rows.host.ms,
    /** From ids to rows in place: replayed graphs, and on the host the whole way. */
    rows: { givenMs: rows.givenRows.ms, deviceMs: rows.liveRows.ms, hostMs: rows.hostRows.ms },
  };
}

async function benchStage(tokens: number, choice: Strategy, sizes: Sizes) {
  const { ranks, topk, experts, hidden, rounds } = sizes;
  const { name, ...strategy } = choice;
  using cuda = openCuda(ranks);
  const tables = uniformTables(ranks, tokens, topk, experts);
  const options: PlanOptions = { ranks, experts, hidden, ...strategy };
  return { name, tokens, ...(await benchDevicePlanning(cuda, tables, options, rounds)) };
}

/** Planning of all ranks for several numbers of tokens of a rank. */
export async function benchCudaPlanning(sizes: Sizes) {
  const stages = [];
  for (const tokens of TOKENS) {
    for (const choice of STRATEGIES) stages.push(await benchStage(tokens, choice, sizes));
  }
  return stages;
}
