// The nccl backend: this process is one rank. Rows for ranks of its machine go straight into their memory, all others
// through NCCL. The coordinator orders the calls; native code gathers what ranks must know of one another's plans.

import { randomBytes } from 'node:crypto';
import { checkKeys, FuscoError } from '../../../planner/errors.ts';
import { hex } from '../../../planner/format/bytes.ts';
import { optionsDigest, planId } from '../../../planner/format/digest.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Strategy } from '../../../planner/spec.ts';
import { sum } from '../../../planner/totals.ts';
import type { Memory } from '../../memory.ts';
import { type Addon, findAddon, needAddon } from '../../native/addon.ts';
import { fromSteady } from '../../native/clock.ts';
import { attempt, translate } from '../../native/errors.ts';
import { nativeOptions as plannerOptions } from '../../native/planner.ts';
import { nativeOptions } from '../../native/planOptions.ts';
import type {
  NativeNcclExchanges,
  NativeNcclGroup,
  NativeNcclPlan,
  NativeNcclPlanner,
  NativeNcclReport,
} from '../../native/types.ts';
import { type Cuda, cudaDevices, type DeviceBuffer, nativeCuda, openCuda } from '../cuda/context.ts';
import { DeviceCopies } from '../cuda/deviceCopies.ts';
import { cudaRowWork } from '../cuda/rowWork.ts';
import { freeBuffers, Planners, readWords, takeBuffers } from '../planners.ts';
import type {
  Backend,
  BufferBytes,
  Coordinator,
  DevicePlanRequest,
  ExchangeCalls,
  ExchangeKind,
  ExchangeReport,
  PreparedDevicePlan,
  PreparedPlan,
  RowWork,
} from '../types.ts';
import { CallOrder } from './callOrder.ts';
import { type MachineChoice, machineIdentity, numberMachines } from './machines.ts';
import { wireLine, wireReport } from './report.ts';
import { resolveSettings, type SettingOptions } from './settings.ts';

export interface NcclOptions extends MachineChoice, SettingOptions {
  /** Device of the context that the group opens. Default: the local rank modulo the number of devices. */
  readonly device?: number;
  /** Receives the lines of `stats`. Default: stderr. */
  readonly log?: (line: string) => void;
}

const NCCL_OPTIONS = Object.keys({
  device: true,
  log: true,
  directMemory: true,
  host: true,
  stepBytes: true,
  maxCtas: true,
  stats: true,
} satisfies Record<keyof NcclOptions, true>);

/** Throws E_OPTION for an option that the backend does not have. */
export function checkNcclOptions(options: NcclOptions): void {
  checkKeys('the nccl backend', options, NCCL_OPTIONS);
}

/** The parts that an nccl backend is made of. */
export interface NcclParts {
  readonly coordinator: Coordinator;
  /** Whether closing the backend closes the coordinator. */
  readonly ownsCoordinator: boolean;
  /**
   * A context of one rank, whose buffers and stream the calls use; the caller closes it. Default: the group opens one.
   */
  readonly cuda?: Cuda | undefined;
}

function findNccl(): Addon {
  const addon = needAddon('nccl');
  const { reason } = addon.ncclLibrary();
  if (reason !== undefined) throw new FuscoError('E_BACKEND', reason);
  return addon;
}

/** Whether NCCL can be opened here, and where it is. */
export function ncclLibrary(): Readonly<Partial<Record<'path' | 'version' | 'reason', string>>> {
  const found = findAddon();
  if (found.addon === undefined) return { reason: found.reason };
  const { path, version, reason } = found.addon.ncclLibrary();
  if (reason !== undefined) return { reason };
  const text = `${Math.floor(version / 10000)}.${Math.floor(version / 100) % 100}.${version % 100}`;
  return { path, version: text };
}

function defaultDevice({ localRank }: Coordinator): number {
  const { devices, reason } = cudaDevices();
  if (devices.length === 0) throw new FuscoError('E_BACKEND', `the nccl backend needs a GPU: ${reason}`);
  return localRank % devices.length;
}

/** The error that opening a group failed with. */
async function openingError(coordinator: Coordinator, error: unknown): Promise<unknown> {
  const found = translate(error);
  // Native code sees a dead rank as a broken connection. Shortly afterwards the coordinator knows which rank it was.
  if (found instanceof FuscoError && found.code === 'E_PEER_TIMEOUT') await coordinator.settle();
  return coordinator.failure ?? found;
}

/**
 * Opens this rank's part of the group: collective.
 *
 * @throws FuscoError E_OPTION, E_BACKEND, E_LIMIT, E_MEMORY, E_PEER_TIMEOUT, E_PEER_MISMATCH
 */
