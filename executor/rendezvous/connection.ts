// Connects a rank to the server. It tries until the deadline, because rank 0 may start later than others or may still be
// closing an earlier session. The connection that it returns has passed the handshake.

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuscoError } from '../../planner/errors.ts';
import { encodeFrame, type Frame, FrameReader, MAX_HELLO_BYTES } from './frames.ts';
import {
  type Hello,
  type Identity,
  isWelcomeAuthentic,
  makeHello,
  parseAnswer,
  parseChallenge,
  type Refused,
} from './hello.ts';
import { MAX_SERVER_FRAME } from './messages.ts';

/** The address of rank 0, and what this rank tells it. */
export interface Target {
  readonly address: { readonly host: string; readonly port: number };
  readonly identity: Identity;
  readonly secret: string;
  readonly deadlineMs: number;
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

/**
 * The client's side of the handshake: receives the server's frames and yields the answer to the first one. Throws if it
 * fails.
 */
function* handshake(identity: Identity, secret: string): Generator<Hello | undefined, void, Frame> {
  const challenge = parseChallenge(yield undefined);
  const hello = makeHello(identity, challenge, secret);
  const answer = parseAnswer(yield hello);
  if (answer.type === 'refused') throw refusal(answer);
  if (!isWelcomeAuthentic(answer, challenge, hello, secret)) {
    throw new Error('whoever listens there does not know the secret');
  }
}

/** One attempt. Rejects with FuscoError if another attempt would fail too, and with any other error if it may succeed. */
function attempt({ address, identity, secret }: Target, ms: number, receiver: Receiver): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, noDelay: true, keepAlive: true });
    const reader = new FrameReader(MAX_HELLO_BYTES);
    const shake = handshake(identity, secret);
    // Runs up to the point where it waits for the first frame.
    shake.next();
    let isOpen = false;
    let reason: string | undefined;
    const take = (frame: Frame) => {
      if (isOpen) return receiver.onFrame(frame);
      const { value: hello } = shake.next(frame);
      if (hello !== undefined) return void socket.write(encodeFrame(hello));
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
export async function connectToServer(target: Target, receiver: Receiver): Promise<Socket> {
  const { address, identity, deadlineMs } = target;
  const until = performance.now() + deadlineMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    const left = Math.max(1, until - performance.now());
    try {
      return await attempt(target, Math.min(ATTEMPT_MS, left), receiver);
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
