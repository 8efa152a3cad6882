// What ranks do together when nothing goes wrong, and when they do different things.

import { once } from 'node:events';
import { createServer } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { encodeFrame } from '../../../executor/rendezvous/frames.ts';
import { makeChallenge, makeWelcome } from '../../../executor/rendezvous/hello.ts';
import { connect, differingRanks, type Session } from '../../../executor/rendezvous/session.ts';
import {
  closeAll,
  errorOf,
  failureOf,
  freePort,
  localGroup,
  resultOf,
  startGroup,
  startRank,
} from './support.ts';

const bytes = (text: string) => new TextEncoder().encode(text);
describe('a group', () => {
  it.each([1, 2, 4, 8])('of %i ranks meets, gathers, broadcasts and agrees', async (worldSize) => {
    const sessions = await localGroup(worldSize);
    expect(sessions.map(({ rank, localRank, localWorldSize }) => [rank, localRank, localWorldSize])).toEqual(
      sessions.map((_, rank) => [rank, rank, worldSize]),
    );
    await Promise.all(sessions.map((session) => session.barrier()));
    // Parts of different sizes, one of them empty.
    const parts = sessions.map((_, rank) => bytes('x'.repeat(rank * 3)));
    const gathered = await Promise.all(sessions.map((session) => session.allGather(parts[session.rank]!)));
    for (const got of gathered) expect(got).toEqual(parts);
    const root = worldSize - 1;
    const sent = await Promise.all(
      sessions.map((session) => session.broadcast(bytes(`r${session.rank}`), root)),
    );
    for (const got of sent) expect(got).toEqual(bytes(`r${root}`));
    await Promise.all(sessions.map((session) => session.agree('plan id', bytes('same'))));
    for (const call of [1, 2n]) {
      await Promise.all(sessions.map((session) => session.enter(call, bytes('d'))));
    }
    await closeAll(sessions);
  });

  it('works across processes, with calls in flight one behind the other', async () => {
    const script = 'connect,barrier,gather a,enter 1 x,enter 2 y,await 3 z,broadcast 1 b,agree plan p,close';
    const ranks = await startGroup([script, script, script]);
    for (const rank of ranks) {
      expect(await resultOf(rank, 'gather a')).toEqual(['a', 'a', 'a']);
      expect(await resultOf(rank, 'broadcast 1 b')).toBe('b');
      await resultOf(rank, 'close');
      await rank.ended;
      expect([rank.child.exitCode, rank.log]).toEqual([0, '']);
    }
  });

  it('keeps the order of calls that are not awaited one by one', async () => {
    const sessions = await localGroup(2);
    const results = sessions.map((session) =>
      Promise.all(Array.from({ length: 50 }, (_, i) => session.allGather(Uint8Array.of(i, session.rank)))),
    );
    for (const result of await Promise.all(results)) {
      expect(result.map((parts) => parts.map((part) => [...part]))).toEqual(
        Array.from({ length: 50 }, (_, i) => [
          [i, 0],
          [i, 1],
        ]),
      );
    }
    await closeAll(sessions);
  });

  it('gathers the largest parts that it takes, and refuses larger ones before they are sent', async () => {
    const sessions = await localGroup(2);
    const parts = sessions.map(({ rank }) => new Uint8Array(1 << 20).fill(rank + 1));
    const gathered = await Promise.all(sessions.map((session) => session.allGather(parts[session.rank]!)));
    for (const got of gathered)
      for (const rank of [0, 1]) expect(Buffer.compare(got[rank]!, parts[rank]!)).toBe(0);
    await expect(sessions[0]!.allGather(new Uint8Array((1 << 20) + 1))).rejects.toMatchObject({
      code: 'E_OPTION',
    });
    await Promise.all(sessions.map((session) => session.barrier()));
    await closeAll(sessions);
  });

  it('says which ranks disagree, on every rank, and goes on', async () => {
    const sessions = await localGroup(3);
    const results = await Promise.allSettled(
      sessions.map((session) => session.agree('plan id', bytes(session.rank === 1 ? 'b' : 'a'))),
    );
    for (const result of results) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'E_PEER_MISMATCH', details: { rank: 1 } },
      });
      expect(String((result as PromiseRejectedResult).reason)).toContain('plan id of rank 1 differs');
    }
    await Promise.all(sessions.map((session) => session.barrier()));
    await closeAll(sessions);
  });

  it('takes what most ranks say for right, and what rank 0 says where that does not decide', () => {
    expect(differingRanks(['a', 'a', 'a'])).toEqual([]);
    expect(differingRanks(['b', 'a', 'a', 'c'])).toEqual([0, 3]);
    expect(differingRanks(['a', 'b'])).toEqual([1]);
    expect(differingRanks(['a', 'b', 'b', 'a'])).toEqual([1, 2]);
    expect(differingRanks(['c', 'a', 'a', 'b', 'b'])).toEqual([0, 3, 4]);
  });
});

