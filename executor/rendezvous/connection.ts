// Connects a rank to the server. It tries until the deadline, because rank 0 may start later than others or may still be
// closing an earlier session. The connection that it returns has passed the handshake.

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuscoError } from '../../planner/errors.ts';
import { encodeFrame, type Frame, FrameReader, MAX_HELLO_BYTES } from './frames.ts';
import {
  type Challenge,
  type Hello,
  type Identity,
  isWelcomeAuthentic,
  makeHello,
  parseAnswer,
  parseChallenge,
  type Refused,
} from './hello.ts';
import { MAX_SERVER_FRAME } from './messages.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** Receives the frames after the handshake. Frames may come before `connectToServer` has resolved. */
export interface Receiver {
  /** Throws FrameError for a frame that no honest server sends; the connection is destroyed then. */
  onFrame(frame: Frame): void;
  /** Called once, when the connection has ended for any reason. */
  onEnd(reason: string | undefined): void;
}

/** Milliseconds that one attempt may take. */
const ATTEMPT_MS = 5000;
const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 500;

function refusal({ reason, text }: Refused): FuscoError | Error {
  if (reason === 'busy') return new Error(`rank 0 says: ${text}`);
  return new FuscoError(
    reason === 'secret' ? 'E_BOOTSTRAP' : 'E_PEER_MISMATCH',
    `rank 0 refused this rank: ${text}`,
  );
}

/** The client's side of the handshake, frame by frame. */
class Handshake {
  readonly #identity: Identity;
  readonly #secret: string;
  #challenge: Challenge | undefined;
  #hello: Hello | undefined;

  constructor(identity: Identity, secret: string) {
    this.#identity = identity;
    this.#secret = secret;
  }

  /** The answer to a frame of the server; undefined when the handshake is complete. Throws if it fails. */
  next(frame: Frame): Hello | undefined {
    if (this.#challenge === undefined || this.#hello === undefined) {
      this.#challenge = parseChallenge(frame);
      this.#hello = makeHello(this.#identity, this.#challenge, this.#secret);
      return this.#hello;
    }
    const answer = parseAnswer(frame);
    if (answer.type === 'refused') throw refusal(answer);
    if (isWelcomeAuthentic(answer, this.#challenge, this.#hello, this.#secret)) return undefined;
    throw new Error('whoever listens there does not know the secret');
  }
}

/** One attempt. Rejects with FuscoError if another attempt is useless, with any other error if it may succeed. */
function attempt(
  address: Address,
  identity: Identity,
  secret: string,
  ms: number,
  receiver: Receiver,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, noDelay: true, keepAlive: true });
    const reader = new FrameReader(MAX_HELLO_BYTES);
    const handshake = new Handshake(identity, secret);
    let isOpen = false;
    let reason: string | undefined;
    const take = (frame: Frame) => {
      if (isOpen) return receiver.onFrame(frame);
      const answer = handshake.next(frame);
      if (answer !== undefined) return void socket.write(encodeFrame(answer));
      isOpen = true;
      reader.limit = MAX_SERVER_FRAME;
      clearTimeout(timer);
      resolve(socket);
    };
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${Math.round(ms)} ms`)), ms);
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of reader.push(chunk)) take(frame);
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
    socket.on('error', (error) => {
      reason = error.message;
      if (!isOpen) reject(error);
    });
    socket.on('close', () => {
      clearTimeout(timer);
      if (isOpen) receiver.onEnd(reason);
      else reject(new Error('the connection was closed before the hello was over'));
    });
  });
}

/**
 * Connects, with repeated attempts until the deadline.
 *
 * @throws FuscoError E_PEER_TIMEOUT if no attempt succeeded; E_BOOTSTRAP, E_PEER_MISMATCH if rank 0 refused
 */
export async function connectToServer(
  address: Address,
  identity: Identity,
  secret: string,
  deadlineMs: number,
  receiver: Receiver,
): Promise<Socket> {
  const until = performance.now() + deadlineMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    const left = Math.max(1, until - performance.now());
    try {
      return await attempt(address, identity, secret, Math.min(ATTEMPT_MS, left), receiver);
    } catch (error) {
      if (error instanceof FuscoError) throw error;
      if (performance.now() + pause < until) {
        await sleep(pause);
        continue;
      }
      const where = `${address.host}:${address.port}`;
      const text = `rank ${identity.rank} could not connect to rank 0 at ${where} within ${deadlineMs} ms: ${(error as Error).message}`;
      throw new FuscoError('E_PEER_TIMEOUT', text, { rank: 0, cause: error });
    }
  }
}
