// Whoever else finds the port: refused, logged, and unable to hold up the group.

import { once } from 'node:events';
import type { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import {
  encodeFrame,
  type Frame,
  FrameReader,
  MAX_HELLO_BYTES,
} from '../../../executor/rendezvous/frames.ts';
import {
  type Identity,
  makeHello,
  parseChallenge,
  type Refused,
} from '../../../executor/rendezvous/hello.ts';
import { MAX_SERVER_FRAME } from '../../../executor/rendezvous/messages.ts';
import { packageVersion } from '../../../executor/version.ts';
import { errorOf, freePort, type Rank, resultOf, startRank, stranger } from './support.ts';

const SECRET = 'of this group';
const HELLO_MS = 3000;

/** The next frame that arrives; nothing if the connection ends before. */
async function nextFrame(socket: Socket): Promise<Frame | undefined> {
  const reader = new FrameReader(MAX_SERVER_FRAME);
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    const { value } = reader.push(chunk).next();
    if (value !== undefined) return value;
  }
  return undefined;
}

/** Plays a rank up to the answer to its hello. */
async function introduce(port: number, changes: Partial<Identity & { protocol: number }>, secret = SECRET) {
  const socket = await stranger(port);
  const challenge = parseChallenge((await nextFrame(socket))!);
  const identity = { version: packageVersion(), worldSize: 3, rank: 2, host: 'here', ...changes };
  const { protocol = challenge.protocol } = changes;
  const hello = { ...makeHello(identity, challenge, secret), protocol };
  socket.write(encodeFrame(hello));
  return { socket, answer: (await nextFrame(socket))!.head as unknown as Refused };
}

/** Whether the other side ends the connection within this time. */
async function isEnded(socket: Socket, ms: number): Promise<boolean> {
  if (socket.destroyed) return true;
  socket.resume();
  const late = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), ms));
  return Promise.race([once(socket, 'close').then(() => true), late]);
}

/** Rank 0 waits for ranks 1 and 2, who will come when they are called. */
async function formingGroup() {
  const port = await freePort();
  const options = { port, worldSize: 3, deadlineMs: 20_000, env: { FUSCO_SECRET: SECRET } };
  const zero = startRank(0, 'connect,barrier,close', options);
  const join = () => [1, 2].map((rank) => startRank(rank, 'connect,barrier,close', options));
  return { port, zero, join };
}

/** Every rank does all that it should. Its log is complete then. */
async function works(ranks: readonly Rank[]): Promise<void> {
  for (const rank of ranks) {
    await resultOf(rank, 'close');
    await rank.ended;
    expect(rank.lines.some(({ error, failure }) => error ?? failure)).toBe(false);
  }
}

const prefix = (total: number, head: number) => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(total, 0);
  bytes.writeUInt32LE(head, 4);
  return bytes;
};

