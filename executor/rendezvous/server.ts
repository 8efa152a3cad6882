// Rank 0's side of the rendezvous: it knows which ranks have connected and what each has entered, and tells all ranks
// when the group has failed. It runs in the worker of rank 0's process, next to the worker's client.

import { once } from 'node:events';
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuscoError } from '../../planner/errors.ts';
import { Acceptor } from './accept.ts';
import { CallLog } from './collectiveCalls.ts';
import type { Bootstrap } from './environment.ts';
import { encodeFrame, type Frame, FrameError, type FrameReader } from './frames.ts';
import { Gathering } from './gather.ts';
import { findMismatch, type Hello, type Refused } from './hello.ts';
import { MAX_CLIENT_FRAME, parseClientMessage, type ServerMessage, type Wait } from './messages.ts';
import { departedFailure, type Failure, type LateRank, type LateReport, missingFailure } from './report.ts';
import { endSocket } from './shutdown.ts';

export interface ServerOptions
  extends Pick<Bootstrap, 'port' | 'worldSize' | 'secret' | 'deadlineMs' | 'heartbeatMs'> {
  /** Interface to listen on; all of them if it is undefined. */
  readonly host: string | undefined;
  readonly version: string;
  log(line: string): void;
}

/** Milliseconds that a new connection has to send its hello. */
const HELLO_MS = 3000;
const RETRY_MS = 50;

/** A rank whose hello was accepted. */
interface Member {
  readonly rank: number;
  readonly host: string;
  readonly socket: Socket;
  heardAt: number;
  /** Whether it has announced that it leaves. */
  closed: boolean;
}

type State = 'forming' | 'ready' | 'failed' | 'closed';

export class Server {
  readonly #options: ServerOptions;
  readonly #listener: NetServer;
  readonly #acceptor: Acceptor;
  readonly #members: (Member | undefined)[];
  /** Ranks that were refused, with the reason, for the error of the ranks that wait for them. */
  readonly #refused = new Map<number, string>();
  readonly #calls: CallLog;
  readonly #gather: Gathering;
  #state: State = 'forming';
  #beat: NodeJS.Timeout | undefined;
  #beatAt = performance.now();
  #ending: Promise<void> | undefined;

