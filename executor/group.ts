import { checkInteger, checkKeys, FuscoError } from '../planner/errors.ts';
import { MAX_RANKS, MAX_ROW_BYTES } from '../planner/format/layout.ts';
import { loadPlanner } from '../planner/node.ts';
import { isVerified, type VerifiedPlan } from '../planner/plan.ts';
import type { Planner } from '../planner/planner.ts';
import type { RoutingTable } from '../planner/routing.ts';
import type { PlanOptions } from '../planner/spec.ts';
import { cudaBackend } from './backends/cuda/backend.ts';
import { type Cuda, openCuda } from './backends/cuda/context.ts';
import { hostBackend } from './backends/host/backend.ts';
import { checkNcclOptions, type NcclOptions, ncclBackend } from './backends/nccl/backend.ts';
import { referenceBackend } from './backends/reference/backend.ts';
import type {
  Backend,
  BackendName,
  BufferBytes,
  Coordinator,
  Fp8Call,
  GateBackwardCall,
  GateCall,
  Memory,
  PreparedPlan,
  RowWorkCalls,
} from './backends/types.ts';
import { checkRowWork } from './callChecks.ts';
import { DeviceExchange, type DeviceRouting } from './deviceExchange.ts';
import { deviceRequest, gatherAll } from './deviceRequest.ts';
import { findAddon, needAddon } from './native/addon.ts';
import { planDistributed } from './planDistributed.ts';
import { PlanExchange } from './planExchange.ts';
import { connect } from './rendezvous/session.ts';
import type { ExpertBlocks } from './training/expertBlocks.ts';
import { Recorder } from './training/recorder.ts';

/**
 * Options of a group, by backend. Without `backend`, or with `auto`, it is host if the native addon is there, else
 * reference; `group.backend` says which.
 */
export type GroupOptions = HostGroupOptions | ReferenceGroupOptions | CudaGroupOptions | NcclGroupOptions;

export interface HostGroupOptions {
  backend?: 'auto' | 'host';
  /** Ranks of the expert-parallel group, 1..4096. */
  ranks: number;
  /** Threads of an exchange, 1..1024; 0, the default: one per processor. */
  threads?: number;
}

export interface ReferenceGroupOptions {
  backend: 'reference';
  /** 1..4096 */
  ranks: number;
}

export interface CudaGroupOptions {
  backend: 'cuda';
  /** 1..64 */
  ranks: number;
  /** Context of the group, whose buffers and streams the calls use; the caller closes it. Default: its own. */
  cuda?: Cuda;
}

export interface NcclGroupOptions {
  backend: 'nccl';
  /** Default, and only valid value: the ranks of the session. */
  ranks?: number;
  /** A context of one rank, whose buffers and stream the calls use; the caller closes it. Default: its own. */
  cuda?: Cuda;
  /**
   * Settings, and the session that connects the processes, which the caller closes. Default: a session from the
   * launcher's variables, which the group closes.
   */
  nccl?: NcclOptions & { readonly session?: Coordinator };
}

/** Most threads of an exchange of the host backend. */
const MAX_THREADS = 1024;

/** Options of a plan, without those that the group already knows. */
export type GroupPlanOptions = Omit<PlanOptions, 'ranks'>;

/**
 * An expert-parallel group. `localRanks` lists the ranks that live in this process. Calls take one set of buffers for
 * each of them, so a training loop is written once for all backends.
 */
export class Group implements Disposable {
  readonly ranks: number;
  readonly localRanks: readonly number[];
  readonly backend: BackendName;
  readonly #backend: Backend;
  readonly #planner: Planner;
  readonly #open = new Set<PlanExchange>();
  #recorder: Recorder | undefined;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** For createGroup. */
  constructor(ranks: number, backend: Backend, planner: Planner) {
    this.ranks = ranks;
    this.localRanks = backend.localRanks ?? Array.from({ length: ranks }, (_, rank) => rank);
    this.backend = backend.name;
    this.#backend = backend;
    this.#planner = planner;
  }

