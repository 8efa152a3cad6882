// The time of exchanges between the GPUs of one process with one rank each: rows straight to every slot, compared with
// rows once to each rank, which copies them to its other slots. Both are compared with the rate at which the GPUs copy to
// one another, and are measured with decreasing numbers of SMs. Times on the devices, with events around all ranks'
// launches.

import { openCuda } from '../../executor/backends/cuda/context.ts';
import type { ExchangeReport } from '../../executor/backends/types.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { joinTables } from '../readers/tables.ts';
import { COPY_BYTES, ceilingsOf, copyCandidates } from './copies.ts';
import { benchDevicePlanning } from './cudaPlanning.ts';
import {
  DeviceClock,
  DeviceMemory,
  exchangeCalls,
  fp8Dispatch,
  fp8RowBytes,
  requireDevices,
} from './device.ts';
import {
  type CaseCalls,
  type MovedRows,
  measureCases,
  movedRows,
  type StageFigures,
  stageFigures,
} from './exchangeFigures.ts';
import { type BenchWorkload, workloadTables } from './ids.ts';
import { atLeast, atMost } from './measure.ts';
import { findRecordings } from './recorded.ts';
import { type ExchangeOptions, measure, type Row } from './runner.ts';

export interface GpusBenchOptions extends ExchangeOptions {
  /** Tokens per GPU, one workload each. */
  readonly tokens: readonly number[];
  /** Routing of those workloads. */
  readonly workload: BenchWorkload;
  /** Most SMs of each GPU; 0: the defaults of each exchange. */
  readonly sms: number;
  /** SMs to try, of each GPU. */
  readonly multiprocessors: readonly number[];
  /** Folder of recorded routings; their ranks are distributed to the GPUs in contiguous blocks. */
  readonly routing?: string | undefined;
}

export type GpusBench = Awaited<ReturnType<typeof benchGpus>>;
export type GpusStage = GpusWorkload['combineGradient'];
export type GpusWorkload = GpusBench['workloads'][number];

/** Figures of one way to exchange. */
export interface GpusCase {
  readonly name: CaseName;
  readonly dispatch: StageFigures;
  readonly combine: StageFigures;
  /** Of one of ten chained pairs of dispatch and combine. */
  readonly pairMs: number;
}

/** The SMs that exchanges reported. */
class SmCounts {
  readonly #counts = new Map<string, number>();

  /** The call, whose report is kept. */
  of(name: string, call: () => ExchangeReport): () => void {
    return () => {
      const { sms } = call();
      if (sms !== undefined) this.#counts.set(name, sms);
    };
  }

  get(name: string): number | undefined {
    return this.#counts.get(name);
  }
}

/** The three ways to exchange that are measured. */
type CaseName = 'toSlots' | 'oncePerRank' | 'oncePerRankFp8';

