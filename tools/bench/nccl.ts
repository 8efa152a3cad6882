// What an exchange between processes costs: every rank is a process that runs this, under a launcher. Fused against
// the unfused pipeline over the same communicator, flat against hierarchical plans, and rows straight into the memory
// of ranks of the same host. A round's time is that of its slowest rank; medians over rounds.

import { type Cuda, cudaDevices, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import { ncclLibrary } from '../../executor/backends/nccl/backend.ts';
import type { CombineCall, DispatchCall, WireReport } from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group } from '../../executor/group.ts';
import { connect, type Session } from '../../executor/rendezvous/session.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { Strategy } from '../../planner/spec.ts';
import { uniformTable } from './ids.ts';
import { atLeast, atMost, median, type Verdict } from './measure.ts';

export interface NcclBenchOptions {
  /** Tokens a rank. */
  readonly tokens: number;
  /** bf16 elements of a row, a multiple of 8. */
  readonly hidden: number;
  readonly topk: number;
  readonly experts: number;
  readonly rounds: number;
  /** Several ranks on one GPU: each is another host to NCCL, which refuses them otherwise. */
  readonly oneGpu: boolean;
  /** Ranks a host of the hierarchical plan over pretended hosts; 1 leaves it out. */
  readonly ranksPerHost: number;
}

/** One way to move the rows. */
export interface NcclCase {
  readonly name: string;
  readonly strategy: Strategy;
  readonly ranksPerNode: number;
  /** Whether ranks of one host reach each other's memory. */
  readonly direct: boolean;
  readonly dispatchMs: number;
  readonly combineMs: number;
  /** Bytes that leave the busiest rank in one dispatch, through NCCL. */
  readonly wireMiB: number;
  /** Bytes that the busiest rank writes into memory of its host, its own included, in one dispatch. */
  readonly directMiB: number;
  /** Bytes for other ranks over the time of a dispatch, a rank. */
  readonly busGBs: { readonly dispatch: number; readonly combine: number };
  /** Share of the packing time during which the wire was busy; undefined where nothing is packed. */
  readonly packingHidden?: { readonly dispatch: number; readonly combine?: number };
  readonly bufferMiB: { readonly tables: number; readonly dispatch: number; readonly combine: number };
}

export interface NcclBench {
  readonly nccl: string;
  readonly device: string;
  readonly devices: number;
  readonly ranks: number;
  readonly options: NcclBenchOptions;
  readonly cases: readonly NcclCase[];
  /** The unfused pipeline over the flat wire case's communicator. */
  readonly unfused: { readonly dispatchMs: number; readonly combineMs: number };
  readonly verdicts: readonly Verdict[];
}

const MIB = 2 ** 20;

/** Device buffers and tables of one rank, for every case alike. */
interface Rank {
  readonly session: Session;
  readonly cuda: Cuda;
  readonly options: NcclBenchOptions;
}

interface Setup {
  readonly group: Group;
  readonly exchange: Exchange;
  readonly dispatch: DispatchCall;
  readonly combine: CombineCall;
  readonly buffers: DeviceBuffer[];
}

/** Medians over rounds of the slowest rank's time. */
async function slowest(session: Session, times: readonly number[]): Promise<number> {
  const all = await session.allGather(Buffer.from(Float64Array.from(times).buffer));
  const perRank = all.map((bytes) => new Float64Array(new Uint8Array(bytes).buffer));
  return median(times.map((_, round) => Math.max(...perRank.map((rank) => rank[round]!))));
}

async function largest(session: Session, value: number): Promise<number> {
  const all = await session.allGather(Buffer.from(Float64Array.of(value).buffer));
  return Math.max(...all.map((bytes) => new Float64Array(new Uint8Array(bytes).buffer)[0]!));
}

