// Plans the next training step in a worker thread while the current one runs, for loops that know a routing before they
// need its plan: replayed or recomputed steps, micro-batches whose gates run first.
//
// Its plans count as verified, like those of group.plan(): the worker runs the planner of this package, from the same
// Wasm module, in this process; its port is private to the two threads; and shards are transferred, not shared, so that
// only this thread can write the memory of a plan that has arrived. Layout and sizes are nevertheless checked when shards
// are opened, and native code checks every bound that it uses. `verify: true` runs the verifier on this thread as well,
// which takes several times as long as planning.

import { Worker } from 'node:worker_threads';
import {
  checkInteger,
  checkKeys,
  type ErrorCode,
  type ErrorDetails,
  FuscoError,
} from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { Shard } from '../../planner/format/shard.ts';
import { plannerModule } from '../../planner/node.ts';
import { type Decision, markVerified, type Plan, type VerifiedPlan } from '../../planner/plan.ts';
import { checkTable, copyIds, type RoutingTable } from '../../planner/routing.ts';
import {
  makeSpec,
  optionsOf,
  type PlanOptions,
  resolveOptions,
  type SpecFields,
} from '../../planner/spec.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { fromSteady } from '../native/clock.ts';
import { workerUrl } from '../workerUrl.ts';

export interface PlanAheadOptions {
  /** Ranks of the group, 1..4096. */
  ranks: number;
  /** Also verify every plan on the thread that receives it. Default false; see the head of this file. */
  verify?: boolean;
}

/** A plan and when the worker made it. */
export interface PlannedAhead {
  readonly plan: VerifiedPlan;
  /** Start of planning, in milliseconds on the clock of performance.now(). */
  readonly startedAt: number;
  /** How long planning took in the worker. */
  readonly nanoseconds: number;
}

/** What the worker is started with. */
export interface WorkerStart {
  readonly module: WebAssembly.Module;
}

/** To the worker. */
export interface PlanRequest {
  readonly tables: readonly RoutingTable[];
  readonly options: PlanOptions;
}

/** From the worker; times are nanoseconds of the steady clock. */
export interface PlanAnswer {
  readonly fields: SpecFields;
  /** Its strategy is that of the spec of the plan. */
  readonly decision: Decision;
  readonly shards: readonly Uint8Array[];
  readonly started: number;
  readonly ended: number;
}

/** Also from the worker. Without a code it is a bug of the planner. */
export interface PlanRefusal {
  readonly error: { readonly code?: ErrorCode; readonly message: string; readonly details?: ErrorDetails };
}

interface Waiting {
  resolve(planned: PlannedAhead): void;
  reject(error: unknown): void;
}

/** A planner in its own thread. Plans are made in the order of the calls. */
export class PlanAhead implements AsyncDisposable {
  readonly ranks: number;
  readonly #worker: Worker;
  readonly #verify: boolean;
  readonly #waiting: Waiting[] = [];
  #failure: FuscoError | undefined;

