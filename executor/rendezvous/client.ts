// A rank's side of the rendezvous, in the worker: its heart-beats, what it waits for, and detection of a lost rank 0.

import type { Socket } from 'node:net';
import { type Address, connectToServer } from './connection.ts';
import { encodeFrame, type Frame, FrameError } from './frames.ts';
import type { Identity } from './hello.ts';
import { type ClientMessage, parseServerMessage, splitParts, type Wait } from './messages.ts';
import { departedFailure, type Failure, type LateRank, type LateReport } from './report.ts';
import { endSocket } from './shutdown.ts';

export interface ClientOptions {
  readonly address: Address;
  readonly identity: Identity;
  readonly secret: string;
  readonly deadlineMs: number;
  readonly heartbeatMs: number;
  /** Called once, when the session fails. */
  onFailure(failure: Failure): void;
}

/** How long the server may take to say who is late. */
const ANSWER_MS = 1500;

/** This rank among the ranks of machines with the same name. */
export interface LocalPlace {
  readonly localRank: number;
  readonly localWorldSize: number;
}

/** Something that this rank waits for. It never rejects: a failure ends the session as a whole. */
interface Pending<T> {
  resolve(value: T): void;
  timer: NodeJS.Timeout | undefined;
}

export class Client {
  readonly #options: ClientOptions;
  #socket: Socket | undefined;
  #beat: NodeJS.Timeout | undefined;
  #beatAt = performance.now();
  #heardAt = performance.now();
  #failure: Failure | undefined;
  #closed = false;
  /** Last call of rank 0 as far as known, and whether it has closed its session. */
  #rootCall: number | undefined;
  #rootClosed = false;
  #lastCall = -1;
  #seq = 0;
  #nextId = 0;
  #ready: Pending<LocalPlace> | undefined;
  #gathering: Pending<Uint8Array[]> | undefined;
  readonly #calls = new Map<number, Pending<void>>();
  readonly #reports = new Map<number, Pending<LateReport> & { call: number }>();
  readonly #latenesses = new Map<number, (behindMs: Float64Array) => void>();

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Connects and waits for all other ranks. Throws FuscoError; calls onFailure once connected. */
  async connect(): Promise<LocalPlace> {
    const { address, identity, secret, deadlineMs, heartbeatMs } = this.#options;
    const started = performance.now();
    const ready = new Promise<LocalPlace>((resolve) => {
      this.#ready = { resolve, timer: undefined };
    });
    this.#socket = await connectToServer(address, identity, secret, deadlineMs, {
      onFrame: (frame) => this.#handle(frame),
      onEnd: (reason) => this.#lost(reason),
    });
    this.#heardAt = this.#beatAt = performance.now();
    // A failure may have come together with the welcome.
    if (this.#failure !== undefined || this.#closed) return ready;
    this.#beat = setInterval(() => this.#beatOnce(), heartbeatMs);
    const left = Math.max(1, deadlineMs - (performance.now() - started));
    if (this.#ready !== undefined) this.#ready.timer = this.#expireAfter(left, { kind: 'connect' }, started);
    return ready;
  }

  /** One all-gather. The caller makes the next one when this one has resolved. */
  gather(what: string, part: Uint8Array, deadlineMs: number): Promise<Uint8Array[]> {
    return new Promise((resolve) => {
      const seq = this.#seq++;
      this.#gathering = { resolve, timer: this.#expireAfter(deadlineMs, { kind: 'gather', seq }) };
      if (this.#rootClosed) return this.#fail(this.#rootFailure('closed'));
      this.#send({ type: 'gather', seq, what }, part);
    });
  }

  /** Enters a call; resolves when all ranks have entered it. */
  enter(call: number, digest: Uint8Array, deadlineMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#calls.set(call, { resolve, timer: this.#expireAfter(deadlineMs, { kind: 'call', call }) });
      this.announce(call, digest, true);
    });
  }

  /** Enters a call without waiting. */
  announce(call: number, digest: Uint8Array, awaited = false): void {
    this.#lastCall = call;
    this.#refuseClosedRoot();
    this.#send({ type: 'enter', call, awaited }, digest);
  }

  /** Which ranks have not entered a call; always answers within 1.5 s. */
  late(call: number): Promise<LateReport> {
    return new Promise((resolve) => {
      const id = this.#nextId++;
      const give = () => {
        this.#reports.delete(id);
        resolve({ call, answered: false, ranks: [this.#root('silent')] });
      };
      if (this.#failure !== undefined) return resolve({ call, answered: true, ranks: this.#failure.ranks });
      this.#reports.set(id, { call, resolve, timer: setTimeout(give, ANSWER_MS) });
      this.#send({ type: 'late', id, call });
    });
  }

  /** Reports that a call did not finish in time: the server ends the session if some ranks have not entered the call. */
  expire(call: number, waitedMs: number): void {
    this.#send({ type: 'timeout', wait: { kind: 'call', call }, waitedMs });
  }

  /** f64[ranks], see Session.lateness; empty after the end of the session. */
  lateness(): Promise<Float64Array> {
    return new Promise((resolve) => {
      if (this.#failure !== undefined || this.#closed) return resolve(new Float64Array(0));
      const id = this.#nextId++;
      this.#latenesses.set(id, resolve);
      this.#send({ type: 'lateness', id });
    });
  }

  /** Says goodbye. Resolves when the server has taken it, or after a bounded time. */
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
      this.#settle(this.#ready, { localRank, localWorldSize });
      this.#ready = undefined;
    } else if (message.type === 'gathered') {
      if (message.seq !== this.#seq - 1)
        throw new FrameError(`the result of gather ${message.seq} out of turn`);
      const gathering = this.#gathering;
      this.#gathering = undefined;
      this.#settle(gathering, splitParts(message.sizes, frame.body, this.#options.identity.worldSize));
    } else if (message.type === 'entered') {
      const call = this.#calls.get(message.call);
      this.#calls.delete(message.call);
      this.#rootCall = Math.max(this.#rootCall ?? 0, message.call);
      this.#settle(call, undefined);
    } else if (message.type === 'report') {
      const report = this.#reports.get(message.id);
      this.#reports.delete(message.id);
      this.#settle(report, message.report);
    } else if (message.type === 'lateness') {
      this.#latenesses.get(message.id)?.(new Float64Array(Uint8Array.from(frame.body).buffer));
      this.#latenesses.delete(message.id);
    } else if (message.type === 'failure') {
      this.#fail(message.failure);
    } else {
      this.#rootCall = message.call ?? this.#rootCall;
      this.#rootClosed = message.type === 'goodbye';
      this.#refuseClosedRoot();
    }
  }

  #settle<T>(pending: Pending<T> | undefined, value: T): void {
    clearTimeout(pending?.timer);
    pending?.resolve(value);
  }

  /** Rank 0 has closed: nobody knows who is late, and a call that it has not entered cannot finish. */
  #refuseClosedRoot(): void {
    if (!this.#rootClosed) return;
    const waits = this.#ready !== undefined || this.#gathering !== undefined || this.#calls.size > 0;
    if (waits || this.#lastCall > (this.#rootCall ?? -1)) this.#fail(this.#rootFailure('closed'));
  }

  /** After the deadline the server decides who is late. If it does not answer, rank 0 is the late one. */
  #expireAfter(ms: number, wait: Wait, started = performance.now()): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#send({ type: 'timeout', wait, waitedMs: performance.now() - started });
      const last = setTimeout(() => {
        if (this.#isPending(wait)) this.#fail(this.#rootFailure('silent'));
      }, ANSWER_MS);
      last.unref();
    }, ms);
    return timer;
  }

  #isPending(wait: Wait): boolean {
    if (wait.kind === 'connect') return this.#ready !== undefined;
    if (wait.kind === 'call') return this.#calls.has(wait.call);
    return this.#gathering !== undefined && wait.seq === this.#seq - 1;
  }

  #beatOnce(): void {
    const { deadlineMs, heartbeatMs } = this.#options;
    const now = performance.now();
    // After a pause of this process, rank 0 must not be taken for silent.
    if (now - this.#beatAt > heartbeatMs + deadlineMs / 2) this.#heardAt = now;
    this.#beatAt = now;
    if (this.#rootClosed) return;
    // Beats for a server that does not read would fill this process's memory.
    if (this.#socket?.writableNeedDrain === false) this.#send({ type: 'beat' });
    if (this.#ready === undefined && now - this.#heardAt > deadlineMs)
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
    for (const { call, resolve, timer } of this.#reports.values()) {
      clearTimeout(timer);
      resolve({ call, answered: true, ranks: failure.ranks });
    }
    this.#reports.clear();
    for (const resolve of this.#latenesses.values()) resolve(new Float64Array(0));
    this.#latenesses.clear();
    if (this.#socket !== undefined) void endSocket(this.#socket);
    this.#options.onFailure(failure);
  }

  #stopTimers(): void {
    clearInterval(this.#beat);
    clearTimeout(this.#ready?.timer);
    clearTimeout(this.#gathering?.timer);
    for (const { timer } of this.#calls.values()) clearTimeout(timer);
  }
}
