// Both ends of a rendezvous connection, as far as they are functions of the bytes that a peer sends: frames out of chunks
// of any sizes, every message of them, and what two ranks' messages do to the server's memory of calls and calls.

import { CallLog } from '../../executor/rendezvous/collectiveCalls.ts';
import type { Frame } from '../../executor/rendezvous/frames.ts';
import { encodeFrame, FrameError, FrameReader, MAX_HELLO_BYTES } from '../../executor/rendezvous/frames.ts';
import { Gathering } from '../../executor/rendezvous/gather.ts';
import { parseAnswer, parseChallenge, parseHello } from '../../executor/rendezvous/hello.ts';
import {
  MAX_CLIENT_FRAME,
  parseClientMessage,
  parseServerMessage,
  splitParts,
} from '../../executor/rendezvous/messages.ts';
import { failureError, timeoutError } from '../../executor/rendezvous/report.ts';

const WORLD_SIZE = 2;
const LATE = { rank: 1, lastCall: 2, silentMs: 5, state: 'behind' } as const;

/** Runs `call`; a FrameError ends a connection, as it should, and everything else is a finding. */
function refused<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    if (error instanceof FrameError) return undefined;
    throw error;
  }
}

/** The server's side: a message of a rank. */
class Host {
  readonly #gather = new Gathering(WORLD_SIZE);
  readonly #calls = new CallLog(WORLD_SIZE);

  take(rank: number, frame: Frame): void {
    const message = refused(() => parseClientMessage(frame, WORLD_SIZE));
    if (message === undefined) return;
    if (message.type === 'gather') {
      refused(() => this.#gather.arrive(rank, message.seq, message.what, frame.body));
      if (this.#gather.missing().length >= WORLD_SIZE) throw new Error('a call without ranks is open');
    } else if (message.type === 'enter') {
      const digest = Buffer.from(frame.body).toString('hex');
      this.#calls.enter(rank, message.call, digest, message.awaited);
    } else if (message.type === 'late') {
      this.#calls.behind(message.call);
    }
  }
}

/** The first byte says how the rest is cut; two connections take the chunks in turn. */
export function runRendezvous(bytes: Uint8Array): void {
  const size = 1 + (bytes[0] ?? 0);
  const host = new Host();
  const readers = [new FrameReader(MAX_HELLO_BYTES), new FrameReader(MAX_CLIENT_FRAME)];
  const isOver = [false, false];
  for (let at = 1; at < bytes.length; at += size) {
    const rank = size % 2 === 0 ? (at / size) & 1 : 0;
    if (isOver[rank]) continue;
    const frames = refused(() => [...readers[rank]!.push(bytes.subarray(at, at + size))]);
    isOver[rank] = frames === undefined;
    for (const frame of frames ?? []) {
      for (const parse of [parseHello, parseChallenge, parseAnswer]) refused(() => parse(frame));
      const said = refused(() => parseServerMessage(frame, WORLD_SIZE));
      if (said?.type === 'lateness') new Float64Array(Uint8Array.from(frame.body).buffer);
      if (said?.type === 'failure') failureError(said.failure);
      if (said?.type === 'report') timeoutError(said.report.call, said.report);
      refused(() => splitParts(frame.head.sizes, frame.body, WORLD_SIZE));
      host.take(rank, frame);
    }
  }
}

/** Whole conversations of one connection. */
export function rendezvousSeeds(): Uint8Array[] {
  const nonce = 'ab'.repeat(16);
  const frames = (...heads: [object, number][]) =>
    Buffer.concat([
      Uint8Array.of(254),
      ...heads.map(([head, body]) => encodeFrame(head as { type: string }, new Uint8Array(body).fill(7))),
    ]);
  const hello = {
    protocol: 2,
    version: '0.1.0',
    worldSize: 2,
    rank: 1,
    host: 'a',
    nonce,
    mac: 'c'.repeat(64),
  };
  return [
    frames([{ type: 'hello', ...hello }, 0], [{ type: 'beat' }, 0], [{ type: 'goodbye' }, 0]),
    frames([{ type: 'challenge', protocol: 2, nonce }, 0], [{ type: 'welcome', mac: 'd'.repeat(64) }, 0]),
    frames([{ type: 'refused', reason: 'busy', text: 'later' }, 0]),
    frames([{ type: 'gather', seq: 0, what: 'facts' }, 12], [{ type: 'gather', seq: 1, what: 'facts' }, 0]),
    frames([{ type: 'enter', call: 3, awaited: true }, 32], [{ type: 'late', id: 1, call: 3 }, 0]),
    frames([{ type: 'timeout', wait: { kind: 'call', call: 3 }, waitedMs: 5 }, 0]),
    frames([{ type: 'failure', failure: { code: 'E_PEER_TIMEOUT', text: 'x', ranks: [LATE] } }, 0]),
    frames([{ type: 'report', id: 1, report: { call: 3, answered: true, ranks: [LATE] } }, 0]),
    frames([{ type: 'lateness', id: 1 }, 0], [{ type: 'lateness', id: 1 }, 8 * WORLD_SIZE]),
    frames([{ type: 'ready', localRank: 0, localWorldSize: 2 }, 0], [{ type: 'entered', call: 3 }, 0]),
    frames([{ type: 'gathered', seq: 0, sizes: [3, 4] }, 7], [{ type: 'gathered', seq: 1 }, 0]),
  ];
}
