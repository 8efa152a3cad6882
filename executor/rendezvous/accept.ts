// Accepts connections on rank 0: checks the hello of each new one. Anyone can open a connection, so each has a time limit
// and a byte limit, and if there are too many, the oldest is closed.

import type { Socket } from 'node:net';
import { encodeFrame, FrameError, FrameReader, MAX_HELLO_BYTES } from './frames.ts';
import {
  type Challenge,
  type Hello,
  isHelloAuthentic,
  makeChallenge,
  makeWelcome,
  PROTOCOL,
  parseHello,
  type Refused,
} from './hello.ts';

/** Maximum number of connections without a hello, in addition to one for each rank. */
const MAX_STRANGERS = 64;

export interface AcceptorOptions {
  readonly secret: string;
  readonly worldSize: number;
  /** Milliseconds that a connection has for its hello. */
  readonly helloMs: number;
  log(line: string): void;
  /** Returns why an authentic hello is refused; undefined accepts it. */
  check(hello: Hello): Omit<Refused, 'type'> | undefined;
  /** Takes over an accepted connection with its reader. The acceptor has removed its own listeners. */
  admit(hello: Hello, socket: Socket, reader: FrameReader): void;
}

export class Acceptor {
  readonly #options: AcceptorOptions;
  /** Connections without a hello in the order of arrival, each with the function that refuses it. */
  readonly #strangers = new Map<Socket, (why: string) => void>();

  constructor(options: AcceptorOptions) {
    this.#options = options;
  }

  /** A new connection. */
  receive(socket: Socket): void {
    const { helloMs, worldSize, log } = this.#options;
    const from = `${socket.remoteAddress}:${socket.remotePort}`;
    const reader = new FrameReader(MAX_HELLO_BYTES);
    const challenge = makeChallenge();
    const leave = () => {
      clearTimeout(timer);
      this.#strangers.delete(socket);
      socket.off('data', onData).off('close', onClose).off('error', onError);
    };
    const refuse = (why: string, answer?: Omit<Refused, 'type'>) => {
      leave();
      log(`rendezvous: refused ${from}: ${why}`);
      socket.on('error', () => {});
      if (answer === undefined) socket.destroy();
      else socket.end(encodeFrame({ type: 'refused', ...answer } as Refused), () => socket.destroy());
    };
    const onData = (chunk: Buffer) => {
      try {
        const hello = this.#readHello(reader, chunk);
        if (hello === undefined) return;
        const answer = this.#judge(hello, challenge);
        if (answer !== undefined) return refuse(answer.text, answer);
        leave();
        socket.write(encodeFrame(makeWelcome(challenge, hello, this.#options.secret)));
        this.#options.admit(hello, socket, reader);
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        refuse(error.message);
      }
    };
    const onClose = () => refuse(reader.partial ? 'half a hello' : 'it left without a hello');
    const onError = (error: Error) => refuse(error.message);
    const timer = setTimeout(() => refuse(`no hello within ${helloMs} ms`), helloMs);
    socket.on('data', onData).on('close', onClose).on('error', onError);
    this.#strangers.set(socket, refuse);
    if (this.#strangers.size > MAX_STRANGERS + worldSize) this.#evictOldest();
    socket.write(encodeFrame(challenge));
  }

  #readHello(reader: FrameReader, chunk: Buffer): Hello | undefined {
    const frames = reader.push(chunk);
    const first = frames.next();
    if (first.done) return undefined;
    const hello = parseHello(first.value);
    // A client sends nothing after its hello until it is welcome.
    if (!frames.next().done || reader.partial) throw new FrameError('more than a hello');
    return hello;
  }

  #judge(hello: Hello, challenge: Challenge): Omit<Refused, 'type'> | undefined {
    const { secret, check } = this.#options;
    if (hello.protocol !== PROTOCOL) {
      const text = `rank ${hello.rank} speaks version ${hello.protocol} of the rendezvous, rank 0 version ${PROTOCOL}`;
      return { reason: 'mismatch', text };
    }
    if (isHelloAuthentic(hello, challenge, secret)) return check(hello);
    return { reason: 'secret', text: 'its secret is another one than that of rank 0' };
  }

  #evictOldest(): void {
    const [refuse] = this.#strangers.values();
    refuse?.('too many connections without a hello');
  }

  /** Closes every connection without a hello. */
  close(): void {
    for (const socket of this.#strangers.keys()) socket.destroy();
  }
}
