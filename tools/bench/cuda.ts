// What an exchange costs on the GPU: fused against the unfused pipeline, under the rate of a plain device copy, all
// measured in turn in the same run with events around all ranks' launches. The GPU is kept busy while they are
// enqueued, so that the events see the device alone; what a call costs from an idle GPU is measured beside it.

import { type CudaDevice, cudaDevices, openCuda } from '../../executor/backends/cuda/context.ts';
import type { CombineCall } from '../../executor/backends/types.ts';
import { findAddon } from '../../executor/native/addon.ts';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { benchCudaRows, type CudaRowStage } from './cudaRows.ts';
import { DeviceClock, fillRandom } from './cudaTiming.ts';
import { uniformTable } from './ids.ts';
import { atLeast, atMost, measure, median, type Timed, timed, type Verdict } from './measure.ts';
import { findRecordings } from './recorded.ts';

export interface CudaBenchOptions {
  readonly ranks: number;
  readonly hidden: number;
  readonly topk: number;
  readonly experts: number;
  readonly rounds: number;
  /** Folder of recorded routings, `*.idx.npy` or `*.npy`; undefined: uniform ones only. */
  readonly routing?: string | undefined;
}

/** Milliseconds on the device, medians; rates in GB/s of bytes read plus written. */
export interface CudaStage {
  readonly ms: number;
  readonly rate: number;
  /** Of the copy in the same run. */
  readonly share: number;
}

export interface CudaWorkload {
  readonly name: string;
  readonly tokens: number;
  /** Bytes of a dispatch or combine: each source row and each slot once. */
  readonly bytes: number;
  readonly copy: { readonly bytes: number; readonly ms: number; readonly rate: number };
  readonly dispatch: CudaStage;
  /** The same along the plan's own order of stores, in tiles of 4 tokens. */
  readonly dispatchPlanned: CudaStage;
  /** Captured with the combine and replayed: both together. */
  readonly replayMs: number;
  /** Once to each destination rank and on from there. */
  readonly forwardMs: number;
  /** Dispatch from an idle GPU, enqueueing included: every rank with a stream of its own, and all on one stream. */
  readonly idleDispatchMs: { readonly ownStreams: number; readonly oneStream: number };
  readonly combine: CudaStage;
  readonly combineUnweighted: CudaStage;
  readonly weightGradientMs: number;
  readonly scaledMs: number;
  readonly unfused?: { readonly dispatchMs: number; readonly combineMs: number };
  /** From ids on the GPU to rows dispatched, a stage after the other, on the host's clock. */
  readonly endToEnd: {
    readonly idsToHostMs: number;
    readonly planMs: number;
    readonly uploadCallMs: number;
    readonly dispatchCallMs: number;
    readonly deviceMs: number;
    readonly totalMs: number;
    /** Dispatch, combine and both backward exchanges on one uploaded plan, enqueued and waited for once. */
    readonly reusedStepMs: number;
  };
}

export interface CudaBench {
  readonly device: CudaDevice;
  readonly options: CudaBenchOptions;
  readonly workloads: CudaWorkload[];
  /** fp8 and gating. */
  readonly rowWork: CudaRowStage[];
  readonly verdicts: Verdict[];
}

/** The unfused pipeline and a copy of more than this would not fit beside the buffers. */
const MAX_COPY_BYTES = 4 * 2 ** 30;
const TILE_TOKENS = 4;