export async function ncclBackend(parts: NcclParts, options: NcclOptions = {}): Promise<Backend> {
  const { stepBytes, maxCtas } = resolveSettings(options);
  const addon = findNccl();
  const { coordinator } = parts;
  const { rank, worldSize, deadlineMs } = coordinator;
  await coordinator.agree('NCCL version', Buffer.from(String(addon.ncclLibrary().version)));
  await coordinator.agree('stepBytes', Buffer.from(String(stepBytes)));
  const identities = await coordinator.allGather(Buffer.from(machineIdentity(rank, options)));
  const machines = numberMachines(identities.map((bytes) => Buffer.from(bytes).toString()));
  const shared = await coordinator.broadcast(
    rank === 0 ? Buffer.concat([attempt(() => addon.ncclUniqueId()), randomBytes(8)]) : new Uint8Array(0),
  );
  const id = shared.slice(0, 128);
  const isAlone = machines.every((machine, peer) => peer === rank || machine !== machines[rank]);
  const mailbox = isAlone ? '' : `/fusco-${hex(shared.subarray(128))}-${machines[rank]}`;

  const cuda = parts.cuda ?? openCuda(1, [options.device ?? defaultDevice(coordinator)]);
  let forget: (() => void) | undefined;
  try {
    const native = new addon.NcclGroup(nativeCuda(cuda), {
      ranks: worldSize,
      rank,
      machines,
      mailbox,
      id,
      maxCtas,
      roundBytes: stepBytes,
      deadlineMs,
    });
    forget = coordinator.onFailure((failure) => native.abort(failure.message));
    await native.open();
    const ownsCuda = parts.cuda === undefined;
    return new NcclBackend({ ...parts, addon, cuda, ownsCuda, native, machines, forget }, options);
  } catch (error) {
    forget?.();
    if (parts.cuda === undefined) cuda.close();
    throw await openingError(coordinator, error);
  }
}

/** An open group. */
interface OpenGroup extends NcclParts {
  readonly addon: Addon;
  readonly cuda: Cuda;
  readonly ownsCuda: boolean;
  readonly native: NativeNcclGroup;
  /** [ranks]: number of each rank's machine. */
  readonly machines: Uint32Array;
  /** Removes the listener for the coordinator's failure. */
  readonly forget: () => void;
}

class NcclBackend implements Backend {
  readonly name = 'nccl';
  readonly localRanks: readonly number[];
  readonly order: CallOrder;
  readonly rowWork: RowWork;
  readonly cuda: Cuda;
  readonly isDetailed: boolean;
  readonly #open: OpenGroup;
  readonly #log: (line: string) => void;
  readonly #planners = new Planners<NativeNcclPlanner>((request, key) => this.#openPlanner(request, key));
  #plans = 0;
  #behindMs: readonly number[] = [];

  constructor(open: OpenGroup, options: NcclOptions) {
    this.#open = open;
    this.#log = options.log ?? ((line) => void process.stderr.write(`${line}\n`));
    this.cuda = open.cuda;
    this.rowWork = cudaRowWork(open.cuda);
    this.order = new CallOrder(open.coordinator);
    this.localRanks = [open.coordinator.rank];
    this.isDetailed = resolveSettings(options).stats;
  }

  async allGather(what: string, own: Uint8Array): Promise<Uint8Array[]> {
    const { coordinator, native } = this.#open;
    const all = await this.order.run(['all-gather', what, own.length], (call, digest) =>
      native.allGather(call, digest, own),
    );
    return Array.from({ length: coordinator.worldSize }, (_, rank) =>
      all.subarray(rank * own.length, (rank + 1) * own.length),
    );
  }

