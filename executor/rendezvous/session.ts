// A rank's session, as its main thread uses it. There is one process per rank.

import { Worker } from 'node:worker_threads';
import { checkInteger, checkKeys, FuscoError } from '../../planner/errors.ts';
import type { Coordinator } from '../backends/types.ts';
import { packageVersion } from '../version.ts';
import { workerUrl } from '../workerUrl.ts';
import { type Bootstrap, type BootstrapOptions, MAX_DEADLINE_MS, resolveBootstrap } from './environment.ts';
import { MAX_DIGEST_BYTES, MAX_WHAT_LENGTH, partLimit } from './messages.ts';
import { failureError, type LateReport, nameRanks, timeoutError } from './report.ts';
import type { Answer, Method, Notice, Request, WorkerSetup } from './worker.ts';

export interface ConnectOptions extends BootstrapOptions {
  /** Interface that rank 0 listens on. Default: the master address if it is a loopback address, else all interfaces. */
  listenHost?: string;
  /** Receives the lines about refused connections and lost ranks. Default: stderr. */
  logger?: (line: string) => void;
}

const CONNECT_OPTIONS = Object.keys({
  rank: true,
  worldSize: true,
  localRank: true,
  localWorldSize: true,
  address: true,
  secret: true,
  deadlineMs: true,
  heartbeatMs: true,
  listenHost: true,
  logger: true,
} satisfies Record<keyof ConnectOptions, true>);

/** Milliseconds after which a worker that does not end is terminated. */
const CLOSE_MS = 3000;

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
  /** Its result when the session has failed, if that is not an error. */
  readonly ifFailed: (() => unknown) | undefined;
}

/**
 * One rank's session with its group. Made by `connect`, which resolves when all ranks are connected.
 *
 * All ranks make the same operations (barrier, allGather, broadcast, agree) in the same order, and enter the same
 * numbered calls in the same order. Every wait has a deadline. When it passes, when a rank is lost, or when ranks do
 * different things, the session fails on every rank that can still be reached: everything that waits, and every later
 * call, rejects with the same error.
 *
 * A process that runs to its end with an open session closes it. A process that crashes does not, and the others detect
 * it.
 */
export class Session implements Coordinator, AsyncDisposable, Disposable {
  readonly rank: number;
  readonly worldSize: number;
  /**
   * Number of this rank among the ranks of its machine: given by the launcher, or counted over ranks with the same
   * machine name.
   */
  readonly localRank: number;
  /** Number of ranks on this machine. */
  readonly localWorldSize: number;
  /** Default of every wait, in milliseconds. */
  readonly deadlineMs: number;
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(error: FuscoError) => void>();
  readonly #atEnd = () => void this.close();
  #nextId = 0;
  #lastCall = -1;
  #failure: FuscoError | undefined;
  #lateAtFailure: LateReport['ranks'] = [];
  #closing: Promise<void> | undefined;

