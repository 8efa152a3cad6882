// The time of exchanges between processes. Every rank is a process that runs this program under a launcher. Fused against
// the unfused pipeline over the same communicator, flat against hierarchical plans, and rows straight into the memory of
// ranks of the same machine. A round's time is that of its slowest rank; medians over rounds.

import { type Cuda, openCuda } from '../../executor/backends/cuda/context.ts';
import { ncclLibrary } from '../../executor/backends/nccl/backend.ts';
import type { CombineCall, DispatchCall, ExchangeReport, WireReport } from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import { type NativeNcclUnfused, ncclCall, requireBenchAddon } from '../../executor/internal.ts';
import { connect, type Session } from '../../executor/rendezvous/session.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { Strategy } from '../../planner/spec.ts';
import { measureCeilings } from './copies.ts';
import {
  DeviceClock,
  DeviceMemory,
  exchangeCalls,
  fp8Dispatch,
  fp8RowBytes,
  requireDevices,
} from './device.ts';
import {
  type Call,
  type CaseTimes,
  type Ceilings,
  CHAIN_CALLS,
  type ChainClock,
  caseCandidates,
  caseTimes,
  type MovedRows,
  movedRows,
  stageFigures,
} from './exchangeFigures.ts';
import { type BenchWorkload, workloadTable, workloadTables } from './ids.ts';
import { atLeast, atMost, median, timedAsync } from './measure.ts';
import { measureNcclHost } from './ncclHost.ts';
import { measurePlans } from './ncclPlanning.ts';
import { type ExchangeOptions, measure } from './runner.ts';

export interface NcclBenchOptions extends ExchangeOptions {
  /** Tokens per rank. */
  readonly tokens: number;
  readonly workload: BenchWorkload;
  /** Most SMs of a GPU; 0: the defaults of each exchange. */
  readonly sms: number;
  /** Several ranks on one GPU: each appears to NCCL as a different machine; otherwise NCCL refuses them. */
  readonly oneGpu: boolean;
  /** Ranks per machine of the hierarchical plan over simulated machines; 1 omits it. */
  readonly ranksPerHost: number;
}

export type NcclBench = NonNullable<Awaited<ReturnType<typeof benchNccl>>>;

const MIB = 2 ** 20;
/** The first round connects peers. */
const WARM_UPS = 2;
const CEILING_ROUNDS = 7;
/** A round of chains is 84 calls. */
const MOST_CHAIN_ROUNDS = 5;
/** The measurements of rank 0 before the others begin take longer than the deadline of a call. */
const START_DEADLINE_MS = 600_000;

/** This process's rank. */
interface Rank {
  readonly session: Session;
  readonly cuda: Cuda;
  readonly options: NcclBenchOptions;
  /** This rank's part of the workload. */
  readonly table: RoutingTable;
  /** Data that only rank 0, which reports, has. */
  readonly known: Known | undefined;
}

interface Known {
  readonly ceilings: Ceilings;
  /** Rows that the busiest rank moves under a plan of the whole workload. */
  readonly moved: (strategy: Strategy, ranksPerNode: number) => MovedRows;
}

interface Where {
  /** Whether ranks of one machine reach each other's memory. */
  readonly directMemory: boolean;
  readonly host?: string;
}

/** For each of the numbers, that of all ranks. */
async function gather(session: Session, values: readonly number[]): Promise<number[][]> {
  const all = await session.allGather(Buffer.from(Float64Array.from(values).buffer));
  const perRank = all.map((bytes) => new Float64Array(new Uint8Array(bytes).buffer));
  return values.map((_, i) => perRank.map((rank) => rank[i]!));
}

const slowest = async (session: Session, times: readonly number[]) =>
  median((await gather(session, times)).map((ranks) => Math.max(...ranks)));

/** A separate group, one plan and its buffers. */
async function prepare(
  rank: Rank,
  memory: DeviceMemory,
  strategy: Strategy,
  ranksPerNode: number,
  where: Where,
) {
  const { tokens, topk } = rank.options;
  const { group, exchange } = await open(rank, strategy, ranksPerNode, { ...where, stats: true });
  const sizes = [{ tokens, recvRows: exchange.recvRows[0]!, entries: tokens * topk }];
  const calls = exchangeCalls(rank.cuda, memory, sizes, exchange.plan.spec.rowBytes);
  return { group, exchange, sizes, ...calls };
}