  get #spansMachines(): boolean {
    const { machines } = this.#open;
    return machines.some((machine) => machine !== machines[0]);
  }

  /** Largest number of rows that any rank sends to one rank through NCCL. The lengths of rounds follow from it. */
  async #mostRows(plan: VerifiedPlan): Promise<{ mostEntries: number; mostForwarded: number }> {
    // On one machine no rows go through NCCL.
    if (!this.#spansMachines) return { mostEntries: 0, mostForwarded: 0 };
    const { coordinator, machines } = this.#open;
    const { sendRows, forwardRows } = plan.shards[coordinator.rank]!;
    const { ranks, ranksPerNode, placement, strategy } = plan.spec;
    const own = new Uint32Array(2);
    const node = Math.floor(coordinator.rank / ranksPerNode);
    const isForeign = (rank: number) =>
      machines[rank] !== machines[coordinator.rank] ||
      (strategy === 'hier' && Math.floor(rank / ranksPerNode) !== node);
    for (let peer = 0; peer < ranks; peer++) {
      if (!isForeign(peer)) continue;
      const rows = sendRows.subarray(placement.rankFirst[peer]!, placement.rankFirst[peer + 1]!);
      own[0] = Math.max(own[0]!, sum(rows));
    }
    for (const [to, rows] of forwardRows.entries()) {
      if (isForeign(to * ranksPerNode)) own[1] = Math.max(own[1]!, rows);
    }
    const all = await coordinator.allGather(new Uint8Array(own.buffer));
    const words = all.map((bytes) => new Uint32Array(Uint8Array.from(bytes).buffer));
    return {
      mostEntries: Math.max(...words.map((pair) => pair[0]!)),
      mostForwarded: Math.max(...words.map((pair) => pair[1]!)),
    };
  }

  async prepare(plan: VerifiedPlan): Promise<PreparedPlan> {
    const { addon, coordinator, native: group } = this.#open;
    const shard = plan.shards[coordinator.rank]!;
    const isWhole = plan.shards.filter((part) => part !== undefined).length === plan.spec.ranks;
    let identity: string;
    if (isWhole) {
      identity = await planId(plan, nodeSha256);
      await coordinator.agree('plan id', Buffer.from(identity, 'hex'));
    } else {
      // A plan of one rank's shard was made from gathered facts, whose options were compared.
      identity = hex(await optionsDigest(plan.spec, nodeSha256));
    }
    const { strategy, placement, sliceRows } = plan.spec;
    const most = await this.#mostRows(plan);
    const firstInstance = Uint32Array.from(placement.rankFirst);
    const rails = strategy === 'hier' ? { groups: plan.decision.groups } : {};
    const { rowBytes } = plan.spec;
    const sizes = { sliceRows, rowBytes, ...most };
    const desc = { ...nativeOptions(plan.spec), shard: shard.bytes, firstInstance, ...sizes, ...rails };
    const native = attempt(() => new addon.NcclPlan(group, desc));
    // Plans with the same options are distinguished by their position in the order of plans.
    const tag = `${identity} ${this.#plans++}`;
    await this.order.run(['plan', identity], (call, digest) => native.open(call, digest));
    return new NcclPlan(this, strategy, native, tag);
  }

  async planOnDevice(request: DevicePlanRequest): Promise<PreparedDevicePlan> {
    const { addon } = this.#open;
    const { cuda, order } = this;
    const kept = await this.#planners.of(request);
    const buffers = takeBuffers(kept, cuda, 1);
    const [buffer] = buffers as [DeviceBuffer];
    const copies = new DeviceCopies(cuda);
    // What uses the memory next follows on the same stream.
    const release = () => {
      copies.release();
      kept.free.push(buffers);
    };
    const [ids] = copies.ids(request.ids);
    const native = attempt(() => new addon.NcclBufferedPlan(kept.native, buffer, ids));
    const tag = `${kept.key} ${this.#plans++}`;
    // On one machine kernels compare the calls of the ranks, and find late ones.
    const announcement = this.isDetailed || this.#spansMachines ? 'coordinator' : 'kernels';
    try {
      const open = (call: number, digest: bigint) => native.open(call, digest);
      await order.run(['plan on device', kept.key], open, announcement);
    } catch (error) {
      await native.close();
      release();
      throw error;
    }
    const exchanges = new NcclExchanges(this, request.spec.strategy as Strategy, native, tag);
    return {
      run: (kind, call) => exchanges.run(kind, call),
      bufferBytes: (rowBytes) => exchanges.bufferBytes(rowBytes),
      recvRows: () => this.#read(async () => [await native.recvRows()]),
      shards: () => this.#read(async () => [await native.shard()]),
      view: () => attempt(() => native.describe()),
      words: (local, address, count) => readWords(cuda, local, address, count),
      close: () => {
        void native.close();
        release();
      },
    };
  }

  /** What reads results of this rank's kernels, with the error of a late rank in the words of the coordinator. */
  async #read<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      throw this.#open.coordinator.failure ?? translate(error);
    }
  }

  /** Makes a planner. Collective. */
  async #openPlanner({ spec, maxTokens, maxRecvRows }: DevicePlanRequest, key: string) {
    const { addon, native: group } = this.#open;
    const limits = { maxTokens, maxRecvRows };
    const planner = attempt(() => new addon.NcclPlanner(group, plannerOptions(spec), limits));
    await this.order.run(['planner', key], (call, digest) => planner.open(call, digest));
    return planner;
  }

  /** [ranks]: milliseconds by which each rank entered its calls late since the last report; empty without `stats`. */
  async #newLateness(): Promise<number[]> {
    if (!this.isDetailed) return [];
    const before = this.#behindMs;
    this.#behindMs = await this.#open.coordinator.lateness();
    return this.#behindMs.map((ms, rank) => ms - (before[rank] ?? 0));
  }

  async report(
    name: string,
    call: number,
    strategy: Strategy,
    native: NativeNcclReport,
  ): Promise<ExchangeReport> {
    const { nanoseconds, started, bytesRead, bytesWritten, enqueued } = native;
    const startedAt = fromSteady(started);
    const { rank } = this.#open.coordinator;
    const wire = wireReport(native, await this.#newLateness(), rank);
    if (this.isDetailed) this.#log(wireLine({ name, call, rank, nanoseconds }, wire));
    return { backend: 'nccl', strategy, nanoseconds, startedAt, bytesRead, bytesWritten, enqueued, wire };
  }

  async register(buffers: readonly Memory[]): Promise<void> {
    await this.#open.native.register(buffers);
  }

  async deregister(buffers: readonly Memory[]): Promise<void> {
    await this.#open.native.deregister(buffers);
  }

  async check(): Promise<void> {
    const { coordinator, native } = this.#open;
    await this.#read(() => native.check());
    if (coordinator.failure !== undefined) throw coordinator.failure;
  }

  async close(): Promise<void> {
    const { native, forget, ownsCuda, ownsCoordinator, coordinator } = this.#open;
    for (const kept of await this.#planners.all()) {
      await kept.native.close();
      freeBuffers(kept, this.cuda);
    }
    await native.close();
    forget();
    if (ownsCuda) this.cuda.close();
    if (ownsCoordinator) await coordinator.close();
  }
}