  /** For connect: all ranks are connected. */
  constructor(bootstrap: Bootstrap, localRank: number, localWorldSize: number, worker: Worker) {
    this.rank = bootstrap.rank;
    this.worldSize = bootstrap.worldSize;
    this.localRank = localRank;
    this.localWorldSize = localWorldSize;
    this.deadlineMs = bootstrap.deadlineMs;
    this.#worker = worker;
    process.once('beforeExit', this.#atEnd);
    worker.on('message', (notice: Notice) => this.#receive(notice));
    worker.on('error', (cause: Error) => this.#fail(workerError(cause)));
    worker.unref();
  }

  /** The error that the session has failed with. */
  get failure(): FuscoError | undefined {
    return this.#failure;
  }

  /** Resolves when all ranks have entered it. Rejects with E_PEER_TIMEOUT, E_PEER_MISMATCH, E_CLOSED, as all calls do. */
  async barrier(deadlineMs?: number): Promise<void> {
    await this.#gather('a barrier', new Uint8Array(0), deadlineMs);
  }

  /**
   * Every rank gives some bytes, of any length, and gets those of all ranks in rank order. For small control data: at
   * most 1 MiB per rank and 256 MiB in total.
   *
   * @throws FuscoError E_OPTION for more bytes than that
   */
  async allGather(bytes: Uint8Array, deadlineMs?: number): Promise<Uint8Array[]> {
    return this.#gather('an all-gather', bytes, deadlineMs);
  }

  /** Every rank gets the bytes that `root` gives; the bytes of others are ignored. Size limits as for allGather. */
  async broadcast(bytes: Uint8Array, root = 0, deadlineMs?: number): Promise<Uint8Array> {
    checkInteger('root', root, 0, this.worldSize - 1);
    const part = this.rank === root ? bytes : new Uint8Array(0);
    return (await this.#gather(`a broadcast from rank ${root}`, part, deadlineMs))[root]!;
  }

  /**
   * Resolves when all ranks have given the same digest. Otherwise every rank gets E_PEER_MISMATCH, which names `what`
   * and the ranks that differ from most others (from rank 0, if two digests are equally frequent). The session stays open.
   *
   * @param what names the thing, at most 200 characters: `plan id`
   * @param digest at most 64 bytes
   */
  async agree(what: string, digest: Uint8Array, deadlineMs?: number): Promise<void> {
    checkInteger('what.length', what.length, 1, MAX_WHAT_LENGTH);
    checkInteger('digest.length', digest.length, 0, MAX_DIGEST_BYTES);
    const parts = await this.#gather(`agree on ${what}`, digest, deadlineMs);
    const differing = differingRanks(parts.map((part) => Buffer.from(part).toString('hex')));
    if (differing.length === 0) return;
    const text = `${what} of ${nameRanks(differing)} differs from the other ranks'`;
    throw new FuscoError('E_PEER_MISMATCH', text, { rank: differing[0]! });
  }

  /**
   * Enters the next numbered call, with a digest of what this rank is about to do in it. Ranks that enter it with
   * another digest, or enter another call, end the session with E_PEER_MISMATCH on every rank.
   *
   * @param call larger than the last one
   * @param digest at most 64 bytes, identical on all ranks
   * @returns resolves when all ranks have entered the call
   */
  async enter(call: number | bigint, digest: Uint8Array, deadlineMs = this.deadlineMs): Promise<void> {
    checkInteger('deadlineMs', deadlineMs, 1, MAX_DEADLINE_MS);
    return this.#ask('enter', [...this.#entryOf(call, digest), deadlineMs]);
  }

  /** Enters the next numbered call without waiting for others. Throws the error of a failed or closed session. */
  announce(call: number | bigint, digest: Uint8Array): void {
    this.#post({ op: 'announce', id: undefined, args: this.#entryOf(call, digest) });
  }

  #entryOf(call: number | bigint, digest: Uint8Array): [call: number, digest: Uint8Array] {
    this.#refuse();
    checkInteger('digest.length', digest.length, 0, MAX_DIGEST_BYTES);
    this.#lastCall = checkInteger('call', Number(call), this.#lastCall + 1, Number.MAX_SAFE_INTEGER);
    return [this.#lastCall, copyOf(digest)];
  }

  /**
   * Which ranks have not entered a call. Always answers within 2 s: if rank 0 does not answer, rank 0 is named; after a
   * failure, the ranks that the failure named.
   */
  async late(call: number | bigint): Promise<LateReport> {
    const at = checkInteger('call', Number(call), 0, Number.MAX_SAFE_INTEGER);
    const ifFailed = (): LateReport => ({ call: at, answered: true, ranks: this.#lateAtFailure });
    if (this.#closing !== undefined) this.#refuse();
    if (this.#failure !== undefined) return ifFailed();
    return this.#ask('late', [at], ifFailed);
  }

  /**
   * Reports that this rank has waited `waitedMs` for a call to finish. If some ranks have not entered the call, the
   * session ends with E_PEER_TIMEOUT on every rank.
   *
   * @returns the error, with the late ranks and the last call that each entered; undefined if all have entered the call,
   *   or if this is unknown
   */
  async timedOut(call: number, waitedMs: number): Promise<FuscoError | undefined> {
    const report = await this.late(call).catch(() => undefined);
    if (report === undefined || report.ranks.length === 0) return undefined;
    if (this.#failure === undefined && this.#closing === undefined)
      this.#post({ op: 'expire', id: undefined, args: [call, waitedMs] });
    return timeoutError(call, report);
  }

  /** Gives a failure that is on its way time to arrive: an answer from rank 0, or at most 2 s. */
  async settle(): Promise<void> {
    await this.late(0).catch(() => {});
  }

  /**
   * Milliseconds, over all calls so far, by which each rank entered after the first one, [ranks]: the rank with the most
   * is the one that the others wait for. Times are measured by rank 0, with an error of up to one heartbeat interval.
   *
   * @throws FuscoError as all calls do
   */
  async lateness(): Promise<readonly number[]> {
    this.#refuse();
    const behindMs = await this.#ask('lateness', []);
    this.#refuse();
    return Array.from(behindMs);
  }

  /**
   * Calls the listener once, when the session fails; soon, if it has failed already.
   *
   * @returns removes the listener
   */
  onFailure(listener: (error: FuscoError) => void): () => void {
    const own = (error: FuscoError) => listener(error);
    this.#listeners.add(own);
    if (this.#failure !== undefined) queueMicrotask(() => this.#tellFailure());
    return () => void this.#listeners.delete(own);
  }

  /**
   * Leaves the group and frees the connection, the worker and, on rank 0, the port. Pending calls reject with E_CLOSED.
   * Others get an error only if they wait for this rank afterwards. Closing twice is harmless; the promise resolves when
   * everything is freed, and the process stays alive until then.
   */
  close(): Promise<void> {
    this.#closing ??= this.#shutDown();
    return this.#closing;
  }

  [Symbol.dispose](): void {
    void this.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #shutDown(): Promise<void> {
    process.off('beforeExit', this.#atEnd);
    const closed = new FuscoError('E_CLOSED', 'the session is closed');
    for (const { reject } of this.#pending.values()) reject(closed);
    this.#pending.clear();
    await endWorker(this.#worker);
  }

  #receive(notice: Notice): void {
    if (notice.event === 'answer') {
      const pending = this.#pending.get(notice.id);
      this.#pending.delete(notice.id);
      if (this.#pending.size === 0 && this.#closing === undefined) this.#worker.unref();
      pending?.resolve(notice.value);
    } else if (notice.event === 'failure') {
      this.#lateAtFailure = notice.failure.ranks;
      this.#fail(failureError(notice.failure));
    }
  }

  #fail(error: FuscoError): void {
    if (this.#failure !== undefined || this.#closing !== undefined) return;
    this.#failure = error;
    for (const { resolve, reject, ifFailed } of this.#pending.values()) {
      if (ifFailed === undefined) reject(error);
      else resolve(ifFailed());
    }
    this.#pending.clear();
    this.#worker.unref();
    this.#tellFailure();
  }

  #tellFailure(): void {
    for (const listener of this.#listeners) {
      this.#listeners.delete(listener);
      listener(this.#failure!);
    }
  }

  #refuse(): void {
    if (this.#closing !== undefined) throw new FuscoError('E_CLOSED', 'the session is closed');
    if (this.#failure !== undefined) throw this.#failure;
  }

  #gather(what: string, part: Uint8Array, deadlineMs = this.deadlineMs): Promise<Uint8Array[]> {
    this.#refuse();
    checkInteger('deadlineMs', deadlineMs, 1, MAX_DEADLINE_MS);
    checkInteger('bytes.length', part.length, 0, partLimit(this.worldSize));
    return this.#ask('gather', [what, copyOf(part), deadlineMs]);
  }

  /** Calls a method of the client in the worker. */
  #ask<Name extends Method>(
    op: Name,
    args: Extract<Request, { op: Name }>['args'],
    ifFailed?: () => Answer<Name>,
  ): Promise<Answer<Name>> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#pending.set(id, { resolve, reject, ifFailed });
      // A promise does not keep a process alive; the worker does while a caller waits for it.
      this.#worker.ref();
      this.#post({ op, id, args } as Request);
    });
  }

  #post(request: Request): void {
    this.#worker.postMessage(request);
  }
}

/** A copy in a separate buffer: postMessage would send the whole buffer of a view. */
const copyOf = (bytes: Uint8Array) => Uint8Array.from(bytes);

/** Ranks whose digest is not the most frequent one; among equally frequent ones, the digest of the lowest rank counts. */
export function differingRanks(digests: readonly string[]): number[] {
  const counts = new Map<string, number>();
  for (const digest of digests) counts.set(digest, (counts.get(digest) ?? 0) + 1);
  const most = Math.max(...counts.values());
  const usual = digests.find((digest) => counts.get(digest) === most);
  return [...digests.keys()].filter((rank) => digests[rank] !== usual);
}

async function endWorker(worker: Worker): Promise<void> {
  worker.ref();
  const ended = new Promise<void>((resolve) => {
    worker.once('exit', () => resolve());
  });
  const timer = setTimeout(() => void worker.terminate(), CLOSE_MS);
  worker.postMessage({ op: 'close' } satisfies Request);
  await ended;
  clearTimeout(timer);
}

/**
 * Connects this process to its group and waits until all ranks are connected. Options take precedence over the launcher's
 * variables; docs/multi-process.md lists them. Rank 0 hosts the server.
 *
 * @throws FuscoError E_BOOTSTRAP if rank, size or address are missing or disagree, or if rank 0 refused the secret;
 *   E_PEER_TIMEOUT naming the ranks that did not connect; E_PEER_MISMATCH for another version or world size
 */
export async function connect(options: ConnectOptions = {}): Promise<Session> {
  checkKeys('connect', options, CONNECT_OPTIONS);
  const bootstrap = resolveBootstrap(options, process.env);
  const { rank, host } = bootstrap;
  const log = options.logger ?? ((line: string) => void process.stderr.write(`${line}\n`));
  const setup: WorkerSetup = {
    ...bootstrap,
    listenHost: options.listenHost ?? (isLoopback(host) ? host : undefined),
    version: packageVersion(),
  };
  const worker = new Worker(workerUrl('rendezvous/worker.js'), {
    workerData: setup,
    execArgv: [],
    name: `fusco rank ${rank}`,
  });
  worker.on('message', (notice: Notice) => {
    if (notice.event === 'log') log(notice.line);
  });
  return new Promise((resolve, reject) => {
    const giveUp = (error: FuscoError) => void endWorker(worker).then(() => reject(error));
    const onMessage = (notice: Notice) => {
      if (notice.event === 'failure') return giveUp(failureError(notice.failure));
      if (notice.event !== 'ready') return;
      worker.off('message', onMessage).off('error', onError);
      const { localRank = notice.localRank, localWorldSize = notice.localWorldSize } = bootstrap;
      resolve(new Session(bootstrap, localRank, localWorldSize, worker));
    };
    const onError = (cause: Error) => reject(workerError(cause));
    worker.on('message', onMessage).on('error', onError);
  });
}

function workerError(cause: Error): FuscoError {
  return new FuscoError('E_INTERNAL', `the rendezvous worker failed: ${cause.message}`, { cause });
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host);
}
