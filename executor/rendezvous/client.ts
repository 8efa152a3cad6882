// A rank's side of the rendezvous, in the worker: its heartbeats, its waits, and the detection of a lost rank 0.

import type { Socket } from 'node:net';
import { connectToServer, type Target } from './connection.ts';
import { encodeFrame, type Frame, FrameError } from './frames.ts';
import { type ClientMessage, parseServerMessage, splitParts, type Wait } from './messages.ts';
import { departedFailure, type Failure, type LateRank, type LateReport } from './report.ts';
import { endSocket } from './shutdown.ts';

export interface ClientOptions extends Target {
  readonly heartbeatMs: number;
  /** Called once, when the session fails. */
  onFailure(failure: Failure): void;
}

type Question = Extract<ClientMessage, { id: number }>;

/** How long the server may take to name the late ranks. */
const ANSWER_MS = 1500;

/** This rank among the ranks of machines with the same name. */
export interface LocalPlace {
  readonly localRank: number;
  readonly localWorldSize: number;
}

/**
 * Something that this rank waits for, or a question to the server. Neither rejects: if the session fails, it ends as a
 * whole, and questions have the answer `ifFailed`.
 */
interface Pending {
  resolve(value: never): void;
  timer?: NodeJS.Timeout | undefined;
  readonly ifFailed?: () => unknown;
}

/** Keys of pending waits and questions. */
const waitKey = (wait: Wait) => JSON.stringify(wait);
const questionKey = (id: number) => `question ${id}`;
const CONNECT: Wait = { kind: 'connect' };