/** The name of a call, and what else ranks must agree on. */
type Shape = readonly [name: string, ...rest: (string | number | boolean)[]];

/** What ranks must agree on before rows move. Buffers and numbers of rows differ between ranks. */
const SHAPES: { readonly [Kind in ExchangeKind]: (call: ExchangeCalls[Kind]) => Shape } = {
  dispatch: ({ payloads, origins, scale }) => [
    'dispatch',
    ...payloads.flatMap(({ rowBytes, per, dtype }) => [rowBytes, per ?? 'token', dtype ?? 'bytes']),
    origins !== undefined,
    scale !== undefined,
  ],
  combine: ({ dtype, rowBytes, weights }) => ['combine', dtype, rowBytes, weights !== undefined],
  weightGradient: ({ dtype, rowBytes }) => ['weight gradient', dtype, rowBytes],
  combineGradient: ({ dtype, rowBytes, origins }) => [
    'combine gradient',
    dtype,
    rowBytes,
    origins !== undefined,
  ],
};

class NcclExchanges<Native extends NativeNcclExchanges> implements PreparedPlan {
  readonly #backend: NcclBackend;
  readonly #strategy: Strategy;
  readonly #native: Native;
  readonly #tag: string;
  readonly #enqueues: boolean;

  constructor(backend: NcclBackend, strategy: Strategy, native: Native, tag: string) {
    this.#backend = backend;
    this.#strategy = strategy;
    this.#native = native;
    this.#tag = tag;
    this.#enqueues = native.bytes(1).enqueues;
  }

  async run<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): Promise<ExchangeReport> {
    const { cuda, isDetailed } = this.#backend;
    const shape = SHAPES[kind](call);
    const copies = new DeviceCopies(cuda);
    try {
      const onDevice = copies.exchange(kind, call) as never;
      const { number, native } = await this.call(shape, async (plan, number, digest) => {
        const native = await plan[kind](number, digest, onDevice, isDetailed);
        // Waits for the enqueued work, and throws any error that its kernels have found.
        if (copies.isUsed) copies.copyBack();
        return { number, native: copies.isUsed ? { ...native, enqueued: false } : native };
      });
      return this.#backend.report(shape[0], number, this.#strategy, native);
    } finally {
      copies.release();
    }
  }

  /** Runs native work on this plan as one numbered call, which all ranks make. */
  call<T>(
    [name, ...shape]: Shape,
    work: (plan: Native, call: number, digest: bigint) => Promise<T>,
  ): Promise<T> {
    const announcement = this.#enqueues && !this.#backend.isDetailed ? 'kernels' : 'coordinator';
    const run = (call: number, digest: bigint) => work(this.#native, call, digest);
    return this.#backend.order.run([name, this.#tag, ...shape], run, announcement);
  }

  bufferBytes(rowBytes: number): BufferBytes {
    return this.#native.bytes(rowBytes);
  }

  close(): void {
    void this.#native.close();
  }
}

export class NcclPlan extends NcclExchanges<NativeNcclPlan> {}