async function prepare(
  { session, cuda, options }: Rank,
  strategy: Strategy,
  ranksPerNode: number,
  where: { directMemory: boolean; host?: string },
): Promise<Setup> {
  const { tokens, topk, experts, hidden } = options;
  const group = await createGroup({
    backend: 'nccl',
    nccl: { session, stats: true, log: () => {}, ...where },
    cuda,
  });
  const table = uniformTable(tokens, topk, experts, session.rank + 1);
  const plan = await group.planLocal([table], { experts, hidden, strategy, ranksPerNode });
  const exchange = await group.prepare(plan);
  const { rowBytes } = plan.spec;
  const rows = exchange.recvRows[0]!;
  const buffers = [tokens * rowBytes, rows * rowBytes, tokens * rowBytes, tokens * topk * 4].map((bytes) =>
    cuda.alloc(0, Math.max(bytes, 1)),
  );
  const [from, received, combined, weights] = buffers as [
    DeviceBuffer,
    DeviceBuffer,
    DeviceBuffer,
    DeviceBuffer,
  ];
  const ones = new Uint16Array(tokens * hidden).fill(0x3f80);
  const values = new Float32Array(tokens * topk).fill(1 / topk);
  cuda.copy(0, from, ones, ones.byteLength);
  cuda.copy(0, weights, values, values.byteLength);
  cuda.synchronize();
  return {
    group,
    exchange,
    buffers,
    dispatch: { payloads: [{ rowBytes, dtype: 'bf16', from: [from], to: [received] }] },
    combine: { dtype: 'bf16', rowBytes, from: [received], to: [combined], weights: [weights] },
  };
}

async function release({ cuda }: Rank, { group, buffers }: Setup): Promise<void> {
  await group.close();
  for (const buffer of buffers) cuda.free(buffer);
}

const hiddenShare = ({ packNanoseconds: all = 0, packHiddenNanoseconds: hidden = 0 }: WireReport) =>
  all > 0 ? hidden / all : undefined;

/** Times of every round after the first, which connects peers, and the last round's reports. */
async function rounds(rank: Rank, { exchange, dispatch, combine }: Setup) {
  const times = { dispatch: [] as number[], combine: [] as number[] };
  const hidden = { dispatch: [] as number[], combine: [] as number[] };
  let wire: WireReport | undefined;
  for (let round = -2; round < rank.options.rounds; round++) {
    await rank.session.barrier();
    const out = await exchange.dispatch(dispatch);
    await rank.session.barrier();
    const home = await exchange.combine(combine);
    if (round < 0) continue;
    wire = out.wire!;
    times.dispatch.push(out.nanoseconds);
    times.combine.push(home.nanoseconds);
    const shares = [hiddenShare(out.wire!), hiddenShare(home.wire!)];
    if (shares[0] !== undefined) hidden.dispatch.push(shares[0]);
    if (shares[1] !== undefined) hidden.combine.push(shares[1]);
  }
  return { times, hidden, wire: wire! };
}

async function measureCase(
  rank: Rank,
  name: string,
  strategy: Strategy,
  ranksPerNode: number,
  where: { directMemory: boolean; host?: string },
): Promise<NcclCase> {
  const { session } = rank;
  const setup = await prepare(rank, strategy, ranksPerNode, where);
  const { times, hidden, wire } = await rounds(rank, setup);
  const { exchange } = setup;
  const { rowBytes } = exchange.plan.spec;
  const shard = exchange.plan.shards[session.rank]!;
  const own = shard.sendRows.subarray(shard.firstInstance, shard.firstInstance + shard.localInstances);
  const foreign = (shard.kept - own.reduce((sum, rows) => sum + rows, 0)) * rowBytes;
  const bytes = exchange.bufferBytes(rowBytes);
  const dispatchMs = (await slowest(session, times.dispatch)) / 1e6;
  const combineMs = (await slowest(session, times.combine)) / 1e6;
  const result: NcclCase = {
    name,
    strategy,
    ranksPerNode,
    direct: where.directMemory,
    dispatchMs,
    combineMs,
    wireMiB: (await largest(session, wire.sentBytes)) / MIB,
    directMiB: (await largest(session, wire.directBytes)) / MIB,
    busGBs: { dispatch: foreign / dispatchMs / 1e6, combine: foreign / combineMs / 1e6 },
    ...(hidden.dispatch.length === 0
      ? {}
      : {
          packingHidden: {
            dispatch: median(hidden.dispatch),
            ...(hidden.combine.length === 0 ? {} : { combine: median(hidden.combine) }),
          },
        }),
    bufferMiB: { tables: bytes.tables / MIB, dispatch: bytes.dispatch / MIB, combine: bytes.combine / MIB },
  };
  await release(rank, setup);
  return result;
}