/** Milliseconds; rates in GB/s of the bytes that leave the busiest GPU, and their share of the peer copy's rate. */
async function benchWorkload(
  name: string,
  tables: readonly RoutingTable[],
  options: GpusBenchOptions,
  multiprocessors: readonly number[],
) {
  const { hidden, experts, rounds, sms } = options;
  const ranks = tables.length;
  const planner = await loadPlanner();
  const plan = planner.planAll(tables, { ranks, experts, hidden });
  const perRankPlan = planner.planAll(tables, { ranks, experts, hidden, strategy: 'hier', ranksPerNode: 1 });
  using cuda = openCuda(ranks);
  cuda.limitSms(sms);
  using devicePlan = cuda.devicePlan(plan);
  using perRank = cuda.devicePlan(perRankPlan);
  using memory = new DeviceMemory(cuda);
  using clock = new DeviceClock(cuda, ranks);
  using copyClock = new DeviceClock(cuda);
  const { rowBytes } = plan.spec;
  const calls = exchangeCalls(cuda, memory, plan.shards, rowBytes);
  const fp8 = fp8Dispatch(memory, plan.shards, hidden);
  const used = new SmCounts();
  const cases: Record<CaseName, CaseCalls> = {
    toSlots: {
      dispatch: used.of('toSlots dispatch', () => devicePlan.dispatch(calls.dispatch, 'direct')),
      combine: used.of('toSlots combine', () => devicePlan.combine(calls.combine)),
    },
    oncePerRank: {
      dispatch: used.of('oncePerRank dispatch', () => perRank.dispatch(calls.dispatch, 'once')),
      combine: used.of('oncePerRank combine', () => perRank.combine(calls.combine)),
    },
    oncePerRankFp8: {
      dispatch: used.of('oncePerRankFp8 dispatch', () => perRank.dispatch(fp8, 'once')),
      combine: used.of('oncePerRankFp8 combine', () => perRank.combine(calls.combine)),
    },
  };
  const { from, received, weights } = calls;
  const to = received.map(({ rank, bytes }) => memory.alloc(rank, bytes));
  const weightsGradient = weights.map(({ rank, bytes }) => memory.alloc(rank, bytes));
  const gradient = { dtype: 'bf16', rowBytes, outputGradient: from, from: received } as const;
  const combineGradient = () => devicePlan.combineGradient({ ...gradient, weights, to, weightsGradient });
  const gradientApart = () => {
    devicePlan.dispatch({ payloads: [{ rowBytes, dtype: 'bf16', from, to }], scale: weights });
    devicePlan.weightGradient({ ...gradient, to: weightsGradient });
  };
  const copies = copyCandidates(cuda, memory, copyClock, COPY_BYTES);
  const { cases: times, others } = await measureCases(cases, clock.chained, { ...copies }, { rounds });
  const ceilings = ceilingsOf(others.peer, others.local);
  const rows = { flat: movedRows(plan), oncePerRank: movedRows(perRankPlan) };
  const { codes, scales } = fp8RowBytes(hidden);
  const caseFigures = (one: CaseName, moved: MovedRows, dispatchBytes: number): GpusCase => ({
    name: one,
    dispatch: stageFigures(times[one].dispatch, moved, dispatchBytes, ceilings, used.get(`${one} dispatch`)),
    combine: stageFigures(times[one].combine, moved, rowBytes, ceilings, used.get(`${one} combine`)),
    pairMs: times[one].pairNs / 1e6,
  });
  const stage = (one: CaseName, what: 'dispatch' | 'combine', moved: MovedRows) => {
    const { callNs } = times[one][what];
    const busGBs = (moved.link * rowBytes) / callNs;
    return { ms: callNs / 1e6, busGBs, share: busGBs / others.peer.rate };
  };
  const gradients = await measure(
    { combineGradient: clock.chained([combineGradient], 1), apart: clock.chained([gradientApart], 1) },
    { rounds },
  );
  const gradientStage = ({ ms }: Row, moved: number) => {
    const busGBs = (moved * rowBytes) / ms / 1e6;
    return { ms, busGBs, share: busGBs / others.peer.rate };
  };
  const figures = [
    caseFigures('toSlots', rows.flat, rowBytes),
    caseFigures('oncePerRank', rows.oncePerRank, rowBytes),
    caseFigures('oncePerRankFp8', rows.oncePerRank, codes + scales),
  ];
  const sweep = [];
  for (const count of multiprocessors) {
    cuda.limitSms(count);
    const { toSlots, oncePerRank } = cases;
    const swept = await measure(
      {
        dispatch: clock.chained([toSlots.dispatch], 1),
        combine: clock.chained([toSlots.combine], 1),
        oncePerRank: clock.chained([oncePerRank.dispatch], 1),
        sumPerRank: clock.chained([oncePerRank.combine], 1),
        gradient: clock.chained([combineGradient], 1),
      },
      { rounds: Math.min(rounds, 7) },
    );
    sweep.push({
      multiprocessors: count,
      dispatchMs: swept.dispatch.ms,
      combineMs: swept.combine.ms,
      oncePerRankMs: swept.oncePerRank.ms,
      sumPerRankMs: swept.sumPerRank.ms,
      gradientMs: swept.gradient.ms,
    });
  }
  return {
    name,
    /** Of the busiest GPU. */
    tokens: Math.max(...tables.map((table) => table.tokens)),
    /** Bytes for or from other GPUs in one dispatch, of the busiest GPU. */
    foreignBytes: { flat: rows.flat.link * rowBytes, oncePerRank: rows.oncePerRank.link * rowBytes },
    /** All GPUs copy to their neighbors at once: GB/s out of each. */
    peerCopyGBs: others.peer.rate,
    /** The same, each copying from its neighbor's memory. */
    peerReadGBs: others.read.rate,
    localCopyGBs: 2 * others.local.rate,
    dispatch: stage('toSlots', 'dispatch', rows.flat),
    combine: stage('toSlots', 'combine', rows.flat),
    /** A plan with one rank per node: each row once to each rank, which copies it to its other slots. */
    oncePerRank: stage('oncePerRank', 'dispatch', rows.oncePerRank),
    /** Its combine: one partial sum per token and rank crosses the links. */
    sumPerRank: stage('oncePerRank', 'combine', rows.oncePerRank),
    /** Both gradients of a combine: rows once to each rank, one number per entry back. */
    combineGradient: gradientStage(gradients.combineGradient, rows.oncePerRank.link),
    /** The same as a scaled dispatch and a weight gradient, straight to and from every slot. */
    gradientApart: gradientStage(gradients.apart, 2 * rows.flat.link),
    /** Straight to every slot; once per rank; and the latter with e4m3 rows and scales in the dispatch, combine in bf16. */
    cases: figures,
    /** Times with that many SMs of each GPU. */
    sweep,
  };
}

