// The nccl backend: this process is one rank. Rows for ranks of its host go straight into their memory, all others
// travel through NCCL; the session carries everything that is not rows.

import { randomBytes } from 'node:crypto';
import { FuscoError } from '../../../planner/errors.ts';
import { optionsDigest, planId } from '../../../planner/format/digest.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import { type Addon, findAddon } from '../../native/addon.ts';
import type { NativeNcclGroup, NativeNcclPlan, NativeNcclReport } from '../../native/addonNccl.ts';
import { attempt, translate } from '../../native/errors.ts';
import type { Session } from '../../rendezvous/session.ts';
import { type Cuda, cudaDevices, openCuda } from '../cuda/context.ts';
import { Staging } from '../cuda/deviceCopies.ts';
import { cudaRowWork } from '../cuda/rowWork.ts';
import type {
  Backend,
  BufferBytes,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  PreparedPlan,
  RowWork,
  WeightGradientCall,
} from '../types.ts';
import { StepOrder } from './callOrder.ts';
import { type HostChoice, hostIdentity, numberHosts } from './hosts.ts';
import { wireLine, wireReport } from './report.ts';
import { resolveSettings, type SettingOptions } from './settings.ts';

export interface NcclOptions extends HostChoice, SettingOptions {
  /** From `connect`; the group's ranks are the session's. */
  readonly session: Session;
  /** A context of one rank, whose buffers and stream the calls use; the caller closes it. Default: its own. */
  readonly cuda?: Cuda;
  /** Where the default context lives. Default: the local rank, modulo the number of devices. */
  readonly device?: number;
  /** Takes the lines of `stats`. Default: stderr. */
  readonly log?: (line: string) => void;
  /** Whether closing the backend closes the session. Default false. */
  readonly ownsSession?: boolean;
}

function findNccl(): Addon {
  const found = findAddon();
  if (found.addon === undefined) {
    throw new FuscoError('E_BACKEND', `the nccl backend is not there: ${found.reason}`);
  }
  const library = found.addon.ncclLibrary();
  if (library.reason !== undefined) throw new FuscoError('E_BACKEND', library.reason);
  return found.addon;
}

/** Whether NCCL can be opened here, and where it is. */
export function ncclLibrary(): {
  readonly path?: string;
  readonly version?: string;
  readonly reason?: string;
} {
  const found = findAddon();
  if (found.addon === undefined) return { reason: found.reason };
  const { path, version, reason } = found.addon.ncclLibrary();
  if (reason !== undefined) return { reason };
  const text = `${Math.floor(version / 10000)}.${Math.floor(version / 100) % 100}.${version % 100}`;
  return { path, version: text };
}

function defaultDevice({ localRank }: Session): number {
  const { devices, reason } = cudaDevices();
  if (devices.length === 0) throw new FuscoError('E_BACKEND', `the nccl backend needs a GPU: ${reason}`);
  return localRank % devices.length;
}

/** Bytes as text, for a digest. */
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** The error that opening a group ended with. */
async function openingError(session: Session, error: unknown): Promise<unknown> {
  const found = translate(error);
  // A rank that died shows natively as a broken connection; asking gives the session time to say which it was.
  if (found instanceof FuscoError && found.code === 'E_PEER_TIMEOUT') await session.late(0).catch(() => {});
  return session.failure ?? found;
}

/**
 * Opens this rank's part of the group: collective.
 *
 * @throws FuscoError E_OPTION, E_BACKEND, E_LIMIT, E_MEMORY, E_PEER_TIMEOUT, E_PEER_MISMATCH
 */
export async function ncclBackend(options: NcclOptions): Promise<Backend> {
  const { stepBytes, maxCtas } = resolveSettings(options);
  const addon = findNccl();
  const { session } = options;
  const { rank, worldSize, deadlineMs } = session;
  await session.agree('NCCL version', Buffer.from(String(addon.ncclLibrary().version)));
  await session.agree('stepBytes', Buffer.from(String(stepBytes)));
  const identities = await session.allGather(Buffer.from(hostIdentity(rank, options)));
  const hosts = numberHosts(identities.map((bytes) => Buffer.from(bytes).toString()));
  const shared = await session.broadcast(
    rank === 0 ? Buffer.concat([attempt(() => addon.ncclUniqueId()), randomBytes(8)]) : new Uint8Array(0),
  );
  const id = shared.slice(0, 128);
  const isAlone = hosts.every((host, peer) => peer === rank || host !== hosts[rank]);
  const board = isAlone ? '' : `/fusco-${hexOf(shared.subarray(128))}-${hosts[rank]}`;

  const cuda = options.cuda ?? openCuda(1, [options.device ?? defaultDevice(session)]);
  let forget: (() => void) | undefined;
  try {
    const native = new addon.NcclGroup(cuda.native, {
      ranks: worldSize,
      rank,
      hosts,
      board,
      id,
      maxCtas,
      stepBytes,
      deadlineMs,
    });
    forget = session.onFailure((failure) => native.abort(failure.message));
    await native.open();
    return new NcclBackend(addon, options, { cuda, native, hosts, forget });
  } catch (error) {
    forget?.();
    if (options.cuda === undefined) cuda.close();
    throw await openingError(session, error);
  }
}