/** Fused and unfused in turn, over one communicator, so that the ratio is of the same minute. */
async function measureUnfused(rank: Rank) {
  const { session } = rank;
  const setup = await prepare(rank, 'flat', 1, { directMemory: false });
  const { exchange, dispatch, combine } = setup;
  const { rowBytes } = exchange.plan.spec;
  const times = { fused: [[], []] as number[][], unfused: [[], []] as number[][] };
  for (let round = -2; round < rank.options.rounds; round++) {
    const taken = [
      [times.fused[0]!, async () => (await exchange.dispatch(dispatch)).nanoseconds],
      [times.unfused[0]!, () => exchange.unfused('dispatch', dispatch, rowBytes)],
      [times.fused[1]!, async () => (await exchange.combine(combine)).nanoseconds],
      [times.unfused[1]!, () => exchange.unfused('combine', combine, rowBytes)],
    ] as const;
    for (const [list, run] of taken) {
      await session.barrier();
      const nanoseconds = await run();
      if (round >= 0) list.push(nanoseconds);
    }
  }
  const ms = async (list: number[]) => (await slowest(session, list)) / 1e6;
  const result = {
    fused: { dispatchMs: await ms(times.fused[0]!), combineMs: await ms(times.fused[1]!) },
    unfused: { dispatchMs: await ms(times.unfused[0]!), combineMs: await ms(times.unfused[1]!) },
  };
  await release(rank, setup);
  return result;
}

/** The bench of `fusco bench nccl`; every rank of the launcher runs it, and rank 0 gets the result. */
export async function benchNccl(options: NcclBenchOptions): Promise<NcclBench | undefined> {
  const { devices, reason } = cudaDevices();
  if (devices.length === 0) throw new FuscoError('E_BACKEND', `there is no GPU to bench: ${reason}`);
  const session = await connect();
  if (options.oneGpu) process.env.NCCL_HOSTID = `rank ${session.rank}`;
  const device = session.localRank % devices.length;
  using cuda = openCuda(1, [device]);
  const rank: Rank = { session, cuda, options };
  const { fused, unfused } = await measureUnfused(rank);
  const wire = { directMemory: false };
  const cases = [
    await measureCase(rank, 'flat, all through NCCL', 'flat', 1, wire),
    await measureCase(rank, 'once a rank, all through NCCL', 'hier', 1, wire),
    await measureCase(rank, 'flat, direct memory', 'flat', 1, { directMemory: true }),
  ];
  const { ranksPerHost } = options;
  if (ranksPerHost > 1 && session.worldSize > ranksPerHost) {
    const host = `pretended ${Math.floor(session.rank / ranksPerHost)}`;
    const name = `once a node of ${ranksPerHost}, NCCL between nodes`;
    cases.push(await measureCase(rank, name, 'hier', ranksPerHost, { directMemory: true, host }));
  }
  await session.barrier();
  const { rank: own, worldSize } = session;
  await session.close();
  if (own !== 0) return undefined;
  return {
    nccl: ncclLibrary().version!,
    device: devices[device]!.name,
    devices: devices.length,
    ranks: worldSize,
    options,
    cases,
    unfused,
    verdicts: [
      atMost('dispatch through NCCL: share of the unfused time', fused.dispatchMs / unfused.dispatchMs, 1),
      atMost('combine through NCCL: share of the unfused time', fused.combineMs / unfused.combineMs, 1),
      atLeast('packing hidden behind the wire', cases[0]!.packingHidden?.dispatch ?? 0, 0.5),
    ],
  };
}