/** Merges the ranks of a recording into one per GPU, if they can be distributed evenly. */
function dealOut(tables: readonly RoutingTable[], gpus: number): RoutingTable[] | undefined {
  const each = tables.length / gpus;
  if (!Number.isInteger(each)) return undefined;
  return Array.from({ length: gpus }, (_, gpu) => joinTables(tables.slice(gpu * each, (gpu + 1) * each)));
}

/** The fewest SMs that still reach 95 % of the best. */
function fewestEnough<S extends 'dispatchMs' | 'combineMs' | 'oncePerRankMs' | 'sumPerRankMs' | 'gradientMs'>(
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
  const { topk, experts, multiprocessors, workload } = options;
  const recordings = await findRecordings(options.routing);
  const workloads = [];
  const largest = Math.max(...options.tokens);
  for (const tokens of options.tokens) {
    const tables = workloadTables(workload, { ranks: gpus, tokens, topk, experts });
    const swept = tokens === largest ? multiprocessors : [];
    workloads.push(await benchWorkload(`${workload}, ${tokens} tokens a GPU`, tables, options, swept));
  }
  const { sweep } = workloads.find((one) => one.sweep.length > 0)!;
  const planning = [];
  for (const tokens of [128, 512, 4096, 32_768]) {
    using cuda = openCuda(gpus);
    const tables = workloadTables(workload, { ranks: gpus, tokens, topk, experts });
    const { hidden, rounds } = options;
    const perRank: PlanOptions = { ranks: gpus, experts, hidden, strategy: 'hier', ranksPerNode: 1 };
    const name = 'once per rank';
    planning.push({ name, tokens, ...(await benchDevicePlanning(cuda, tables, perRank, rounds)) });
  }
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
    /** Planning on the devices, and from ids to rows in place. */
    planning,
    /** SMs, at the largest of the drawn workloads. */
    enough: {
      dispatch: fewestEnough(sweep, 'dispatchMs'),
      combine: fewestEnough(sweep, 'combineMs'),
      oncePerRank: fewestEnough(sweep, 'oncePerRankMs'),
      sumPerRank: fewestEnough(sweep, 'sumPerRankMs'),
      gradient: fewestEnough(sweep, 'gradientMs'),
    },
    verdicts: planning
      .map(({ tokens, rows }) => {
        const aim = tokens > 4096 ? 0.15 : 0.085;
        return atMost(
          `${tokens} tokens: ids to rows beyond a given plan, ms`,
          rows.deviceMs - rows.givenMs,
          aim,
        );
      })
      .concat(
        workloads.flatMap((one) => [
          atLeast(`dispatch, ${one.name}: share of the peer copy`, one.dispatch.share, 0.9),
          atLeast(`combine, ${one.name}: share of the peer copy`, one.combine.share, 0.9),
        ]),
      ),
  };
}
