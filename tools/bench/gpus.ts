// What an exchange costs between the GPUs of one process, one rank on each: straight to every slot against once to each
// rank and on from there, under the rate at which the GPUs copy to one another, and with fewer and fewer
// multiprocessors. Times on the devices, with events around all ranks' launches.

import { type Cuda, cudaDevices, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import type { CombineCall, DispatchCall } from '../../executor/backends/types.ts';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { DeviceClock, fillRandom } from './cudaTiming.ts';
import { uniformTable } from './ids.ts';
import { atLeast, measure, type Timed, type Verdict } from './measure.ts';
import { findRecordings } from './recorded.ts';

export interface GpusBenchOptions {
  /** Tokens a GPU, one workload each. */
  readonly tokens: readonly number[];
  readonly hidden: number;
  readonly topk: number;
  readonly experts: number;
  readonly rounds: number;
  /** Multiprocessors to try, of each GPU. */
  readonly multiprocessors: readonly number[];
  /** Folder of recorded routings; their ranks are dealt out to the GPUs in contiguous blocks. */
  readonly routing?: string | undefined;
}

/** Milliseconds; rates in GB/s of the bytes that leave the busiest GPU, and their share of the peer copy's rate. */
export interface GpusStage {
  readonly ms: number;
  readonly busGBs: number;
  readonly share: number;
}

export interface GpusWorkload {
  readonly name: string;
  /** Of the busiest GPU. */
  readonly tokens: number;
  /** Bytes for other GPUs in one flat dispatch, of the busiest GPU; once a rank they are fewer. */
  readonly foreignBytes: { readonly flat: number; readonly oncePerRank: number };
  /** All GPUs copy to their neighbours at once: GB/s out of each. */
  readonly peerCopyGBs: number;
  /** The same, each copying from its neighbour's memory. */
  readonly peerReadGBs: number;
  readonly localCopyGBs: number;
  readonly dispatch: GpusStage;
  readonly combine: GpusStage;
  /** A plan of one rank a node: each row once to each rank, which copies it to its other slots. */
  readonly oncePerRank: GpusStage;
  /** Times with so many multiprocessors of each GPU. */
  readonly sweep: readonly {
    readonly multiprocessors: number;
    readonly dispatchMs: number;
    readonly combineMs: number;
  }[];
}

export interface GpusBench {
  readonly device: string;
  readonly gpus: number;
  readonly options: GpusBenchOptions;
  readonly workloads: readonly GpusWorkload[];
  /** The fewest multiprocessors that still reach 95 % of the best, at the largest uniform workload. */
  readonly enough: { readonly dispatch: number; readonly combine: number };
  readonly verdicts: readonly Verdict[];
}

/** Rows that leave the busiest rank: one for every entry, or one for each other rank that hosts any of a token's. */
function foreignRows(plan: VerifiedPlan, oncePerRank: boolean): number {
  const { instanceRank } = plan.spec.placement;
  let most = 0;
  for (const shard of plan.shards) {
    let rows = 0;
    const { entrySlot, entryInstance, topk, rank } = shard;
    const seen = new Set<number>();
    for (let entry = 0; entry < entrySlot.length; entry++) {
      if (entry % topk === 0) seen.clear();
      if (entrySlot[entry]! < 0) continue;
      const owner = instanceRank[entryInstance[entry]!]!;
      if (owner === rank || (oncePerRank && seen.has(owner))) continue;
      seen.add(owner);
      rows++;
    }
    most = Math.max(most, rows);
  }
  return most;
}

interface Buffers {
  readonly from: DeviceBuffer[];
  readonly received: DeviceBuffer[];
  readonly combined: DeviceBuffer[];
  readonly weights: DeviceBuffer[];
}

function allocate(cuda: Cuda, plan: VerifiedPlan): Buffers {
  const { rowBytes } = plan.spec;
  const alloc = (bytes: (shard: VerifiedPlan['shards'][number]) => number) =>
    plan.shards.map((shard, rank) => cuda.alloc(rank, Math.max(1, bytes(shard))));
  const buffers = {
    from: alloc((shard) => shard.tokens * rowBytes),
    received: alloc((shard) => shard.recvRows * rowBytes),
    combined: alloc((shard) => shard.tokens * rowBytes),
    weights: alloc((shard) => shard.entries * 4),
  };
  fillRandom(cuda, buffers.from);
  plan.shards.forEach((shard, rank) => {
    const values = new Float32Array(shard.entries).fill(1 / shard.topk);
    cuda.copy(rank, buffers.weights[rank]!, values, values.byteLength);
  });
  cuda.synchronize();
  return buffers;
}

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

async function benchWorkload(
  name: string,
  tables: readonly RoutingTable[],
  options: GpusBenchOptions,
  sweeps: boolean,
): Promise<GpusWorkload> {
  const { hidden, experts, rounds, multiprocessors } = options;
  const ranks = tables.length;
  const planner = await loadPlanner();
  const plan = planner.planAll(tables, { ranks, experts, hidden });
  const perRank = planner.planAll(tables, { ranks, experts, hidden, strategy: 'hier', ranksPerNode: 1 });
  using cuda = openCuda(ranks);
  using slot = cuda.slot(plan);
  using perRankSlot = cuda.slot(perRank);
  const { from, received, combined, weights } = allocate(cuda, plan);
  const { rowBytes } = plan.spec;
  const dispatch: DispatchCall = { payloads: [{ rowBytes, dtype: 'bf16', from, to: received }] };
  const combine: CombineCall = { dtype: 'bf16', rowBytes, from: received, to: combined, weights };
  const copyBytes = Math.min(...received.map(({ bytes }) => bytes), 2 ** 30);
  const copies = received.map((_, rank) => cuda.alloc(rank, copyBytes));
  using clock = new DeviceClock(cuda);
  const times = await measure(
    {
      peer: clock.timed(
        together(cuda, (rank) => cuda.copy(rank, copies[(rank + 1) % ranks]!, received[rank]!, copyBytes)),
      ),
      read: clock.timed(
        together(cuda, (rank) => cuda.copy(rank, copies[rank]!, received[(rank + 1) % ranks]!, copyBytes)),
      ),
      local: clock.timed(
        together(cuda, (rank) => cuda.copy(rank, copies[rank]!, received[rank]!, copyBytes)),
      ),
      dispatch: clock.timed(() => slot.dispatch(dispatch)),
      oncePerRank: clock.timed(() => perRankSlot.dispatch(dispatch, 'forward')),
      combine: clock.timed(() => slot.combine(combine)),
    },
    rounds,
  );
  const sweep: GpusWorkload['sweep'][number][] = [];
  for (const count of sweeps ? multiprocessors : []) {
    cuda.limitMultiprocessors(count);
    const limited = await measure<'dispatch' | 'combine'>(
      {
        dispatch: clock.timed(() => slot.dispatch(dispatch)) as Timed,
        combine: clock.timed(() => slot.combine(combine)) as Timed,
      },
      Math.min(rounds, 7),
    );
    sweep.push({
      multiprocessors: count,
      dispatchMs: limited.dispatch / 1e6,
      combineMs: limited.combine / 1e6,
    });
  }
  for (const buffer of [...from, ...received, ...combined, ...weights, ...copies]) cuda.free(buffer);
  const foreign = {
    flat: foreignRows(plan, false) * rowBytes,
    oncePerRank: foreignRows(plan, true) * rowBytes,
  };
  const peerCopyGBs = copyBytes / times.peer;
  const stage = (ns: number, bytes: number): GpusStage => ({
    ms: ns / 1e6,
    busGBs: bytes / ns,
    share: bytes / ns / peerCopyGBs,
  });
  return {
    name,
    tokens: Math.max(...tables.map((table) => table.tokens)),
    foreignBytes: foreign,
    peerCopyGBs,
    peerReadGBs: copyBytes / times.read,
    localCopyGBs: (2 * copyBytes) / times.local,
    dispatch: stage(times.dispatch, foreign.flat),
    combine: stage(times.combine, foreign.flat),
    oncePerRank: stage(times.oncePerRank, foreign.oncePerRank),
    sweep,
  };
}

/** Joins the ranks of a recording to as many as there are GPUs. */
function dealOut(tables: readonly RoutingTable[], gpus: number): RoutingTable[] | undefined {
  if (tables.length % gpus !== 0) return undefined;
  const each = tables.length / gpus;
  return Array.from({ length: gpus }, (_, gpu) => {
    const part = tables.slice(gpu * each, (gpu + 1) * each);
    const ids = Int32Array.from(part.flatMap((table) => Array.from(table.ids as Iterable<number>, Number)));
    const tokens = part.reduce((sum, table) => sum + table.tokens, 0);
    return { ids, tokens, topk: part[0]!.topk };
  });
}

function fewestEnough(
  sweep: GpusWorkload['sweep'],
  time: (one: GpusWorkload['sweep'][number]) => number,
): number {
  const best = Math.min(...sweep.map(time));
  const enough = sweep.filter((one) => time(one) <= best / 0.95).map((one) => one.multiprocessors);
  return Math.min(...enough);
}

/** The bench of `fusco bench gpus`. Throws E_BACKEND where there are fewer than two GPUs. */
export async function benchGpus(options: GpusBenchOptions): Promise<GpusBench> {
  const { devices, reason } = cudaDevices();
  if (devices.length < 2) {
    throw new FuscoError(
      'E_BACKEND',
      `this bench needs several GPUs: ${reason ?? `there is ${devices.length}`}`,
    );
  }
  const gpus = devices.length;
  const { topk, experts, routing } = options;
  const recordings = await findRecordings(routing);
  const workloads: GpusWorkload[] = [];
  const largest = Math.max(...options.tokens);
  for (const tokens of options.tokens) {
    const tables = Array.from({ length: gpus }, (_, rank) => uniformTable(tokens, topk, experts, rank + 1));
    workloads.push(
      await benchWorkload(`uniform, ${tokens} tokens a GPU`, tables, options, tokens === largest),
    );
  }
  const swept = workloads.find((one) => one.sweep.length > 0)!;
  for (const recording of recordings) {
    const tables = dealOut(await recording.read(), gpus);
    if (tables === undefined) continue;
    const name = `${recording.name}, ${tables[0]!.tokens} tokens a GPU`;
    workloads.push(await benchWorkload(name, tables, options, false));
  }
  return {
    device: devices[0]!.name,
    gpus,
    options,
    workloads,
    enough: {
      dispatch: fewestEnough(swept.sweep, ({ dispatchMs }) => dispatchMs),
      combine: fewestEnough(swept.sweep, ({ combineMs }) => combineMs),
    },
    verdicts: workloads.flatMap((one) => [
      atLeast(`dispatch, ${one.name}: share of the peer copy`, one.dispatch.share, 0.9),
      atLeast(`combine, ${one.name}: share of the peer copy`, one.combine.share, 0.9),
    ]),
  };
}