async function benchWorkload(
  name: string,
  tables: readonly RoutingTable[],
  options: CudaBenchOptions,
): Promise<CudaWorkload> {
  const { hidden, experts, rounds } = options;
  const ranks = tables.length;
  const addon = findAddon().addon!;
  const planner = await loadPlanner();
  const planOptions = { ranks, experts, hidden };
  const plan = planner.planAll(tables, planOptions);
  const planned = planner.planAll(tables, { ...planOptions, tileTokens: TILE_TOKENS });
  const perRank = planner.planAll(tables, { ...planOptions, strategy: 'hier', ranksPerNode: 1 });
  using cuda = openCuda(ranks);
  using slot = cuda.slot(plan);
  using plannedSlot = cuda.slot(planned);
  using perRankSlot = cuda.slot(perRank);
  using shared = openCuda(ranks);
  for (let rank = 0; rank < ranks; rank++) shared.setStream(rank, cuda.stream(0));
  using sharedSlot = shared.slot(plan);
  const { rowBytes } = plan.spec;
  const alloc = (bytes: (shard: (typeof plan.shards)[number]) => number) =>
    plan.shards.map((shard, rank) => cuda.alloc(rank, Math.max(1, bytes(shard))));
  const from = alloc((shard) => shard.tokens * rowBytes);
  const received = alloc((shard) => shard.recvRows * rowBytes);
  const combined = alloc((shard) => shard.tokens * rowBytes);
  const weights = alloc((shard) => shard.entries * 4);
  const gradient = alloc((shard) => shard.entries * 4);
  fillRandom(cuda, from);
  plan.shards.forEach((shard, rank) => {
    const values = new Float32Array(shard.entries).map((_, i) => (1 + (i % 7)) / 16);
    cuda.copy(rank, weights[rank]!, values, values.byteLength);
  });
  const kept = plan.shards.reduce((sum, shard) => sum + shard.kept, 0);
  const tokens = plan.shards.reduce((sum, shard) => sum + shard.tokens, 0);
  const bytes = (kept + tokens) * rowBytes;
  const copyBytes = Math.min(MAX_COPY_BYTES, kept * rowBytes);
  const copyFrom = cuda.alloc(0, copyBytes);
  const copyTo = cuda.alloc(0, copyBytes);
  fillRandom(cuda, [copyFrom]);

  const payloads = [{ rowBytes, dtype: 'bf16' as const, from, to: received }];
  const combine: CombineCall = { dtype: 'bf16', rowBytes, from: received, to: combined };
  const weighted = { ...combine, weights };
  const gradientCall = {
    dtype: 'bf16',
    rowBytes,
    outputGradient: from,
    from: received,
    to: gradient,
  } as const;
  slot.dispatch({ payloads });
  cuda.synchronize();
  using graph = cuda.capture(() => {
    slot.dispatch({ payloads });
    slot.combine(weighted);
  });
  const hasUnfused = bytes < 3 * MAX_COPY_BYTES;
  const unfused = hasUnfused ? new addon.CudaUnfused(slot.native, { rowBytes }) : undefined;
  using clock = new DeviceClock(cuda);
  const onDevice = (work: () => void, busyNs?: number) => clock.timed(work, busyNs);
  const candidates: Record<string, Timed> = {
    copy: onDevice(() => cuda.copy(0, copyTo, copyFrom, copyBytes)),
    dispatch: onDevice(() => slot.dispatch({ payloads })),
    dispatchPlanned: onDevice(() => plannedSlot.dispatch({ payloads })),
    forward: onDevice(() => perRankSlot.dispatch({ payloads }, 'forward')),
    combine: onDevice(() => slot.combine(weighted)),
    combineUnweighted: onDevice(() => slot.combine(combine)),
    gradient: onDevice(() => slot.weightGradient(gradientCall)),
    scaled: onDevice(() => slot.dispatch({ payloads, scale: weights })),
    replay: onDevice(() => graph.launch()),
    idle: onDevice(() => slot.dispatch({ payloads }), 0),
    idleOneStream: onDevice(() => sharedSlot.dispatch({ payloads }), 0),
    ...(unfused === undefined
      ? {}
      : {
          unfusedDispatch: onDevice(() => unfused.dispatch(from, received)),
          unfusedCombine: onDevice(() => unfused.combine(weighted)),
        }),
  };
  const times = await measure(candidates, rounds);
  const rate = (2 * copyBytes) / times.copy!;
  const stage = (ns: number): CudaStage => ({ ms: ns / 1e6, rate: bytes / ns, share: bytes / ns / rate });

  const idBuffers = tables.map((table, rank) => cuda.alloc(rank, table.ids.byteLength));
  for (const [rank, { ids }] of tables.entries()) cuda.copy(rank, idBuffers[rank]!, ids, ids.byteLength);
  cuda.synchronize();
  const stages = { ids: [] as number[], plan: [] as number[], upload: [] as number[], call: [] as number[] };
  const device: number[] = [];
  const total: number[] = [];
  const reused: number[] = [];
  for (let round = 0; round < Math.min(rounds, 7); round++) {
    const begin = process.hrtime.bigint();
    const ids = tables.map(({ ids }) => ids.slice());
    stages.ids.push(
      timed(() => {
        for (const [rank, array] of ids.entries()) cuda.copy(rank, array, idBuffers[rank]!, array.byteLength);
        cuda.synchronize();
      }),
    );
    let next = plan;
    stages.plan.push(
      timed(() => {
        next = planner.planAll(
          tables.map((table, rank) => ({ ...table, ids: ids[rank]! })),
          planOptions,
        );
      }),
    );
    stages.upload.push(timed(() => slot.upload(next)));
    stages.call.push(timed(() => slot.dispatch({ payloads })));
    device.push(timed(() => cuda.synchronize()));
    total.push(Number(process.hrtime.bigint() - begin));
    reused.push(
      timed(() => {
        slot.dispatch({ payloads });
        slot.combine(weighted);
        slot.dispatch({ payloads: [{ ...payloads[0]!, from: combined }], scale: weights });
        slot.combine(combine);
        cuda.synchronize();
      }),
    );
  }
  unfused?.close();
  const result: CudaWorkload = {
    name,
    tokens,
    bytes,
    copy: { bytes: copyBytes, ms: times.copy! / 1e6, rate },
    dispatch: stage(times.dispatch!),
    dispatchPlanned: stage(times.dispatchPlanned!),
    replayMs: times.replay! / 1e6,
    forwardMs: times.forward! / 1e6,
    idleDispatchMs: { ownStreams: times.idle! / 1e6, oneStream: times.idleOneStream! / 1e6 },
    combine: stage(times.combine!),
    combineUnweighted: stage(times.combineUnweighted!),
    weightGradientMs: times.gradient! / 1e6,
    scaledMs: times.scaled! / 1e6,
    ...(unfused === undefined
      ? {}
      : { unfused: { dispatchMs: times.unfusedDispatch! / 1e6, combineMs: times.unfusedCombine! / 1e6 } }),
    endToEnd: {
      idsToHostMs: median(stages.ids) / 1e6,
      planMs: median(stages.plan) / 1e6,
      uploadCallMs: median(stages.upload) / 1e6,
      dispatchCallMs: median(stages.call) / 1e6,
      deviceMs: median(device) / 1e6,
      totalMs: median(total) / 1e6,
      reusedStepMs: median(reused) / 1e6,
    },
  };
  for (const buffer of [
    ...from,
    ...received,
    ...combined,
    ...weights,
    ...gradient,
    ...idBuffers,
    copyFrom,
    copyTo,
  ])
    cuda.free(buffer);
  return result;
}