async function open(
  { session, cuda, options, table }: Rank,
  strategy: Strategy,
  ranksPerNode: number,
  where: Where & { readonly stats: boolean },
) {
  const { experts, hidden } = options;
  const nccl = { session, log: () => {}, ...where };
  const group = await createGroup({ backend: 'nccl', nccl, cuda });
  const plan = await group.planLocal([table], { experts, hidden, strategy, ranksPerNode });
  return { group, exchange: await group.prepare(plan) };
}

/** Measures the ceilings and draws the workload of all ranks, of which each other process has a part only. */
async function knownOf(devices: number, ranks: number, options: NcclBenchOptions): Promise<Known> {
  const { workload, tokens, topk, experts, hidden, oneGpu } = options;
  const planner = await loadPlanner();
  const tables = workloadTables(workload, { ranks, tokens, topk, experts });
  return {
    ceilings: await measureCeilings(devices, !oneGpu, CEILING_ROUNDS),
    moved: (strategy, ranksPerNode) =>
      movedRows(planner.planAll(tables, { ranks, experts, hidden, strategy, ranksPerNode })),
  };
}

/** Calls one after the other, from the moment at which all ranks are there until the last one has returned. */
const chainClock =
  (session: Session): ChainClock =>
  (calls, times) =>
    together(session, () =>
      timedAsync(async () => {
        for (let i = 0; i < times; i++) for (const call of calls) await call();
      }),
    ).run;

/** All ranks enter the exchange together. */
const together = (session: Session, run: () => Promise<number>) => ({
  run: async () => {
    await session.barrier();
    return run();
  },
});

function roundsOf({ session, options }: Rank) {
  const summarize = (times: readonly number[]) => slowest(session, times);
  return { rounds: options.rounds, warmUps: WARM_UPS, summarize };
}

/** Median share of the packing time during which the wire was busy; undefined if nothing was packed. */
function packingHidden(wires: readonly WireReport[]): number | undefined {
  const shares = wires.flatMap(({ packNanoseconds: all = 0, packHiddenNanoseconds: hidden = 0 }) =>
    all > 0 ? [hidden / all] : [],
  );
  return shares.length > 0 ? median(shares) : undefined;
}

async function measureCase(rank: Rank, name: string, strategy: Strategy, ranksPerNode: number, where: Where) {
  const { session, options } = rank;
  using memory = new DeviceMemory(rank.cuda);
  const prepared = await prepare(rank, memory, strategy, ranksPerNode, where);
  const { group, exchange, dispatch, combine, sizes } = prepared;
  const wires = { dispatch: [] as WireReport[], combine: [] as WireReport[] };
  using clock = new DeviceClock(rank.cuda);
  const onStream = clock.between(() => session.barrier());
  const enqueues = (await exchange.dispatch(dispatch)).enqueued === true;
  const reported = (stage: keyof typeof wires, run: () => Promise<ExchangeReport>) => {
    const noted = async () => {
      const { nanoseconds, wire } = await run();
      wires[stage].push(wire!);
      return nanoseconds;
    };
    return enqueues ? onStream([noted], 1) : together(session, noted);
  };
  const rows = await measure(
    {
      dispatch: reported('dispatch', () => exchange.dispatch(dispatch)),
      combine: reported('combine', () => exchange.combine(combine)),
    },
    roundsOf(rank),
  );
  const { rowBytes } = exchange.plan.spec;
  const shard = exchange.plan.shards[session.rank]!;
  const local = shard.sendRows.subarray(shard.firstInstance, shard.firstInstance + shard.localInstances);
  const foreign = (shard.kept - local.reduce((sum, count) => sum + count, 0)) * rowBytes;
  const { sentBytes, directBytes } = wires.dispatch.at(-1)!;
  const [sent, direct] = await gather(session, [sentBytes, directBytes]);
  const bytes = exchange.bufferBytes(rowBytes);
  await group.close();
  const fp8 = fp8Dispatch(memory, sizes, options.hidden);
  // Between processes that take turns on one GPU, such figures are meaningless and take minutes.
  const figures = options.oneGpu
    ? undefined
    : await measureChains(rank, strategy, ranksPerNode, where, { dispatch, combine, fp8 });
  const packed = (stage: keyof typeof wires) => packingHidden(wires[stage].slice(-options.rounds));
  const hidden = packed('dispatch');
  return {
    name,
    strategy,
    ranksPerNode,
    direct: where.directMemory,
    dispatchMs: rows.dispatch.ms,
    combineMs: rows.combine.ms,
    /** Comparable figures; not on one GPU. */
    ...figures,
    /** Bytes that leave the busiest rank in one dispatch, through NCCL. */
    wireMiB: Math.max(...sent!) / MIB,
    /**
     * Bytes that the busiest rank writes into memory of its machine, including that of the local rank, in one dispatch.
     */
    directMiB: Math.max(...direct!) / MIB,
    /** Bytes for other ranks over the time of a dispatch, a rank. */
    busGBs: { dispatch: foreign / rows.dispatch.ns, combine: foreign / rows.combine.ns },
    packingHidden: hidden === undefined ? undefined : { dispatch: hidden, combine: packed('combine') },
    bufferMiB: { tables: bytes.tables / MIB, dispatch: bytes.dispatch / MIB, combine: bytes.combine / MIB },
  };
}