// Groups run side by side: each has a separate port, and most of their time is waiting.
describe.concurrent('a stranger at the port of a group', () => {
  it.each<[string, Uint8Array, RegExp]>([
    ['garbage', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), /a frame of \d+ bytes, more than 1024/],
    ['a huge length', prefix(0xffff_ffff, 16), /a frame of 4294967295 bytes, more than 1024/],
    ['another frame', encodeFrame({ type: 'beat' }), /something other than a hello/],
    ['no JSON', Buffer.concat([prefix(4, 4), Buffer.from('oops')]), /no JSON/],
    [
      'a hello of wrong types',
      encodeFrame({ type: 'hello', rank: 'two' } as { type: string }),
      /other than a hello/,
    ],
  ])('with %s is refused at once and logged', async (_, bytes, reason) => {
    const { port, zero, join } = await formingGroup();
    const socket = await stranger(port);
    socket.write(bytes);
    expect(await isEnded(socket, HELLO_MS - 1000)).toBe(true);
    await works([zero, ...join()]);
    expect(zero.log).toMatch(reason);
    expect(zero.log).toMatch(/^rendezvous: refused (::ffff:)?127\.0\.0\.1:\d+: /);
  });

  it('with half a frame, or nothing, is refused when its time is over, and holds up nobody', async () => {
    const { port, zero, join } = await formingGroup();
    const half = await stranger(port);
    half.write(Buffer.concat([prefix(200, 190), Buffer.from('{"type":"hel')]));
    const mute = await stranger(port);
    const left = await stranger(port);
    left.write(prefix(100, 90));
    left.end();
    expect(await Promise.all([half, mute].map((socket) => isEnded(socket, HELLO_MS + 2000)))).toEqual([
      true,
      true,
    ]);
    await works([zero, ...join()]);
    expect(zero.log.match(/no hello within 3000 ms/g)).toHaveLength(2);
    expect(zero.log).toContain('half a hello');
  });

  it('hundreds of idle connections keep no rank out, before the group is there or after', async () => {
    const { port, zero, join } = await formingGroup();
    const idle = await Promise.all(Array.from({ length: 300 }, () => stranger(port)));
    const others = join();
    const more = Promise.all(Array.from({ length: 100 }, () => stranger(port)));
    await works([zero, ...others]);
    expect(zero.log).toContain('too many connections without a hello');
    await more;
    expect(await isEnded(idle[0]!, 1000)).toBe(true);
  });

  it('disturbs no group that works', async () => {
    const port = await freePort();
    const script = `connect,${Array.from({ length: 40 }, (_, i) => `await ${i} a,sleep 20`).join(',')},close`;
    const ranks = [0, 1].map((rank) => startRank(rank, script, { port }));
    await Promise.all(ranks.map((rank) => rank.line('connect')));
    const sockets = await Promise.all(Array.from({ length: 200 }, () => stranger(port)));
    for (const [i, socket] of sockets.entries()) {
      if (i % 2 === 0) socket.write(Buffer.alloc(70_000, i));
    }
    const { answer } = await introduce(port, { worldSize: 2, rank: 1 }, '');
    expect(answer).toMatchObject({ type: 'refused', reason: 'busy' });
    await works(ranks);
  });

  it('with another secret is refused, and the rank that has it is told', async () => {
    const { port, zero, join } = await formingGroup();
    const { answer } = await introduce(port, {}, 'guessed');
    expect(answer).toMatchObject({ type: 'refused', reason: 'secret' });
    const wrong = startRank(1, 'connect', { port, worldSize: 3, env: { FUSCO_SECRET: 'other' } });
    const none = startRank(1, 'connect', { port, worldSize: 3 });
    for (const rank of [wrong, none]) {
      const { code, message } = await errorOf(rank, 'connect');
      expect(code).toBe('E_BOOTSTRAP');
      expect(message).toContain('its secret is another one');
    }
    await works([zero, ...join()]);
  });

  it('that copies an old hello is refused: every connection has another challenge', async () => {
    const { port, zero, join } = await formingGroup();
    const first = await stranger(port);
    const challenge = parseChallenge((await nextFrame(first))!);
    const identity = { version: packageVersion(), worldSize: 3, rank: 1, host: 'here' };
    const copied = encodeFrame(makeHello(identity, challenge, SECRET));
    const second = await stranger(port);
    await nextFrame(second);
    second.write(copied);
    expect((await nextFrame(second))!.head).toMatchObject({ type: 'refused', reason: 'secret' });
    await works([zero, ...join()]);
  });

  it.each<[string, Partial<Identity & { protocol: number }>, RegExp]>([
    ['version', { version: '0.0.0' }, /rank 2 has version 0\.0\.0 of fusco, rank 0 has \d/],
    ['world size', { worldSize: 4 }, /rank 2 expects 4 ranks, rank 0 expects 3/],
    ['rank beyond the group', { rank: 3 }, /rank 3 is not in \[0, 3\)/],
    ['protocol', { protocol: 99 }, /rank 2 speaks version 99/],
  ])('that knows the secret but has another %s is refused with the reason', async (_, changes, reason) => {
    const { port, zero, join } = await formingGroup();
    const { answer } = await introduce(port, changes);
    expect(answer).toMatchObject({
      type: 'refused',
      reason: 'mismatch',
      text: expect.stringMatching(reason),
    });
    await works([zero, ...join()]);
    expect(zero.log).toMatch(reason);
  });

  it('that is a rank which is there already is refused, and the place is free when the first one leaves', async () => {
    const { port, zero, join } = await formingGroup();
    const first = await introduce(port, { rank: 1 });
    expect(first.answer.type).toBe('welcome');
    const { answer } = await introduce(port, { rank: 1 });
    const text = expect.stringMatching(/rank 1 is connected already/);
    expect(answer).toMatchObject({ type: 'refused', reason: 'mismatch', text });
    first.socket.destroy();
    await expect.poll(() => zero.log, { timeout: 5000 }).toContain('rank 1 left before all ranks were there');
    await works([zero, ...join()]);
  });

  it('is named when the deadline passes, where it was a rank with another version', async () => {
    const port = await freePort();
    const zero = startRank(0, 'connect', { port, worldSize: 2, deadlineMs: 1200 });
    await introduce(port, { version: '9.9.9', worldSize: 2, rank: 1 }, '');
    const { code, message, rank } = await errorOf(zero, 'connect');
    expect([code, rank]).toEqual(['E_PEER_MISMATCH', 1]);
    expect(message).toContain('rank 1 has version 9.9.9');
  });

  it('that played a rank and then sends what no rank sends ends the session with its name', async () => {
    const port = await freePort();
    const zero = startRank(0, 'connect,barrier', { port, worldSize: 2 });
    const { socket, answer } = await introduce(port, { worldSize: 2, rank: 1 }, '');
    expect(answer.type).toBe('welcome');
    await resultOf(zero, 'connect');
    socket.write(encodeFrame({ type: 'gather', seq: 7, what: 'a barrier' } as { type: string }));
    const { code, message } = await errorOf(zero, 'barrier');
    expect(code).toBe('E_PEER_TIMEOUT');
    expect(message).toContain('rank 1 is gone');
    expect(message).toContain('it sent gather 7 out of turn');
  });

  it.each<[string, Uint8Array]>([
    ['garbage', Buffer.from('no frame at all, and none that could be one')],
    ['a silent connection', new Uint8Array(0)],
  ])(
    'that listens where rank 0 should, with %s, does not stop a rank from giving up in time',
    async (_, bytes) => {
      const { createServer } = await import('node:net');
      const server = createServer((socket) => socket.on('error', () => {}).write(bytes)).listen(
        0,
        '127.0.0.1',
      );
      await once(server, 'listening');
      const { port } = server.address() as { port: number };
      const one = startRank(1, 'connect', { port, worldSize: 2, deadlineMs: 1000 });
      const { code, message } = await errorOf(one, 'connect');
      expect([code, message]).toEqual([
        'E_PEER_TIMEOUT',
        expect.stringContaining('could not connect to rank 0'),
      ]);
      await one.ended;
      server.close();
    },
  );

  it('cannot fill the memory with what it sends before its hello', () => {
    expect(MAX_HELLO_BYTES).toBeLessThanOrEqual(1024);
  });
});