  private constructor(worker: Worker, { ranks, verify = false }: PlanAheadOptions) {
    this.ranks = ranks;
    this.#worker = worker;
    this.#verify = verify;
    worker.on('message', (message: PlanAnswer | PlanRefusal) => this.#receive(message));
    worker.on('error', (cause) => this.#fail(deathOf(cause)));
    worker.on('exit', (code) =>
      this.#fail(new FuscoError('E_INTERNAL', `the planning thread ended with ${code}`)),
    );
    // An idle worker does not keep the process alive.
    worker.unref();
  }

  /** Starts the thread. Throws E_OPTION; E_BACKEND if the planner's Wasm is not built. */
  static async open(options: PlanAheadOptions): Promise<PlanAhead> {
    checkKeys('PlanAhead', options, ['ranks', 'verify']);
    checkInteger('ranks', options.ranks, 1, MAX_RANKS);
    const workerData: WorkerStart = { module: await plannerModule() };
    // Without the flags of the process, which may preload modules that the worker does not need.
    const start = { workerData, execArgv: [], name: 'fusco planner' };
    return new PlanAhead(new Worker(workerUrl('training/planAheadWorker.js'), start), options);
  }

  /** Number of plans that have not arrived yet. */
  get pending(): number {
    return this.#waiting.length;
  }

  /**
   * Starts planning a step; the plan has the same bytes as that of group.plan. The ids are copied at once, so the caller
   * may use them again, unless they are transferred.
   *
   * @param routing one table per rank
   * @param transfer whether the ids' memory moves to the worker: the caller's arrays are empty afterwards. Arrays that
   *   are part of a larger buffer, or share one, are copied nevertheless.
   * @throws FuscoError what group.plan throws; E_CLOSED; E_MEMORY or E_INTERNAL if the thread died
   */
  async plan(
    routing: readonly RoutingTable[],
    options: Omit<PlanOptions, 'ranks'>,
    { transfer = false }: { transfer?: boolean } = {},
  ): Promise<PlannedAhead> {
    if (this.#failure !== undefined) throw this.#failure;
    const resolved = this.#resolve(routing, options);
    const tables = routing.map(({ ids, tokens, topk }, rank) => ({
      ids: transfer && ownsBuffer(routing, rank) ? ids : copyIds(ids, rank),
      tokens,
      topk,
    }));
    const request: PlanRequest = { tables, options: resolved };
    this.#worker.postMessage(
      request,
      tables.map(({ ids }) => ids.buffer as ArrayBuffer),
    );
    this.#worker.ref();
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /**
   * Checks everything that can be checked without reading ids, and returns the options as plain data, which can be sent
   * to a thread.
   */
  #resolve(routing: readonly RoutingTable[], options: Omit<PlanOptions, 'ranks'>): PlanOptions {
    const { ranks } = this;
    const first = routing[0];
    if (first === undefined || routing.length !== ranks) {
      throw new FuscoError('E_RANKS', `routing of ${routing.length} ranks for a plan of ${ranks}`, {
        value: routing.length,
        limit: ranks,
      });
    }
    routing.forEach((table, rank) => {
      checkTable(table, rank, first.topk);
    });
    return optionsOf(resolveOptions({ ...options, ranks }, first.topk));
  }

  #receive(message: PlanAnswer | PlanRefusal): void {
    const waiting = this.#waiting.shift()!;
    if (this.#waiting.length === 0) this.#worker.unref();
    try {
      waiting.resolve(this.#open(message));
    } catch (error) {
      waiting.reject(error);
    }
  }

  #open(message: PlanAnswer | PlanRefusal): PlannedAhead {
    if ('error' in message) {
      const { code = 'E_INTERNAL', message: text, details } = message.error;
      throw new FuscoError(code, text, details);
    }
    const { fields, decision, started, ended } = message;
    const plan: Plan = {
      spec: { ...makeSpec(fields), strategy: decision.strategy },
      decision,
      shards: message.shards.map((bytes, rank) => Shard.open(bytes, rank)),
    };
    return {
      plan: this.#verify ? verifyPlan(plan) : markVerified(plan),
      startedAt: fromSteady(started),
      nanoseconds: ended - started,
    };
  }

  #fail(failure: FuscoError): void {
    this.#failure ??= failure;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }

  /** Ends the thread; pending plans are rejected. Closing twice is harmless. */
  async close(): Promise<void> {
    this.#fail(new FuscoError('E_CLOSED', 'planning ahead is closed'));
    await this.#worker.terminate();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Whether a rank's ids are a whole buffer that no other rank's ids use. */
function ownsBuffer(routing: readonly RoutingTable[], rank: number): boolean {
  const { buffer, byteLength } = routing[rank]!.ids;
  const isWhole = buffer instanceof ArrayBuffer && buffer.byteLength === byteLength;
  return isWhole && routing.every(({ ids }, other) => other === rank || ids.buffer !== buffer);
}

function deathOf(cause: unknown): FuscoError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const isMemory = code === 'ERR_WORKER_OUT_OF_MEMORY';
  return new FuscoError(isMemory ? 'E_MEMORY' : 'E_INTERNAL', `the planning thread died: ${message}`, {
    cause,
  });
}