interface ChainCalls {
  readonly dispatch: DispatchCall;
  readonly combine: CombineCall;
  /** A dispatch of e4m3 rows and their scales. */
  readonly fp8: DispatchCall;
}

/** Single calls, calls back to back, and pairs, in a group whose reports have no details, which cost messages. */
async function measureChains(
  rank: Rank,
  strategy: Strategy,
  ranksPerNode: number,
  where: Where,
  { dispatch, combine, fp8 }: ChainCalls,
) {
  const { known, options, session } = rank;
  const { group, exchange } = await open(rank, strategy, ranksPerNode, { ...where, stats: false });
  using deviceClock = new DeviceClock(rank.cuda);
  const enqueues = (await exchange.dispatch(dispatch)).enqueued === true;
  const clock = enqueues ? deviceClock.between(() => session.barrier()) : chainClock(session);
  const chainRounds = { ...roundsOf(rank), rounds: Math.min(options.rounds, MOST_CHAIN_ROUNDS) };
  const timesOf = async (call: DispatchCall) => {
    const calls = { dispatch: () => exchange.dispatch(call), combine: () => exchange.combine(combine) };
    return caseTimes(await measure(caseCandidates(calls, clock), chainRounds));
  };
  const times = { bf16: await timesOf(dispatch), fp8: await timesOf(fp8) };
  const replayed = enqueues
    ? await measureReplays(rank, clock, chainRounds, {
        dispatch: () => exchange.dispatch(dispatch),
        combine: () => exchange.combine(combine),
      })
    : undefined;
  const { rowBytes } = exchange.plan.spec;
  await group.close();
  if (known === undefined) return undefined;
  const rows = known.moved(strategy, ranksPerNode);
  const sms = options.sms === 0 ? undefined : options.sms;
  const figures = ({ dispatch, combine, pairNs }: CaseTimes, dispatchBytes: number) => ({
    dispatch: stageFigures(dispatch, rows, dispatchBytes, known.ceilings, sms),
    combine: stageFigures(combine, rows, rowBytes, known.ceilings, sms),
    pairMs: pairNs / 1e6,
  });
  const { codes, scales } = fp8RowBytes(options.hidden);
  return {
    bf16: figures(times.bf16, rowBytes),
    /** Milliseconds of a call in a captured graph of CHAIN_CALLS calls; undefined if calls cannot be captured. */
    replayed,
    /** e4m3 rows and their scales in the dispatch; combine in bf16. */
    fp8: figures(times.fp8, codes + scales),
  };
}

/** Milliseconds of one call in the replay of a graph that has captured CHAIN_CALLS of them. */
async function measureReplays(
  { cuda }: Rank,
  clock: ChainClock,
  rounds: ReturnType<typeof roundsOf>,
  calls: Readonly<Record<'dispatch' | 'combine', Call>>,
) {
  using dispatch = await captured(cuda, async () => calls.dispatch());
  using combine = await captured(cuda, async () => calls.combine());
  const times = await measure(
    {
      dispatch: clock([() => dispatch.launch()], 1),
      combine: clock([() => combine.launch()], 1),
    },
    rounds,
  );
  return { dispatchMs: times.dispatch.ms / CHAIN_CALLS, combineMs: times.combine.ms / CHAIN_CALLS };
}