  private constructor(options: ServerOptions) {
    const { worldSize, secret, log } = options;
    this.#options = options;
    this.#members = new Array(worldSize).fill(undefined);
    this.#calls = new CallLog(worldSize);
    this.#gather = new Gathering(worldSize);
    this.#acceptor = new Acceptor({
      secret,
      worldSize,
      log,
      helloMs: HELLO_MS,
      check: (hello) => this.#check(hello),
      admit: (hello, socket, reader) => this.#admit(hello, socket, reader),
    });
    this.#listener = createServer({ noDelay: true, keepAlive: true }, (socket) =>
      this.#acceptor.receive(socket),
    );
  }

  /**
   * Listens; waits until the deadline for a port that an older session still holds.
   *
   * @throws FuscoError E_BOOTSTRAP
   */
  static async listen(options: ServerOptions): Promise<Server> {
    const until = performance.now() + options.deadlineMs;
    for (;;) {
      const server = new Server(options);
      try {
        await server.#bind();
        return server;
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        if (code === 'EADDRINUSE' && performance.now() + RETRY_MS < until) {
          await sleep(RETRY_MS);
          continue;
        }
        const advice = code === 'EADDRINUSE' ? '; choose another MASTER_PORT' : '';
        throw new FuscoError('E_BOOTSTRAP', `rank 0 cannot listen: ${message}${advice}`, { cause: error });
      }
    }
  }

  async #bind(): Promise<void> {
    const { host, port, heartbeatMs } = this.#options;
    this.#listener.listen({ port, host, backlog: 4096 });
    await once(this.#listener, 'listening');
    // Accepting may fail while the process has too many files open; clients then try again.
    this.#listener.on('error', (error) => this.#options.log(`rendezvous: ${error.message}`));
    this.#beat = setInterval(() => this.#beatOnce(), heartbeatMs);
  }

  /** The port that it listens on. */
  get port(): number {
    return (this.#listener.address() as { port: number }).port;
  }

  #check(hello: Hello): Omit<Refused, 'type'> | undefined {
    const { version, worldSize } = this.#options;
    const mismatch = findMismatch(hello, version, worldSize);
    if (mismatch !== undefined) {
      if (this.#refused.size < worldSize) this.#refused.set(hello.rank, mismatch);
      return { reason: 'mismatch', text: mismatch };
    }
    if (this.#state !== 'forming') {
      return { reason: 'busy', text: `a session with rank ${hello.rank} is running already` };
    }
    if (this.#members[hello.rank] === undefined) return undefined;
    return { reason: 'mismatch', text: `rank ${hello.rank} is connected already, from another process` };
  }

  #admit({ rank, host }: Hello, socket: Socket, reader: FrameReader): void {
    const member: Member = { rank, host, socket, heardAt: performance.now(), closed: false };
    this.#members[rank] = member;
    this.#refused.delete(rank);
    reader.limit = MAX_CLIENT_FRAME;
    socket.on('data', (chunk: Buffer) => {
      member.heardAt = performance.now();
      try {
        for (const frame of reader.push(chunk)) {
          if (this.#isOver) return;
          this.#handle(member, frame);
        }
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        this.#fail(departedFailure(this.#describe(rank, 'gone'), `it sent ${error.message}`));
        socket.destroy();
      }
    });
    let broken: Error | undefined;
    socket.on('error', (error) => {
      broken = error;
    });
    socket.on('close', () => this.#leave(member, broken));
    if (this.#members.every((one) => one !== undefined)) this.#begin(this.#members as Member[]);
  }

  get #isOver(): boolean {
    return this.#state === 'failed' || this.#state === 'closed';
  }

  /** All ranks are there. Ranks with equal machine names are local to each other, numbered in ascending order. */
  #begin(members: readonly Member[]): void {
    this.#state = 'ready';
    const sizes = new Map<string, number>();
    const localRanks = members.map(({ host }) => {
      const localRank = sizes.get(host) ?? 0;
      sizes.set(host, localRank + 1);
      return localRank;
    });
    for (const { rank, host } of members) {
      this.#send(rank, { type: 'ready', localRank: localRanks[rank]!, localWorldSize: sizes.get(host)! });
    }
  }

  #handle(member: Member, frame: Frame): void {
    const { rank } = member;
    const message = parseClientMessage(frame, this.#options.worldSize);
    if (message.type === 'beat') return;
    if (message.type === 'goodbye') {
      this.#close(member);
    } else if (message.type === 'timeout') {
      this.#expire(message.wait, message.waitedMs);
    } else if (message.type === 'late') {
      this.#send(rank, { type: 'report', id: message.id, report: this.#report(message.call) });
    } else if (message.type === 'lateness') {
      const words: ServerMessage = { type: 'lateness', id: message.id };
      member.socket.write(encodeFrame(words, Uint8Array.from(new Uint8Array(this.#calls.behindMs.buffer))));
    } else if (this.#state === 'forming') {
      throw new FrameError(`"${message.type}" before all ranks were there`);
    } else if (message.type === 'enter') {
      this.#enter(rank, message.call, Buffer.from(frame.body).toString('hex'), message.awaited);
    } else {
      this.#arrive(rank, message.seq, message.what, frame.body);
    }
  }

  #arrive(rank: number, seq: number, what: string, part: Uint8Array): void {
    const outcome = this.#gather.arrive(rank, seq, what, part);
    if (outcome instanceof Uint8Array) this.#broadcast(outcome);
    else if (outcome !== undefined) this.#fail(outcome);
    else this.#refuseDeparted();
  }

  #enter(rank: number, call: number, digest: string, awaited: boolean): void {
    const outcome = this.#calls.enter(rank, call, digest, awaited);
    if ('code' in outcome) {
      this.#fail(outcome);
      return;
    }
    for (const { call, awaiting } of outcome) {
      for (const one of awaiting) this.#send(one, { type: 'entered', call });
    }
    this.#refuseDeparted();
  }

  /** Ends the session if some rank waits for a rank that has closed its session. */
  #refuseDeparted(): void {
    const missing = this.#gather.missing();
    const member = this.#members.find(
      (one) => one?.closed && (this.#calls.isBehind(one.rank) || missing.includes(one.rank)),
    );
    if (member !== undefined) this.#fail(departedFailure(this.#describe(member.rank, 'closed')));
  }

  #close(member: Member): void {
    member.closed = true;
    member.socket.end();
    if (this.#state === 'forming') this.#members[member.rank] = undefined;
    else this.#refuseDeparted();
  }

  /** A connection has ended. While the group forms, the rank may connect again; afterwards the session fails. */
  #leave(member: Member, broken: Error | undefined): void {
    if (this.#isOver || member.closed) return;
    if (this.#state === 'forming') {
      this.#members[member.rank] = undefined;
      this.#options.log(`rendezvous: rank ${member.rank} left before all ranks were there`);
      return;
    }
    this.#fail(departedFailure(this.#describe(member.rank, 'gone'), broken?.message));
  }

  /** A rank has waited until its deadline. If the event has happened in the meantime, the rank has already been told. */
  #expire(wait: Wait, waitedMs: number): void {
    const late = (ranks: readonly number[]) => ranks.map((rank) => this.#describe(rank, 'behind'));
    if (wait.kind === 'connect') {
      if (this.#state === 'forming') this.#fail(this.#formingFailure(waitedMs));
    } else if (wait.kind === 'call') {
      const behind = this.#calls.behind(wait.call);
      if (behind.length > 0) this.#fail(missingFailure(`call ${wait.call}`, waitedMs, late(behind)));
    } else if (this.#gather.isOpen(wait.seq)) {
      this.#fail(missingFailure(this.#gather.what, waitedMs, late(this.#gather.missing())));
    }
  }

  #formingFailure(waitedMs: number): Failure {
    const absent = [...this.#members.keys()].filter((rank) => this.#members[rank] === undefined);
    const late = absent.map((rank) => this.#describe(rank, 'absent'));
    const failure = missingFailure('connecting', waitedMs, late);
    if (this.#refused.size === 0) return failure;
    const reasons = [...this.#refused.values()].slice(0, 4).join('; ');
    return { ...failure, code: 'E_PEER_MISMATCH', text: `${failure.text}; refused: ${reasons}` };
  }

  #describe(rank: number, state: LateRank['state']): LateRank {
    const member = this.#members[rank];
    const silentMs = member === undefined ? undefined : Math.round(performance.now() - member.heardAt);
    return { rank, lastCall: this.#calls.lastCall(rank), silentMs, state: member?.closed ? 'closed' : state };
  }

  #report(call: number): LateReport {
    const ranks = this.#calls.behind(call).map((rank) => this.#describe(rank, 'behind'));
    return { call, answered: true, ranks };
  }

  #beatOnce(): void {
    const { deadlineMs, heartbeatMs } = this.#options;
    const now = performance.now();
    // After a pause of this process, the other ranks must not be considered silent.
    const paused = now - this.#beatAt > heartbeatMs + deadlineMs / 2;
    this.#beatAt = now;
    if (this.#state !== 'ready') return;
    const present = this.#members.filter((member) => member?.closed === false) as Member[];
    const words: ServerMessage = { type: 'beat', call: this.#calls.lastCall(0) };
    const beat = encodeFrame(words);
    for (const member of present) {
      if (paused) member.heardAt = now;
      // Heartbeats for a rank that does not read would fill the memory of this process.
      if (!member.socket.writableNeedDrain) member.socket.write(beat);
    }
    const silent = present.find(({ heardAt }) => now - heardAt > deadlineMs);
    if (silent !== undefined) this.#fail(departedFailure(this.#describe(silent.rank, 'silent')));
  }

  #send(rank: number, message: ServerMessage): void {
    const member = this.#members[rank];
    if (member !== undefined && !member.closed) member.socket.write(encodeFrame(message));
  }

  #broadcast(frame: Uint8Array): void {
    for (const member of this.#members) {
      if (member !== undefined && !member.closed) member.socket.write(frame);
    }
  }

  /** Ends the session: tells every rank why, and frees the port. */
  #fail(failure: Failure): void {
    if (this.#isOver) return;
    this.#state = 'failed';
    this.#options.log(`rendezvous: ${failure.text}`);
    this.#ending = this.#end({ type: 'failure', failure });
  }

  /** Sends a last frame to every rank. Resolves when all have received it, or after a bounded time. */
  async #end(last: ServerMessage): Promise<void> {
    clearInterval(this.#beat);
    this.#listener.close();
    this.#acceptor.close();
    const frame = encodeFrame(last);
    await Promise.all(
      this.#members.map((member) => {
        if (member === undefined || member.socket.destroyed) return undefined;
        return endSocket(member.socket, member.closed ? undefined : frame);
      }),
    );
  }

  /** Tells every rank that the server closes, and frees the port and all connections. */
  async close(): Promise<void> {
    if (!this.#isOver) {
      this.#state = 'closed';
      this.#ending = this.#end({ type: 'goodbye', call: this.#calls.lastCall(0) });
    }
    await this.#ending;
  }
}
