// What an exchange costs between the GPUs of one process, one rank on each: straight to every slot against once to each
// rank, which copies the row to its other slots; under the rate at which the GPUs copy to one another, and with fewer
// and fewer SMs. Times on the devices, with events around all ranks' launches.

import { type Cuda, openCuda } from '../../executor/backends/cuda/context.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { sum } from '../../planner/totals.ts';
import { rowMatrix } from '../../planner/traffic.ts';
import { joinTables } from '../readers/tables.ts';
import { DeviceClock, DeviceMemory, exchangeCalls, requireDevices } from './device.ts';
import { uniformTables } from './ids.ts';
import { atLeast } from './measure.ts';
import { findRecordings } from './recorded.ts';
import { type ExchangeOptions, measure, type Row } from './runner.ts';

export interface GpusBenchOptions extends ExchangeOptions {
  /** Tokens a GPU, one workload each. */
  readonly tokens: readonly number[];
  /** SMs to try, of each GPU. */
  readonly multiprocessors: readonly number[];
  /** Folder of recorded routings; their ranks are dealt out to the GPUs in contiguous blocks. */
  readonly routing?: string | undefined;
}

export type GpusBench = Awaited<ReturnType<typeof benchGpus>>;
export type GpusWorkload = GpusBench['workloads'][number];
export type GpusStage = GpusWorkload['dispatch'];

/** Work on every rank's stream at once, between events of the first one. */
function together(cuda: Cuda, enqueue: (rank: number) => void): () => void {
  return () => {
    const start = cuda.event(0);
    start.record();
    const ends = Array.from({ length: cuda.ranks }, (_, rank) => {
      if (rank > 0) start.wait(rank);
      enqueue(rank);
      const end = cuda.event(rank);
      end.record();
      return end;
    });
    for (const end of ends) end.wait(0);
    for (const event of [start, ...ends]) event.close();
  };
}

/** Milliseconds; rates in GB/s of the bytes that leave the busiest GPU, and their share of the peer copy's rate. */
async function benchWorkload(
  name: string,
  tables: readonly RoutingTable[],
  options: GpusBenchOptions,
  multiprocessors: readonly number[],
) {
  const { hidden, experts, rounds } = options;
  const ranks = tables.length;
  const planner = await loadPlanner();
  const plan = planner.planAll(tables, { ranks, experts, hidden });
  const perRankPlan = planner.planAll(tables, { ranks, experts, hidden, strategy: 'hier', ranksPerNode: 1 });
  using cuda = openCuda(ranks);
  using devicePlan = cuda.devicePlan(plan);
  using perRank = cuda.devicePlan(perRankPlan);
  using memory = new DeviceMemory(cuda);
  using clock = new DeviceClock(cuda);
  const { rowBytes } = plan.spec;
  const calls = exchangeCalls(cuda, memory, plan.shards, rowBytes);
  const { from, received, weights } = calls;
  const to = received.map(({ rank, bytes }) => memory.alloc(rank, bytes));
  const weightsGradient = weights.map(({ rank, bytes }) => memory.alloc(rank, bytes));
  const gradient = { dtype: 'bf16', rowBytes, outputGradient: from, from: received } as const;
  const copyBytes = Math.min(...received.map(({ bytes }) => bytes), 2 ** 30);
  const copies = received.map((_, rank) => memory.alloc(rank, copyBytes));
  const foreign = {
    flat: rowBytes * Math.max(...rowMatrix(plan).map((row, rank) => sum(row) - row[rank]!)),
    oncePerRank: rowBytes * Math.max(...perRankPlan.shards.map(({ forwardRows }) => sum(forwardRows))),
  };
  const onDevices = (bytes: number, work: () => unknown) => ({ bytes, run: clock.timed(work) });
  const dispatch = onDevices(foreign.flat, () => devicePlan.dispatch(calls.dispatch, 'direct'));
  const combine = onDevices(foreign.flat, () => devicePlan.combine(calls.combine));
  const oncePerRank = onDevices(foreign.oncePerRank, () => perRank.dispatch(calls.dispatch, 'once'));
  const sumPerRank = onDevices(foreign.oncePerRank, () => perRank.combine(calls.combine));
  const combineGradient = onDevices(foreign.oncePerRank, () =>
    devicePlan.combineGradient({ ...gradient, weights, to, weightsGradient }),
  );
  const gradientApart = onDevices(2 * foreign.flat, () => {
    devicePlan.dispatch({ payloads: [{ rowBytes, dtype: 'bf16', from, to }], scale: weights });
    devicePlan.weightGradient({ ...gradient, to: weightsGradient });
  });
  /** All ranks at once copy from and to their neighbors at these distances. */
  const copy = (from: number, to: number) =>
    onDevices(
      copyBytes,
      together(cuda, (rank) =>
        cuda.copy(rank, copies[(rank + to) % ranks]!, received[(rank + from) % ranks]!, copyBytes),
      ),
    );
  const rows = await measure(
    {
      ...{ peer: copy(0, 1), read: copy(1, 0), local: copy(0, 0) },
      ...{ dispatch, oncePerRank, combine, sumPerRank, combineGradient, gradientApart },
    },
    { rounds },
  );
  const sweep = [];
  for (const count of multiprocessors) {
    cuda.limitSms(count);
    const limited = await measure({ dispatch, combine, combineGradient }, { rounds: Math.min(rounds, 7) });
    sweep.push({
      multiprocessors: count,
      dispatchMs: limited.dispatch.ms,
      combineMs: limited.combine.ms,
      gradientMs: limited.combineGradient.ms,
    });
  }
  const stage = ({ ms, rate }: Row) => ({ ms, busGBs: rate, share: rate / rows.peer.rate });
  return {
    name,
    /** Of the busiest GPU. */
    tokens: Math.max(...tables.map((table) => table.tokens)),
    /** Bytes for other GPUs in one dispatch, of the busiest GPU. */
    foreignBytes: foreign,
    /** All GPUs copy to their neighbors at once: GB/s out of each. */
    peerCopyGBs: rows.peer.rate,
    /** The same, each copying from its neighbor's memory. */
    peerReadGBs: rows.read.rate,
    localCopyGBs: 2 * rows.local.rate,
    dispatch: stage(rows.dispatch),
    combine: stage(rows.combine),
    /** A plan of one rank a node: each row once to each rank, which copies it to its other slots. */
    oncePerRank: stage(rows.oncePerRank),
    /** Its combine: one partial sum per token and rank crosses the links. */
    sumPerRank: stage(rows.sumPerRank),
    /** Both gradients of a combine: rows once to each rank, one number per entry back. */
    combineGradient: stage(rows.combineGradient),
    /** The same as a scaled dispatch and a weight gradient, straight to and from every slot. */
    gradientApart: stage(rows.gradientApart),
    /** Times with that many SMs of each GPU. */
    sweep,
  };
}