/**
 * Planning on the device between processes: a plan alone, and from ids to rows in place along a plan that is given and
 * that is made on the device, in replayed graphs; and on the host, from gathered facts, until all rows are there.
 */
async function measurePlanning(rank: Rank) {
  const { session, cuda, options, table } = rank;
  const { experts, hidden, tokens, topk } = options;
  using memory = new DeviceMemory(cuda);
  const nccl = { session, log: () => {}, directMemory: true };
  const group = await createGroup({ backend: 'nccl', nccl, cuda });
  const planOptions = { experts, hidden, strategy: 'hier', ranksPerNode: 1 } as const;
  const given = await group.prepare(await group.planLocal([table], planOptions));
  // Routers give 64-bit ids.
  const wide = { ...table, ids: BigInt64Array.from(table.ids as Int16Array, BigInt) };
  const ids = memory.alloc(0, wide.ids.byteLength);
  cuda.copy(0, ids, wide.ids, wide.ids.byteLength);
  const [most] = await gather(session, [given.recvRows[0]!]);
  const maxRecvRows = Math.max(...most!);
  const rankSizes = [{ tokens, recvRows: maxRecvRows, entries: tokens * topk }];
  const { dispatch } = exchangeCalls(cuda, memory, rankSizes, given.plan.spec.rowBytes);
  const routing = {
    ids: [ids],
    idDtype: 'i64',
    tokens: [tokens],
    topk,
    maxTokens: tokens,
    maxRecvRows,
  } as const;
  const call = { ...planOptions, ...routing };
  const plan = async () => (await group.planOnDevice(call)).close();
  const live = async () => {
    const exchange = await group.planOnDevice(call);
    await exchange.dispatch(dispatch);
    exchange.close();
  };
  const given1 = () => given.dispatch(dispatch);
  await live();
  await given1();
  using deviceClock = new DeviceClock(cuda);
  const clock = deviceClock.between(() => session.barrier());
  using planGraph = await captured(cuda, plan);
  using liveGraph = await captured(cuda, live);
  using givenGraph = await captured(cuda, given1);
  const replayed = (graph: { launch(): void }) => clock([() => Promise.resolve(graph.launch())], 1);
  const rows = await measure(
    {
      plan: replayed(planGraph),
      given: replayed(givenGraph),
      live: replayed(liveGraph),
      host: together(session, () =>
        timedAsync(async () => {
          cuda.copy(0, wide.ids, ids, wide.ids.byteLength);
          cuda.synchronize();
          using exchange = await group.prepare(await group.planLocal([wide], planOptions));
          await exchange.dispatch(dispatch);
          cuda.synchronize();
        }),
      ),
    },
    roundsOf(rank),
  );
  given.close();
  const sizes = await measurePlans({ group, cuda, rank: session.rank }, options, clock, roundsOf(rank));
  await group.close();
  return {
    /** Of plans of several sizes. */
    sizes,
    planMs: rows.plan.ms / CHAIN_CALLS,
    givenMs: rows.given.ms / CHAIN_CALLS,
    deviceMs: rows.live.ms / CHAIN_CALLS,
    hostMs: rows.host.ms,
  };
}

/** A graph of CHAIN_CALLS calls. */
const captured = (cuda: Cuda, call: () => Promise<unknown>) =>
  cuda.captureAsync(async () => {
    for (let i = 0; i < CHAIN_CALLS; i++) await call();
  });

/** Fused and unfused in turn, over one communicator, so that both are measured under the same conditions. */
async function measureUnfused(rank: Rank) {
  const { session } = rank;
  using memory = new DeviceMemory(rank.cuda);
  const wire = { directMemory: false };
  const { group, exchange, dispatch, combine } = await prepare(rank, memory, 'flat', 1, wire);
  const { rowBytes } = exchange.plan.spec;
  const { NcclUnfused } = requireBenchAddon();
  let pipeline: NativeNcclUnfused | undefined;
  const unfused = (kind: 'dispatch' | 'combine') =>
    together(session, async () => {
      const { nanoseconds } = await ncclCall(exchange, `unfused ${kind}`, (plan, call, digest) => {
        pipeline ??= new NcclUnfused(plan, rowBytes);
        return kind === 'dispatch'
          ? pipeline.dispatch(call, digest, dispatch)
          : pipeline.combine(call, digest, combine);
      });
      return nanoseconds;
    });
  const rows = await measure(
    {
      dispatch: together(session, async () => (await exchange.dispatch(dispatch)).nanoseconds),
      unfusedDispatch: unfused('dispatch'),
      combine: together(session, async () => (await exchange.combine(combine)).nanoseconds),
      unfusedCombine: unfused('combine'),
    },
    roundsOf(rank),
  );
  await pipeline?.close();
  await group.close();
  return {
    fused: { dispatchMs: rows.dispatch.ms, combineMs: rows.combine.ms },
    unfused: { dispatchMs: rows.unfusedDispatch.ms, combineMs: rows.unfusedCombine.ms },
  };
}