function uniform(ranks: number, tokens: number, topk: number, experts: number): RoutingTable[] {
  return Array.from({ length: ranks }, (_, rank) => uniformTable(tokens, topk, experts, rank + 1));
}

/** The bench of `fusco bench cuda`. Throws E_BACKEND where there is no GPU. */
export async function benchCuda(options: CudaBenchOptions): Promise<CudaBench> {
  const { devices, reason } = cudaDevices();
  if (devices.length === 0) throw new FuscoError('E_BACKEND', `there is no GPU to bench: ${reason}`);
  const { ranks, topk, experts } = options;
  const recordings = await findRecordings(options.routing);
  const workloads = [
    await benchWorkload('uniform, 4096 tokens a rank', uniform(ranks, 4096, topk, experts), options),
    await benchWorkload('uniform, 512 tokens a rank', uniform(ranks, 512, topk, experts), options),
  ];
  const [large, small] = workloads;
  const verdicts = [
    atLeast('dispatch, 4096 tokens a rank: share of the copy rate', large!.dispatch.share, 0.91),
    atLeast('combine, 4096 tokens a rank: share of the copy rate', large!.combine.share, 0.99),
    atMost('dispatch, 512 tokens a rank: ms', small!.dispatch.ms, 0.15),
    atMost('combine, 512 tokens a rank: ms', small!.combine.ms, 0.135),
    atLeast('dispatch: times faster than unfused', large!.unfused!.dispatchMs / large!.dispatch.ms, 4.5),
  ];
  const rowWork = await benchCudaRows(options.hidden, options.rounds);
  for (const { name, tokens, share } of rowWork) {
    if (!name.includes('fp8') || tokens < 32_768) continue;
    verdicts.push(atLeast(`${name}, ${tokens} rows: share of the copy rate`, share, 0.9));
  }
  for (const { name, read } of recordings) {
    const recorded = await benchWorkload(name, await read(), options);
    workloads.push(recorded);
    const ratio = recorded.dispatch.rate / large!.dispatch.rate;
    verdicts.push(atLeast(`${recorded.name}: dispatch rate against uniform`, ratio, 0.95));
    verdicts.push(
      atLeast(
        `${recorded.name}: combine rate against uniform`,
        recorded.combine.rate / large!.combine.rate,
        0.95,
      ),
    );
  }
  return { device: devices[0]!, options, workloads, rowWork, verdicts };
}