/** What opening a group made. */
interface Opened {
  readonly cuda: Cuda;
  readonly native: NativeNcclGroup;
  /** [ranks] */
  readonly hosts: Uint32Array;
  /** Ends the listening for the session's failure. */
  readonly forget: () => void;
}

class NcclBackend implements Backend {
  readonly name = 'nccl';
  readonly localRanks: readonly number[];
  readonly order: StepOrder;
  readonly rowWork: RowWork;
  readonly cuda: Cuda;
  readonly isDetailed: boolean;
  readonly #addon: Addon;
  readonly #options: NcclOptions;
  readonly #native: NativeNcclGroup;
  readonly #hosts: Uint32Array;
  readonly #forget: () => void;
  #plans = 0;
  #behindMs: readonly number[] = [];

  constructor(addon: Addon, options: NcclOptions, { cuda, native, hosts, forget }: Opened) {
    this.#hosts = hosts;
    this.#forget = forget;
    this.#addon = addon;
    this.#options = options;
    this.#native = native;
    this.cuda = cuda;
    this.rowWork = cudaRowWork(cuda);
    this.order = new StepOrder(options.session);
    this.localRanks = [options.session.rank];
    this.isDetailed = resolveSettings(options).stats;
  }

  async allGather(what: string, own: Uint8Array): Promise<Uint8Array[]> {
    const { worldSize } = this.#options.session;
    const all = await this.order.run(['all-gather', what, own.length], (step, digest) =>
      this.#native.allGather(step, digest, own),
    );
    return Array.from({ length: worldSize }, (_, r) => all.subarray(r * own.length, (r + 1) * own.length));
  }