export class Client {
  readonly #options: ClientOptions;
  #socket: Socket | undefined;
  #beat: NodeJS.Timeout | undefined;
  #beatAt = performance.now();
  #heardAt = performance.now();
  #failure: Failure | undefined;
  #closed = false;
  /** Last known call of rank 0, and whether it has closed its session. */
  #rootCall: number | undefined;
  #rootClosed = false;
  #lastCall = -1;
  #seq = 0;
  #nextId = 0;
  /** By waitKey or questionKey. */
  readonly #pending = new Map<string, Pending>();
  /** Resolves when the last all-gather so far has ended. */
  #gathers: Promise<unknown> = Promise.resolve();

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Connects and waits for all other ranks. Throws FuscoError; calls onFailure once connected. */
  async connect(): Promise<LocalPlace> {
    const { deadlineMs, heartbeatMs } = this.#options;
    const started = performance.now();
    const ready = this.#wait<LocalPlace>(waitKey(CONNECT), {});
    this.#socket = await connectToServer(this.#options, {
      onFrame: (frame) => this.#handle(frame),
      onEnd: (reason) => this.#lost(reason),
    });
    this.#heardAt = this.#beatAt = performance.now();
    // A failure may have come together with the welcome.
    if (this.#failure !== undefined || this.#closed) return ready;
    this.#beat = setInterval(() => this.#beatOnce(), heartbeatMs);
    const left = Math.max(1, deadlineMs - (performance.now() - started));
    const pending = this.#pending.get(waitKey(CONNECT));
    if (pending !== undefined) pending.timer = this.#expireAfter(left, CONNECT, started);
    return ready;
  }

  /** One all-gather. It starts when the previous one has ended, and its deadline starts at the same time. */
  gather(what: string, part: Uint8Array, deadlineMs: number): Promise<Uint8Array[]> {
    const gathered = this.#gathers.then(() => {
      const seq = this.#seq++;
      const parts = this.#await<Uint8Array[]>({ kind: 'gather', seq }, deadlineMs);
      if (this.#rootClosed) this.#fail(this.#rootFailure('closed'));
      else this.#send({ type: 'gather', seq, what }, part);
      return parts;
    });
    this.#gathers = gathered;
    return gathered;
  }

  /** Enters a call; resolves when all ranks have entered it. */
  enter(call: number, digest: Uint8Array, deadlineMs: number): Promise<void> {
    const entered = this.#await<void>({ kind: 'call', call }, deadlineMs);
    this.#announce(call, digest, true);
    return entered;
  }

  /** Enters a call without waiting. */
  announce(call: number, digest: Uint8Array): void {
    this.#announce(call, digest, false);
  }

  #announce(call: number, digest: Uint8Array, awaited: boolean): void {
    this.#lastCall = call;
    this.#refuseClosedRoot();
    this.#send({ type: 'enter', call, awaited }, digest);
  }

  /** Which ranks have not entered a call; always answers within 1.5 s. */
  late(call: number): Promise<LateReport> {
    const id = this.#nextId++;
    const silent = () => ({ call, answered: false, ranks: [this.#root('silent')] });
    const timer = setTimeout(() => this.#settle(questionKey(id), silent()), ANSWER_MS);
    const ifFailed = () => ({ call, answered: true, ranks: this.#failure?.ranks ?? [] });
    return this.#ask<LateReport>({ type: 'late', id, call }, { timer, ifFailed });
  }

  /** f64[ranks], see Session.lateness; empty after the end of the session. */
  lateness(): Promise<Float64Array> {
    return this.#ask({ type: 'lateness', id: this.#nextId++ }, { ifFailed: () => new Float64Array(0) });
  }

  /** Reports that a call did not finish in time: the server ends the session if some ranks have not entered the call. */
  expire(call: number, waitedMs: number): void {
    this.#send({ type: 'timeout', wait: { kind: 'call', call }, waitedMs });
  }

  /** Tells the server that this rank leaves. Resolves when the server has received it, or after a bounded time. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopTimers();
    if (this.#socket === undefined || this.#socket.destroyed) return;
    await endSocket(this.#socket, this.#failure === undefined ? encodeFrame({ type: 'goodbye' }) : undefined);
  }

  #send(message: ClientMessage, body?: Uint8Array): void {
    if (this.#failure === undefined && !this.#closed) this.#socket?.write(encodeFrame(message, body));
  }

  #handle(frame: Frame): void {
    if (this.#failure !== undefined || this.#closed) return;
    this.#heardAt = performance.now();
    const message = parseServerMessage(frame, this.#options.identity.worldSize);
    if (message.type === 'ready') {
      const { localRank, localWorldSize } = message;
      this.#settle(waitKey(CONNECT), { localRank, localWorldSize });
    } else if (message.type === 'gathered') {
      const { seq, sizes } = message;
      if (seq !== this.#seq - 1) throw new FrameError(`the result of gather ${seq} out of turn`);
      const parts = splitParts(sizes, frame.body, this.#options.identity.worldSize);
      this.#settle(waitKey({ kind: 'gather', seq }), parts);
    } else if (message.type === 'entered') {
      const { call } = message;
      this.#rootCall = Math.max(this.#rootCall ?? 0, call);
      this.#settle(waitKey({ kind: 'call', call }), undefined);
    } else if (message.type === 'report') {
      this.#settle(questionKey(message.id), message.report);
    } else if (message.type === 'lateness') {
      this.#settle(questionKey(message.id), new Float64Array(Uint8Array.from(frame.body).buffer));
    } else if (message.type === 'failure') {
      this.#fail(message.failure);
    } else {
      this.#rootCall = message.call ?? this.#rootCall;
      this.#rootClosed = message.type === 'goodbye';
      this.#refuseClosedRoot();
    }
  }

  #wait<T>(key: string, pending: Omit<Pending, 'resolve'>): Promise<T> {
    return new Promise((resolve) => {
      this.#pending.set(key, { ...pending, resolve });
    });
  }

  #await<T>(wait: Wait, deadlineMs: number): Promise<T> {
    return this.#wait(waitKey(wait), { timer: this.#expireAfter(deadlineMs, wait) });
  }

  #ask<T>(question: Question, pending: { timer?: NodeJS.Timeout; ifFailed: () => T }): Promise<T> {
    const answer = this.#wait<T>(questionKey(question.id), pending);
    if (this.#failure !== undefined || this.#closed) {
      this.#settle(questionKey(question.id), pending.ifFailed());
    } else this.#send(question);
    return answer;
  }

  #settle(key: string, value: unknown): void {
    const pending = this.#pending.get(key);
    this.#pending.delete(key);
    clearTimeout(pending?.timer);
    pending?.resolve(value as never);
  }

  /** Rank 0 has closed: the late ranks are unknown, and a call that rank 0 has not entered cannot finish. */
  #refuseClosedRoot(): void {
    if (!this.#rootClosed) return;
    const isWaiting = [...this.#pending.values()].some(({ ifFailed }) => ifFailed === undefined);
    if (isWaiting || this.#lastCall > (this.#rootCall ?? -1)) this.#fail(this.#rootFailure('closed'));
  }

  /** After the deadline, the server determines the late ranks. If it does not answer, rank 0 is late. */
  #expireAfter(ms: number, wait: Wait, started = performance.now()): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#send({ type: 'timeout', wait, waitedMs: performance.now() - started });
      const last = setTimeout(() => {
        if (this.#pending.has(waitKey(wait))) this.#fail(this.#rootFailure('silent'));
      }, ANSWER_MS);
      last.unref();
    }, ms);
    return timer;
  }

  #beatOnce(): void {
    const { deadlineMs, heartbeatMs } = this.#options;
    const now = performance.now();
    // After a pause of this process, rank 0 must not be considered silent.
    if (now - this.#beatAt > heartbeatMs + deadlineMs / 2) this.#heardAt = now;
    this.#beatAt = now;
    if (this.#rootClosed) return;
    // Heartbeats for a server that does not read would fill the memory of this process.
    if (this.#socket?.writableNeedDrain === false) this.#send({ type: 'beat' });
    if (!this.#pending.has(waitKey(CONNECT)) && now - this.#heardAt > deadlineMs)
      this.#fail(this.#rootFailure('silent'));
  }

  #lost(reason: string | undefined): void {
    if (!this.#closed && !this.#rootClosed) this.#fail(this.#rootFailure('gone', reason));
  }

  #root(state: LateRank['state']): LateRank {
    const silentMs = Math.round(performance.now() - this.#heardAt);
    return { rank: 0, lastCall: this.#rootCall, silentMs, state };
  }

  #rootFailure(state: LateRank['state'], detail?: string): Failure {
    return departedFailure(this.#root(state), detail);
  }

  #fail(failure: Failure): void {
    if (this.#failure !== undefined || this.#closed) return;
    this.#failure = failure;
    this.#stopTimers();
    for (const [key, { ifFailed }] of this.#pending) {
      if (ifFailed !== undefined) this.#settle(key, ifFailed());
    }
    if (this.#socket !== undefined) void endSocket(this.#socket);
    this.#options.onFailure(failure);
  }

  #stopTimers(): void {
    clearInterval(this.#beat);
    for (const { timer } of this.#pending.values()) clearTimeout(timer);
  }
}