  /**
   * Plans one exchange, if all ranks live in this process; planLocal plans on every backend.
   *
   * @param routing one table per rank
   * @throws FuscoError E_RANKS, E_ROUTING_*, E_OPTION, E_PLACEMENT, E_LIMIT; E_BACKEND if ranks live in other processes
   */
  plan(routing: readonly RoutingTable[], options: GroupPlanOptions): VerifiedPlan {
    this.#refuseClosed();
    if (this.#backend.allGather !== undefined) {
      throw new FuscoError('E_BACKEND', 'other ranks live in other processes: plan with await planLocal(…)', {
        hint: 'planLocal plans the ranks of this process on every backend.',
      });
    }
    const plan = this.#planner.planAll(routing, { ...options, ranks: this.ranks });
    if (this.#recorder?.closed === false) this.#recorder.add(routing, plan);
    return plan;
  }

  /**
   * Plans one exchange from the routing of the local ranks. If other ranks live in other processes, it gathers their
   * counts, and the plan has the shards of the local ranks only: it can be executed, but not written to a file.
   *
   * @param routing one table per local rank, in the order of `localRanks`
   * @throws FuscoError as plan does, E_FACTS, and E_PEER_MISMATCH if ranks plan with different options
   */
  async planLocal(routing: readonly RoutingTable[], options: GroupPlanOptions): Promise<VerifiedPlan> {
    this.#refuseClosed();
    const { allGather } = this.#backend;
    if (allGather === undefined) return this.plan(routing, options);
    if (routing.length !== 1) {
      throw new FuscoError('E_RANKS', `routing of ${routing.length} ranks for 1 local rank`, {
        limit: 1,
        hint: 'Give one table per local rank.',
      });
    }
    const gather = allGather.bind(this.#backend);
    const plan = await planDistributed(this.#planner, gather, this.localRanks[0]!, routing[0]!, {
      ...options,
      ranks: this.ranks,
    });
    if (this.#recorder?.closed === false) this.#recorder.add(routing, plan);
    return plan;
  }

  /**
   * Records the routing of every plan that this group makes from now on, until the recorder is closed, into a directory
   * that `fusco plan` reads step by step; see recorder.ts. Files are written in the background. If ranks live in other
   * processes, it is collective, and every rank writes its own files into the same directory. Plans that are made on
   * devices are not recorded: the ids are not on the host.
   *
   * @throws FuscoError E_FILE_WRITE, E_FILE_READ; E_OPTION while another recorder of this group is open
   */
  async record(path: string): Promise<Recorder> {
    this.#refuseClosed();
    const refuseSecond = () => {
      if (this.#recorder?.closed !== false) return;
      throw new FuscoError('E_OPTION', `the group is recorded in ${this.#recorder.path} already`, {
        hint: 'Close that recorder first.',
      });
    };
    refuseSecond();
    const recorder = await this.#openRecorder(path);
    try {
      refuseSecond();
    } catch (error) {
      await recorder.close();
      throw error;
    }
    this.#recorder = recorder;
    return recorder;
  }

  #openRecorder(path: string): Promise<Recorder> {
    const { allGather } = this.#backend;
    if (allGather === undefined) return Recorder.open(path);
    return Recorder.openRank(path, this.localRanks[0]!, async (own) => {
      const bytes = new Uint8Array(Int32Array.of(own).buffer);
      const all = await allGather.call(this.#backend, 'the next step of a recording', bytes);
      const steps = all.map((of) => new Int32Array(Uint8Array.from(of).buffer)[0]!);
      return Math.min(...steps) < 0 ? -1 : Math.max(...steps);
    });
  }

  /** Uploads a plan, to be exchanged any number of times. Throws E_UNVERIFIED, E_RANKS, E_BACKEND, E_CLOSED. */
  async prepare(plan: VerifiedPlan): Promise<Exchange> {
    this.#refuseClosed();
    if (!isVerified(plan)) throw new FuscoError('E_UNVERIFIED', 'the plan was not verified');
    if (plan.spec.ranks !== this.ranks) {
      throw new FuscoError('E_RANKS', `a plan of ${plan.spec.ranks} ranks for a group of ${this.ranks}`, {
        value: plan.spec.ranks,
        limit: this.ranks,
        hint: 'Plan for the ranks of the group, or create a group with the ranks of the plan.',
      });
    }
    const prepared = await this.#backend.prepare(plan);
    const exchange = new Exchange(plan, this.localRanks, prepared, () => this.#open.delete(exchange));
    this.#open.add(exchange);
    return exchange;
  }

  /**
   * Plans one exchange on the devices, from expert ids in device memory: the same plan as planLocal makes, without the
   * host in the way. Only the cuda and nccl backends plan on devices. The first call with its options and bounds makes a
   * planner, which waits; later calls enqueue. Collective on nccl. If its ranks are on several machines, the first exchange
   * along the plan reads it back, and no capture is possible.
   *
   * @param call ids, bounds, and the options of the plan; the strategy is `flat` or `hier`
   * @throws FuscoError E_BACKEND on other backends; E_OPTION for `auto`; E_RANKS, E_LIMIT, E_BUFFER, E_PLACEMENT; without
   * maxRecvRows also E_ROUTING_ID and E_ROUTING_DUPLICATE for bad ids of local ranks; E_PEER_TIMEOUT, E_PEER_MISMATCH
   */
  async planOnDevice(call: DeviceRouting & GroupPlanOptions): Promise<DeviceExchange> {
    this.#refuseClosed();
    if (this.#backend.planOnDevice === undefined) {
      throw new FuscoError('E_BACKEND', `the ${this.backend} backend does not plan on devices`, {
        hint: 'Use the cuda or nccl backend, or plan on the host with planLocal.',
      });
    }
    const request = deviceRequest(call, this.ranks, this.localRanks.length);
    const prepared = await this.#backend.planOnDevice(request);
    const { localRanks } = this;
    const { allGather } = this.#backend;
    const gather = allGather === undefined ? undefined : gatherAll(allGather.bind(this.#backend));
    const onClose = () => void this.#open.delete(exchange);
    const exchange: DeviceExchange = await DeviceExchange.open(request, prepared, {
      localRanks,
      gather,
      onClose,
    });
    this.#open.add(exchange);
    return exchange;
  }

  /**
   * Maps device memory into the processes of the other ranks, so that the first exchange that uses it takes no longer
   * than later ones. Not collective. Exchanges map memory that was not registered. Does nothing except on the nccl
   * backend.
   *
   * @param buffers device memory of the local rank that cudaMalloc has made, `cuda.alloc` included
   * @throws FuscoError E_BUFFER for other memory; E_LIMIT; E_PEER_TIMEOUT; E_CLOSED
   */
  async register(buffers: readonly Memory[]): Promise<void> {
    this.#refuseClosed();
    await this.#backend.register?.(buffers);
  }

  /**
   * Lets the other ranks' processes unmap memory, after the last exchange that used it and before cudaFree. Memory of
   * `cuda.alloc` needs no such call.
   */
  async deregister(buffers: readonly Memory[]): Promise<void> {
    this.#refuseClosed();
    await this.#backend.deregister?.(buffers);
  }

  /**
   * Reports what kernels of exchanges on GPUs have recorded until now, without waiting for them. Every other call of the
   * group reports it as well: check finds it sooner, between steps that only launch graphs. On the nccl backend it also
   * reports that the session has ended. Not collective. On the reference and host backends there is nothing to report.
   * After E_PEER_* the exchanges of the group move no rows.
   *
   * @throws FuscoError E_PEER_TIMEOUT, which names the late ranks; E_PEER_MISMATCH; E_BACKEND if the device failed; E_CLOSED
   */
  async check(): Promise<void> {
    this.#refuseClosed();
    await this.#backend.check?.();
  }

  /** Rounds rows to e4m3 codes with a scale for every 128 elements; see fp8.ts. Throws E_OPTION, E_BUFFER, E_DTYPE. */
  async quantize(call: Fp8Call): Promise<void> {
    return this.#work('quantize', call);
  }

  /** The inverse of quantize: code times scale, rounded once to the dtype. */
  async dequantize(call: Fp8Call): Promise<void> {
    return this.#work('dequantize', call);
  }

  /** Top-k ids and weights from a router's logits; see gating.ts. Throws E_OPTION, E_BUFFER. */
  async gate(call: GateCall): Promise<void> {
    return this.#work('gate', call);
  }

  /** The gradient of the logits. Throws E_OPTION, E_BUFFER. */
  async gateBackward(call: GateBackwardCall): Promise<void> {
    return this.#work('gateBackward', call);
  }

  async #work<Kind extends keyof RowWorkCalls>(kind: Kind, call: RowWorkCalls[Kind]): Promise<void> {
    this.#refuseClosed();
    const { rowWork } = this.#backend;
    if (rowWork === undefined) {
      throw new FuscoError('E_BACKEND', `the ${this.backend} backend has neither fp8 nor gating`, {
        hint: 'Use the reference, host or cuda backend for them.',
      });
    }
    checkRowWork(this.localRanks.length, kind, call);
    return rowWork[kind](call);
  }

  #refuseClosed(): void {
    if (this.#closed) throw new FuscoError('E_CLOSED', 'the group is closed');
  }

  /**
   * Closes the group and its exchanges. Calls in flight finish first. Closing twice is harmless. The promise resolves
   * when everything is freed, which is immediate except on the nccl backend.
   */
  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  async #shutDown(): Promise<void> {
    this.#closed = true;
    for (const exchange of [...this.#open]) exchange.close();
    await this.#backend.close();
  }

  [Symbol.dispose](): void {
    void this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The backend's object for an exchange; the package does not export it. */
export let preparedOf: (exchange: Exchange) => PreparedPlan;

/** A plan that is ready to run: plan once, exchange many times into buffers that the caller owns. */
export class Exchange extends PlanExchange {
  static {
    preparedOf = (exchange) => exchange.prepared;
  }
  readonly plan: VerifiedPlan;

  /** For Group.prepare. */
  constructor(
    plan: VerifiedPlan,
    localRanks: readonly number[],
    prepared: PreparedPlan,
    onClose: () => void,
  ) {
    const shards = localRanks.map((rank) => plan.shards[rank]!);
    const sizes = {
      tokens: shards.map((shard) => shard.tokens),
      entries: shards.map((shard) => shard.entries),
      recvRows: shards.map((shard) => shard.recvRows),
    };
    super(localRanks, sizes, prepared, onClose);
    this.plan = plan;
  }

  expertBlocks(): readonly ExpertBlocks[] {
    const { instanceExpert } = this.plan.spec.placement;
    return this.localRanks.map((rank) => {
      const { firstInstance, localInstances, expertOffset, expertRows } = this.plan.shards[rank]!;
      const experts = instanceExpert.subarray(firstInstance, firstInstance + localInstances);
      return { rank, experts, expertOffsets: expertOffset, expertCounts: expertRows };
    });
  }

  /**
   * Device memory that exchanges of such rows need in addition to the caller's buffers; the first of them allocates it.
   * All zero on backends that move rows straight to their slots.
   *
   * @param rowBytes 1..16777216
   */
  bufferBytes(rowBytes: number): BufferBytes {
    this.refuseClosed();
    checkInteger('rowBytes', rowBytes, 1, MAX_ROW_BYTES);
    return this.prepared.bufferBytes?.(rowBytes) ?? { tables: 0, dispatch: 0, combine: 0 };
  }
}

/** The options of each backend. */
const OPTIONS: Record<BackendName | 'auto', readonly string[]> = {
  auto: ['ranks', 'threads'],
  host: ['ranks', 'threads'],
  reference: ['ranks'],
  cuda: ['ranks', 'cuda'],
  nccl: ['ranks', 'cuda', 'nccl'],
};

/** Throws E_BACKEND for an unknown backend, and E_OPTION for an option that belongs to another backend. */
function checkOptions({ backend = 'auto', ...options }: GroupOptions): void {
  if (!Object.hasOwn(OPTIONS, backend)) {
    throw new FuscoError('E_BACKEND', `no backend is called ${String(backend)}`, {
      hint: `Backends are ${Object.keys(OPTIONS).join(', ')}.`,
    });
  }
  checkKeys(`the ${backend} backend`, options, OPTIONS[backend]);
}

function openHost(name: 'auto' | 'host', threads: number): Backend {
  if (name === 'auto' && findAddon().addon === undefined) return referenceBackend();
  return hostBackend(needAddon('host'), threads);
}

/** The nccl backend over the caller's session, or over a session that it opens and closes. */
async function openNccl({ nccl = {}, cuda, ranks }: NcclGroupOptions, planner: Planner): Promise<Group> {
  const { session, ...options } = nccl;
  checkNcclOptions(options);
  const coordinator = session ?? (await connect());
  const ownsCoordinator = session === undefined;
  try {
    const { worldSize } = coordinator;
    if (ranks !== undefined && ranks !== worldSize) {
      throw new FuscoError('E_RANKS', `a group of ${ranks} ranks in a session of ${worldSize}`, {
        value: ranks,
        limit: worldSize,
        hint: 'Leave out ranks: the session says how many there are.',
      });
    }
    const backend = await ncclBackend({ coordinator, ownsCoordinator, cuda }, options);
    return new Group(worldSize, backend, planner);
  } catch (error) {
    if (ownsCoordinator) await coordinator.close();
    throw error;
  }
}

/**
 * Opens a group. With `nccl` this process is one rank of it, and all ranks call this together.
 *
 * @throws FuscoError E_OPTION, E_RANKS, E_BACKEND, E_MEMORY; E_BOOTSTRAP, E_PEER_TIMEOUT, E_PEER_MISMATCH with `nccl`
 */
export async function createGroup(options: GroupOptions): Promise<Group> {
  checkOptions(options);
  const planner = await loadPlanner();
  if (options.backend === 'nccl') return openNccl(options, planner);
  const ranks = checkInteger('ranks', options.ranks, 1, MAX_RANKS);
  if (options.backend === 'reference') return new Group(ranks, referenceBackend(), planner);
  if (options.backend === 'cuda') {
    const { cuda } = options;
    return new Group(ranks, cudaBackend(cuda ?? openCuda(ranks), cuda === undefined), planner);
  }
  const threads = checkInteger('threads', options.threads ?? 0, 0, MAX_THREADS);
  return new Group(ranks, openHost(options.backend ?? 'auto', threads), planner);
}