describe('ranks that do different things', () => {
  it('in one call all get the same error', async () => {
    const ranks = await startGroup(['a', 'b', 'a'].map((digest) => `connect,enter 1 a,await 2 ${digest}`));
    for (const [rank, digest] of ['a', 'b', 'a'].entries()) {
      const { code, message } = await errorOf(ranks[rank]!, `await 2 ${digest}`);
      expect(code).toBe('E_PEER_MISMATCH');
      // Whichever came later is the one that differs.
      expect(message).toMatch(
        /^in call 2 rank (1 makes a different exchange from ranks? [02]|[02] makes a different exchange from rank 1)/,
      );
    }
  });

  it('are told so in their first call, if the others were faster than the welcome', async () => {
    const failure = { code: 'E_PEER_MISMATCH', text: 'the others differ', ranks: [] };
    // Rank 0, whose welcome and failure come together.
    const server = createServer((socket) => {
      const challenge = makeChallenge();
      socket.on('error', () => {}).write(encodeFrame(challenge));
      socket.once('data', (frame) => {
        const hello = JSON.parse(frame.subarray(8).toString());
        const ready = { type: 'ready', localRank: 1, localWorldSize: 2 };
        const messages = [makeWelcome(challenge, hello, ''), ready, { type: 'failure', failure }];
        socket.write(Buffer.concat(messages.map((message) => encodeFrame(message))));
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    const { port } = server.address() as { port: number };
    const session = await connect({ rank: 1, worldSize: 2, address: `127.0.0.1:${port}`, deadlineMs: 5000 });
    await expect(session.enter(1, bytes('a'))).rejects.toMatchObject({
      code: 'E_PEER_MISMATCH',
      message: 'the others differ',
    });
    await session.close();
  });

  it('in the order of their calls are told so', async () => {
    const sessions = await localGroup(2);
    const failures = sessions.map(failureOf);
    sessions[0]!.announce(5, bytes('a'));
    await expect(sessions[0]!.late(5)).resolves.toMatchObject({ ranks: [{ rank: 1 }] });
    sessions[1]!.announce(6, bytes('a'));
    for (const error of await Promise.all(failures)) {
      expect(error).toMatchObject({ code: 'E_PEER_MISMATCH' });
      expect(error.message).toBe('rank 1 entered call 6 where rank 0 entered call 5');
    }
    await closeAll(sessions);
  });

  it('tell nobody who has stopped listening', async () => {
    const sessions = await localGroup(2);
    const told: string[] = [];
    const [session] = sessions as [Session, Session];
    const listen = (name: string) => session.onFailure(() => told.push(name));
    const forget = listen('left before');
    listen('stayed');
    forget();
    const failures = sessions.map(failureOf);
    session.announce(5, bytes('a'));
    sessions[1]!.announce(6, bytes('a'));
    await Promise.all(failures);
    listen('too late')();
    listen('late');
    await failureOf(session);
    expect(told).toEqual(['stayed', 'late']);
    await closeAll(sessions);
  });

  it('in their calls are told which', async () => {
    const sessions = await localGroup(2);
    const first = sessions[0]!.barrier();
    await sessions[0]!.late(0);
    const second = sessions[1]!.broadcast(bytes('a'), 1);
    const message = 'in operation 0 of the session rank 1 is in a broadcast from rank 1, rank 0 in a barrier';
    expect(await Promise.allSettled([first, second])).toMatchObject([
      { status: 'rejected', reason: { code: 'E_PEER_MISMATCH', message } },
      { status: 'rejected', reason: { code: 'E_PEER_MISMATCH', message } },
    ]);
    await closeAll(sessions);
  });

  it('by their world size are not in one group', async () => {
    const port = await freePort();
    const zero = startRank(0, 'connect', { port, worldSize: 2, deadlineMs: 1500 });
    const one = startRank(1, 'connect', { port, worldSize: 3, deadlineMs: 1500 });
    expect(await errorOf(one, 'connect')).toMatchObject({ code: 'E_PEER_MISMATCH' });
    const error = await errorOf(zero, 'connect');
    expect(error).toMatchObject({ code: 'E_PEER_MISMATCH', rank: 1 });
    expect(error.message).toContain('rank 1 expects 3 ranks, rank 0 expects 2');
    expect(zero.log).toContain('refused 127.0.0.1:');
  });
});

describe('a session', () => {
  it('takes calls in ascending order only, and digests of a bounded size', async () => {
    const [session] = await localGroup(1);
    await session!.enter(3, bytes('a'));
    expect(() => session!.announce(3, bytes('a'))).toThrow(/call is 3; it must be an integer from 4/);
    await expect(session!.enter(2, bytes('a'))).rejects.toMatchObject({ code: 'E_OPTION' });
    await expect(session!.enter(9, new Uint8Array(65))).rejects.toMatchObject({ code: 'E_OPTION' });
    await session!.close();
  });

  it('refuses everything once it is closed, and may be closed twice', async () => {
    const sessions = await localGroup(2);
    const pending = sessions[0]!.barrier();
    const closing = closeAll(sessions);
    await expect(pending).rejects.toMatchObject({ code: 'E_CLOSED' });
    await closing;
    await closeAll(sessions);
    await expect(sessions[1]!.barrier()).rejects.toMatchObject({ code: 'E_CLOSED' });
    await expect(sessions[1]!.late(1)).rejects.toMatchObject({ code: 'E_CLOSED' });
    expect(() => sessions[1]!.announce(1, bytes(''))).toThrow(/closed/);
    expect(sessions.map(({ failure }) => failure)).toEqual([undefined, undefined]);
  });

  it('that one rank closes does not disturb the others until they wait for it', async () => {
    const ranks = await startGroup([
      'connect,enter 1 a,barrier,sleep 300,late 2,enter 2 a,barrier',
      'connect,enter 1 a,barrier,close',
    ]);
    expect(await resultOf(ranks[0]!, 'late 2')).toMatchObject({
      ranks: [{ rank: 0 }, { rank: 1, state: 'closed' }],
    });
    const late = ranks[0]!.lines.find(({ did }) => did === 'late 2')!;
    const failed = ranks[0]!.lines.filter(({ failure }) => failure !== undefined);
    expect(failed.filter(({ at }) => at < late.at)).toEqual([]);
    await ranks[0]!.ended;
    const failure = ranks[0]!.lines.find(({ failure }) => failure !== undefined)?.failure;
    expect(failure).toMatchObject({ code: 'E_PEER_TIMEOUT', rank: 1 });
    expect(failure?.message).toBe('rank 1 has closed its session (last in call 1)');
  });

  it('lets the process end, open or closed, and then says goodbye', async () => {
    const ranks = await startGroup(['connect,barrier,sleep 500', 'connect,barrier']);
    await Promise.all(ranks.map((rank) => rank.ended));
    expect(ranks.map(({ child, log }) => [child.exitCode, log])).toEqual([
      [0, ''],
      [0, ''],
    ]);
    expect(ranks[0]!.lines.some(({ failure }) => failure !== undefined)).toBe(false);
  });
});