  /** The most rows that any rank sends to one that it does not reach directly; the length of steps follows from it. */
  async #mostRows(plan: VerifiedPlan): Promise<{ mostEntries: number; mostForwarded: number }> {
    const { session } = this.#options;
    const { sendRows, forwardRows } = plan.shards[session.rank]!;
    const { ranks, ranksPerNode, placement, strategy } = plan.spec;
    const own = new Uint32Array(2);
    const node = Math.floor(session.rank / ranksPerNode);
    const isForeign = (rank: number) =>
      this.#hosts[rank] !== this.#hosts[session.rank] ||
      (strategy === 'hier' && Math.floor(rank / ranksPerNode) !== node);
    for (let peer = 0; peer < ranks; peer++) {
      if (!isForeign(peer)) continue;
      const rows = sendRows.subarray(placement.rankFirst[peer]!, placement.rankFirst[peer + 1]!);
      own[0] = Math.max(
        own[0]!,
        rows.reduce((sum, count) => sum + count, 0),
      );
    }
    for (const [to, rows] of forwardRows.entries()) {
      if (isForeign(to * ranksPerNode)) own[1] = Math.max(own[1]!, rows);
    }
    const all = await session.allGather(new Uint8Array(own.buffer));
    const words = all.map((bytes) => new Uint32Array(Uint8Array.from(bytes).buffer));
    return {
      mostEntries: Math.max(...words.map((pair) => pair[0]!)),
      mostForwarded: Math.max(...words.map((pair) => pair[1]!)),
    };
  }

  async prepare(plan: VerifiedPlan): Promise<PreparedPlan> {
    const { session } = this.#options;
    const shard = plan.shards[session.rank]!;
    const isWhole = plan.shards.filter((part) => part !== undefined).length === plan.spec.ranks;
    // A plan of one rank's shard was made from gathered facts, whose options were compared.
    const identity = isWhole
      ? await planId(plan, nodeSha256)
      : hexOf(await optionsDigest(plan.spec, nodeSha256));
    if (isWhole) await session.agree('plan id', Buffer.from(identity, 'hex'));
    const { strategy, ranksPerNode, partial, placement, sliceRows } = plan.spec;
    const most = await this.#mostRows(plan);
    let native: NativeNcclPlan;
    try {
      native = new this.#addon.NcclPlan(this.#native, {
        shard: shard.bytes,
        ranksPerNode,
        strategy,
        firstInstance: Uint32Array.from(placement.rankFirst),
        sliceRows,
        ...most,
        ...(partial === 'none' ? {} : { partial, groups: plan.decision.groups }),
      });
    } catch (error) {
      throw translate(error);
    }
    // Plans with equal options are told apart by their place in the order of plans.
    const tag = `${identity} ${this.#plans++}`;
    await this.order.run(['plan', tag], (step, digest) => native.open(step, digest));
    return new NcclPlan(this, plan, native, tag);
  }

  /** Since the last report, by how much each rank entered its steps late, in ms; empty without `stats`. */
  async #newLateness(): Promise<number[]> {
    if (!this.isDetailed) return [];
    const before = this.#behindMs;
    this.#behindMs = await this.#options.session.lateness();
    return this.#behindMs.map((ms, rank) => ms - (before[rank] ?? 0));
  }

  async report(
    kind: string,
    step: number,
    plan: VerifiedPlan,
    native: NativeNcclReport,
  ): Promise<ExchangeReport> {
    const { nanoseconds, started, bytesRead, bytesWritten } = native;
    const wire = wireReport(native, await this.#newLateness(), this.#options.session.rank);
    if (this.isDetailed) {
      const log = this.#options.log ?? ((line: string) => void process.stderr.write(`${line}\n`));
      log(wireLine(kind, step, this.#options.session.rank, nanoseconds, wire));
    }
    return {
      backend: 'nccl',
      strategy: plan.spec.strategy,
      nanoseconds,
      startedAt: performance.now() - (Number(process.hrtime.bigint()) - started) / 1e6,
      bytesRead,
      bytesWritten,
      wire,
    };
  }

  async close(): Promise<void> {
    await this.#native.close();
    this.#forget();
    if (this.#options.cuda === undefined) this.cuda.close();
    if (this.#options.ownsSession) await this.#options.session.close();
  }
}

/** What ranks must agree on before rows move; buffers and numbers of rows are each rank's own. */
function shapeOfDispatch({ payloads, origins, scale }: DispatchCall): (string | number | boolean)[] {
  const shapes = payloads.flatMap(({ rowBytes, per, dtype }) => [rowBytes, per ?? 'token', dtype ?? 'bytes']);
  return [...shapes, origins !== undefined, scale !== undefined];
}

export class NcclPlan implements PreparedPlan {
  readonly #backend: NcclBackend;
  readonly #plan: VerifiedPlan;
  readonly #native: NativeNcclPlan;
  readonly #tag: string;

  constructor(backend: NcclBackend, plan: VerifiedPlan, native: NativeNcclPlan, tag: string) {
    this.#backend = backend;
    this.#plan = plan;
    this.#native = native;
    this.#tag = tag;
  }

  /** Runs an exchange with JavaScript's buffers staged through the device. */
  async #run<C>(
    kind: string,
    shape: readonly (string | number | boolean)[],
    stage: (staging: Staging) => C,
    exchange: (step: number, digest: bigint, call: C) => Promise<NativeNcclReport>,
  ): Promise<ExchangeReport> {
    const { cuda, order } = this.#backend;
    const staging = new Staging(cuda);
    try {
      const call = stage(staging);
      const { step, native } = await order.run([kind, this.#tag, ...shape], async (step, digest) => ({
        step,
        native: await exchange(step, digest, call),
      }));
      if (staging.used) staging.bringBack();
      return this.#backend.report(kind, step, this.#plan, native);
    } finally {
      staging.free();
    }
  }

  dispatch(call: DispatchCall): Promise<ExchangeReport> {
    return this.#run(
      'dispatch',
      shapeOfDispatch(call),
      (staging) => staging.dispatch(call),
      (step, digest, staged) => this.#native.dispatch(step, digest, staged, this.#backend.isDetailed),
    );
  }

  combine(call: CombineCall): Promise<ExchangeReport> {
    return this.#run(
      'combine',
      [call.dtype, call.rowBytes, call.weights !== undefined],
      (staging) => staging.combine(call),
      (step, digest, staged) => this.#native.combine(step, digest, staged, this.#backend.isDetailed),
    );
  }

  weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    return this.#run(
      'weight gradient',
      [call.dtype, call.rowBytes],
      (staging) => staging.weightGradient(call),
      (step, digest, staged) => this.#native.weightGradient(step, digest, staged, this.#backend.isDetailed),
    );
  }

  bufferBytes(rowBytes: number): BufferBytes {
    return this.#native.bytes(rowBytes);
  }

  /** Runs other native work on this plan as one numbered call of the group; all ranks make it. For benches. */
  call<T>(
    what: string,
    work: (native: NativeNcclPlan, call: number, digest: bigint) => Promise<T>,
  ): Promise<T> {
    return this.#backend.order.run([what, this.#tag], (call, digest) => work(this.#native, call, digest));
  }

  /** The pipeline that fusion replaces, over the same communicator: for the bench. Device buffers only. */
  async unfused(
    kind: 'dispatch' | 'combine',
    call: DispatchCall | CombineCall,
    rowBytes: number,
  ): Promise<number> {
    const stats = await this.#backend.order.run([`unfused ${kind}`, this.#tag, rowBytes], (step, digest) =>
      kind === 'dispatch'
        ? this.#native.unfusedDispatch(step, digest, call as DispatchCall, rowBytes)
        : this.#native.unfusedCombine(step, digest, call as CombineCall, rowBytes),
    );
    return stats.nanoseconds;
  }

  close(): void {
    void this.#native.close();
  }
}