/** Joins the ranks of a recording to as many as there are GPUs, if they can be dealt out evenly. */
function dealOut(tables: readonly RoutingTable[], gpus: number): RoutingTable[] | undefined {
  const each = tables.length / gpus;
  if (!Number.isInteger(each)) return undefined;
  return Array.from({ length: gpus }, (_, gpu) => joinTables(tables.slice(gpu * each, (gpu + 1) * each)));
}

/** The fewest SMs that still reach 95 % of the best. */
function fewestEnough<S extends 'dispatchMs' | 'combineMs' | 'gradientMs'>(
  sweep: readonly (Record<S, number> & { multiprocessors: number })[],
  stage: S,
): number {
  const best = Math.min(...sweep.map((one) => one[stage]));
  const enough = sweep.filter((one) => one[stage] <= best / 0.95);
  return Math.min(...enough.map((one) => one.multiprocessors));
}

/** The bench of `fusco bench gpus`. Throws E_BACKEND if there are fewer than two GPUs. */
export async function benchGpus(options: GpusBenchOptions) {
  const devices = requireDevices(2);
  const gpus = devices.length;
  const { topk, experts, multiprocessors } = options;
  const recordings = await findRecordings(options.routing);
  const workloads = [];
  const largest = Math.max(...options.tokens);
  for (const tokens of options.tokens) {
    const tables = uniformTables(gpus, tokens, topk, experts);
    const swept = tokens === largest ? multiprocessors : [];
    workloads.push(await benchWorkload(`uniform, ${tokens} tokens a GPU`, tables, options, swept));
  }
  const { sweep } = workloads.find((one) => one.sweep.length > 0)!;
  for (const recording of recordings) {
    const tables = dealOut(await recording.read(), gpus);
    if (tables === undefined) continue;
    const name = `${recording.name}, ${tables[0]!.tokens} tokens a GPU`;
    workloads.push(await benchWorkload(name, tables, options, []));
  }
  return {
    device: devices[0]!.name,
    gpus,
    options,
    workloads,
    /** SMs, at the largest uniform workload. */
    enough: {
      dispatch: fewestEnough(sweep, 'dispatchMs'),
      combine: fewestEnough(sweep, 'combineMs'),
      gradient: fewestEnough(sweep, 'gradientMs'),
    },
    verdicts: workloads.flatMap((one) => [
      atLeast(`dispatch, ${one.name}: share of the peer copy`, one.dispatch.share, 0.9),
      atLeast(`combine, ${one.name}: share of the peer copy`, one.combine.share, 0.9),
    ]),
  };
}
