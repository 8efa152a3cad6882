// The time of exchanges on the GPU: fused, compared with the unfused pipeline and with the rate of a plain device copy.
// All are measured in turn in the same run, with events around the launches of all ranks. The GPU is kept busy while they
// are enqueued, so that the events measure the device alone; a dispatch on an idle GPU is measured as well.

import { type Cuda, type DevicePlan, openCuda } from '../../executor/backends/cuda/context.ts';
import { nativeDevicePlan, requireBenchAddon } from '../../executor/internal.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { benchCudaPlanning } from './cudaPlanning.ts';
import { benchCudaRows } from './cudaRows.ts';
import { DeviceClock, DeviceMemory, type ExchangeCalls, exchangeCalls, requireDevices } from './device.ts';
import { uniformTables } from './ids.ts';
import { atLeast, atMost, timed } from './measure.ts';
import { findRecordings } from './recorded.ts';
import { type ExchangeOptions, measure, type Row, timesOf } from './runner.ts';

export interface CudaBenchOptions extends ExchangeOptions {
  readonly ranks: number;
  /** Folder of recorded routings, `*.idx.npy` or `*.npy`; undefined: uniform ones only. */
  readonly routing?: string | undefined;
}

export type CudaBench = Awaited<ReturnType<typeof benchCuda>>;
export type CudaWorkload = CudaBench['workloads'][number];
export type CudaStage = CudaWorkload['dispatch'];

/** The unfused pipeline and a copy of more bytes would not fit next to the buffers. */
const MAX_COPY_BYTES = 4 * 2 ** 30;
const TILE_TOKENS = 4;

/** From ids on the GPU to rows dispatched, one stage after the other, on the CPU's clock. */
async function endToEnd(
  cuda: Cuda,
  memory: DeviceMemory,
  devicePlan: DevicePlan,
  calls: ExchangeCalls,
  tables: readonly RoutingTable[],
  options: CudaBenchOptions,
) {
  const { hidden, experts } = options;
  const planner = await loadPlanner();
  const deviceIds = tables.map(({ ids }, rank) => {
    const buffer = memory.alloc(rank, ids.byteLength);
    cuda.copy(rank, buffer, ids, ids.byteLength);
    return buffer;
  });
  cuda.synchronize();
  const { dispatch, combine, weights, combined } = calls;
  const { weights: _, ...unweighted } = combine;
  const backward = { payloads: [{ ...dispatch.payloads[0]!, from: combined }], scale: weights };
  let begin = 0n;
  let read: RoutingTable[] = [];
  let next = devicePlan.plan;
  const rows = await measure(
    {
      idsToHostMs: () => {
        begin = process.hrtime.bigint();
        read = tables.map((table) => ({ ...table, ids: table.ids.slice() }));
        return timed(() => {
          read.forEach(({ ids }, rank) => {
            cuda.copy(rank, ids, deviceIds[rank]!, ids.byteLength);
          });
          cuda.synchronize();
        });
      },
      planMs: () => timed(() => (next = planner.planAll(read, { ranks: tables.length, experts, hidden }))),
      uploadCallMs: () => timed(() => devicePlan.upload(next)),
      dispatchCallMs: () => timed(() => devicePlan.dispatch(dispatch)),
      deviceMs: () => timed(() => cuda.synchronize()),
      totalMs: () => Number(process.hrtime.bigint() - begin),
      /** Dispatch, combine and both backward exchanges on one uploaded plan, enqueued and waited for once. */
      reusedStepMs: () =>
        timed(() => {
          devicePlan.dispatch(dispatch);
          devicePlan.combine(combine);
          devicePlan.dispatch(backward);
          devicePlan.combine(unweighted);
          cuda.synchronize();
        }),
    },
    { rounds: Math.min(options.rounds, 7), warmUps: 5 },
  );
  return timesOf(rows, 1e6);
}