/** The bench of `fusco bench nccl`; every rank of the launcher runs it, and rank 0 gets the result. */
export async function benchNccl(options: NcclBenchOptions) {
  const devices = requireDevices(1);
  const session = await connect();
  if (options.oneGpu) process.env.NCCL_HOSTID = `rank ${session.rank}`;
  const device = session.localRank % devices.length;
  const { tokens, topk, experts, workload } = options;
  const sizes = { ranks: session.worldSize, tokens, topk, experts };
  const table = workloadTable(workload, sizes, session.rank);
  // Rank 0 copies between the devices of all ranks, which wait.
  const known = session.rank === 0 ? await knownOf(devices.length, session.worldSize, options) : undefined;
  await session.barrier(START_DEADLINE_MS);
  using cuda = openCuda(1, [device]);
  cuda.limitSms(options.sms);
  const rank: Rank = { session, cuda, options, table, known };
  const { fused, unfused } = await measureUnfused(rank);
  const wire = { directMemory: false };
  const cases = [
    await measureCase(rank, 'flat, all through NCCL', 'flat', 1, wire),
    await measureCase(rank, 'once a rank, all through NCCL', 'hier', 1, wire),
    await measureCase(rank, 'flat, direct memory', 'flat', 1, { directMemory: true }),
    await measureCase(rank, 'once a rank, direct memory', 'hier', 1, { directMemory: true }),
  ];
  const { ranksPerHost } = options;
  if (ranksPerHost > 1 && session.worldSize > ranksPerHost) {
    const direct = `nodes of ${ranksPerHost}, direct memory`;
    cases.push(await measureCase(rank, direct, 'hier', ranksPerHost, { directMemory: true }));
    const host = `pretended ${Math.floor(session.rank / ranksPerHost)}`;
    const name = `once a node of ${ranksPerHost}, NCCL between nodes`;
    cases.push(await measureCase(rank, name, 'hier', ranksPerHost, { directMemory: true, host }));
  }
  const planning = await measurePlanning(rank);
  const host = await measureNcclHost(rank, roundsOf(rank));
  await session.barrier();
  const { rank: localRank, worldSize } = session;
  await session.close();
  if (localRank !== 0 || known === undefined) return undefined;
  const share = (stage: 'dispatch' | 'combine') => {
    const ratio = fused[`${stage}Ms`] / unfused[`${stage}Ms`];
    return atMost(`${stage} through NCCL: share of the unfused time`, ratio, 1);
  };
  const hidden = cases[0]!.packingHidden?.dispatch ?? 0;
  return {
    nccl: ncclLibrary().version!,
    device: devices[device]!.name,
    devices: devices.length,
    ranks: worldSize,
    options,
    /** GB/s: a copy to another GPU, and bytes read and written by a copy within one. */
    peerCopyGBs: known.ceilings.linkGBs,
    localCopyGBs: known.ceilings.memoryGBs,
    cases,
    /** Milliseconds: a plan on the device; from ids to rows in place along a given plan, one made there, one of the host. */
    planning,
    /** Milliseconds of the parts of a step that is planned on the host, and of recording it. */
    host,
    /** The unfused pipeline over the flat wire case's communicator. */
    unfused,
    verdicts: [
      ...(options.oneGpu
        ? []
        : [
            atMost('planning on the device, facts over peer memory: ms', planning.planMs, 0.08),
            ...planning.sizes
              .filter(({ tokens }) => tokens === 128)
              .map(({ name, planMs }) =>
                atMost(`planning on the device, 128 tokens, ${name}: ms`, planMs, 0.025),
              ),
          ]),
      share('dispatch'),
      share('combine'),
      atLeast('packing hidden behind the wire', hidden, 0.5),
    ],
  };
}