/** Medians: milliseconds on the device, and GB/s of bytes read plus written. */
async function benchWorkload(name: string, tables: readonly RoutingTable[], options: CudaBenchOptions) {
  const { hidden, experts, rounds } = options;
  const ranks = tables.length;
  const planner = await loadPlanner();
  const planOptions = { ranks, experts, hidden };
  const plan = planner.planAll(tables, planOptions);
  using cuda = openCuda(ranks);
  using devicePlan = cuda.devicePlan(plan);
  using plannedOrder = cuda.devicePlan(planner.planAll(tables, { ...planOptions, tileTokens: TILE_TOKENS }));
  using shared = openCuda(ranks);
  for (let rank = 0; rank < ranks; rank++) shared.setStream(rank, cuda.stream(0));
  using onOneStream = shared.devicePlan(plan);
  using memory = new DeviceMemory(cuda);
  using clock = new DeviceClock(cuda);
  const { rowBytes } = plan.spec;
  const calls = exchangeCalls(cuda, memory, plan.shards, rowBytes);
  const { from, received, weights, dispatch, combine } = calls;
  const { weights: _, ...unweighted } = combine;
  const gradient = weights.map(({ rank, bytes }) => memory.alloc(rank, bytes));
  const weightGradient = {
    dtype: 'bf16',
    rowBytes,
    outputGradient: from,
    from: received,
    to: gradient,
  } as const;
  const kept = plan.shards.reduce((sum, shard) => sum + shard.kept, 0);
  const tokens = plan.shards.reduce((sum, shard) => sum + shard.tokens, 0);
  const bytes = (kept + tokens) * rowBytes;
  const copyBytes = Math.min(MAX_COPY_BYTES, kept * rowBytes);
  const copyFrom = memory.random(0, copyBytes);
  const copyTo = memory.alloc(0, copyBytes);
  devicePlan.dispatch(dispatch);
  cuda.synchronize();
  using graph = cuda.capture(() => {
    devicePlan.dispatch(dispatch);
    devicePlan.combine(combine);
  });
  const { CudaUnfused } = requireBenchAddon();
  const fits = bytes < 3 * MAX_COPY_BYTES;
  const unfused = fits ? new CudaUnfused(nativeDevicePlan(devicePlan), rowBytes) : undefined;
  const onDevice = (work: () => unknown, busyNs?: number) => ({ bytes, run: clock.timed(work, busyNs) });
  const rows = await measure(
    {
      copy: { ...onDevice(() => cuda.copy(0, copyTo, copyFrom, copyBytes)), bytes: 2 * copyBytes },
      dispatch: onDevice(() => devicePlan.dispatch(dispatch)),
      dispatchPlanned: onDevice(() => plannedOrder.dispatch(dispatch)),
      combine: onDevice(() => devicePlan.combine(combine)),
      combineUnweighted: onDevice(() => devicePlan.combine(unweighted)),
      gradient: onDevice(() => devicePlan.weightGradient(weightGradient)),
      scaled: onDevice(() => devicePlan.dispatch({ ...dispatch, scale: weights })),
      replay: onDevice(() => graph.launch()),
      idle: onDevice(() => devicePlan.dispatch(dispatch), 0),
      idleOneStream: onDevice(() => onOneStream.dispatch(dispatch), 0),
      unfusedDispatch: unfused && onDevice(() => unfused.dispatch(dispatch)),
      unfusedCombine: unfused && onDevice(() => unfused.combine(combine)),
    },
    { rounds },
  );
  unfused?.close();
  const { copy, unfusedDispatch, unfusedCombine } = rows;
  const stage = ({ ms, rate }: Row) => ({ ms, rate, share: rate / copy.rate });
  return {
    name,
    tokens,
    /** Bytes of a dispatch or combine: each source row and each slot once. */
    bytes,
    copy: { bytes: copyBytes, ms: copy.ms, rate: copy.rate },
    dispatch: stage(rows.dispatch),
    /** The same with the order of stores from the plan, in tiles of 4 tokens. */
    dispatchPlanned: stage(rows.dispatchPlanned),
    /** Dispatch and combine, captured together. */
    replayMs: rows.replay.ms,
    /** Dispatch on an idle GPU, including the time to enqueue it: with a stream per rank, and with one stream for all. */
    idleDispatchMs: { ownStreams: rows.idle.ms, oneStream: rows.idleOneStream.ms },
    combine: stage(rows.combine),
    combineUnweighted: stage(rows.combineUnweighted),
    weightGradientMs: rows.gradient.ms,
    scaledMs: rows.scaled.ms,
    unfused: unfusedDispatch && { dispatchMs: unfusedDispatch.ms, combineMs: unfusedCombine!.ms },
    endToEnd: await endToEnd(cuda, memory, devicePlan, calls, tables, options),
  };
}

/** The bench of `fusco bench cuda`. Throws E_BACKEND if there is no GPU. */
export async function benchCuda(options: CudaBenchOptions) {
  const [device] = requireDevices(1);
  const { ranks, topk, experts } = options;
  const recordings = await findRecordings(options.routing);
  const uniform = (tokens: number) =>
    benchWorkload(`uniform, ${tokens} tokens a rank`, uniformTables(ranks, tokens, topk, experts), options);
  const large = await uniform(4096);
  const small = await uniform(512);
  const verdicts = [
    atLeast('dispatch, 4096 tokens a rank: share of the copy rate', large.dispatch.share, 0.91),
    atLeast('combine, 4096 tokens a rank: share of the copy rate', large.combine.share, 0.99),
    atMost('dispatch, 512 tokens a rank: ms', small.dispatch.ms, 0.15),
    atMost('combine, 512 tokens a rank: ms', small.combine.ms, 0.135),
  ];
  if (large.unfused !== undefined) {
    const ratio = large.unfused.dispatchMs / large.dispatch.ms;
    verdicts.push(atLeast('dispatch: times faster than unfused', ratio, 4.5));
  }
  const rowWork = await benchCudaRows(options.hidden, options.rounds);
  for (const { name, tokens, share } of rowWork) {
    if (!name.includes('fp8') || tokens < 32_768) continue;
    verdicts.push(atLeast(`${name}, ${tokens} rows: share of the copy rate`, share, 0.9));
  }
  const planning = await benchCudaPlanning(options);
  const flat = planning.find(({ name, tokens }) => name === 'flat' && tokens === 4096)!;
  verdicts.push(atMost('planning on the device, 4096 tokens a rank: ms', flat.ms, 0.06));
  const small128 = planning.find(({ name, tokens }) => name === 'flat' && tokens === 128)!;
  verdicts.push(atMost('planning on the device, 128 tokens a rank: ms', small128.replayMs, 0.025));
  const beyond = flat.rows.deviceMs - flat.rows.givenMs;
  verdicts.push(atMost('ids to rows in place, beyond a dispatch along a given plan: ms', beyond, 0.085));
  const workloads = [large, small];
  for (const { name, read } of recordings) {
    const recorded = await benchWorkload(name, await read(), options);
    workloads.push(recorded);
    for (const stage of ['dispatch', 'combine'] as const) {
      const ratio = recorded[stage].rate / large[stage].rate;
      verdicts.push(atLeast(`${recorded.name}: ${stage} rate against uniform`, ratio, 0.95));
    }
  }
  return { device: device!, options, workloads, planning, rowWork, verdicts };
}
