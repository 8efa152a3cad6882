// The order of calls of a rank, over real sessions whose ranks live in this process.

import { describe, expect, it } from 'vitest';
import { CallOrder } from '../../../../executor/backends/nccl/callOrder.ts';
import { closeAll, localGroup } from '../../rendezvous/support.ts';

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
/** What the native side throws. */
const nativeError = (code: string) => Object.assign(new Error(`native ${code}`), { code });

describe('the calls of a rank', () => {
  it('are numbered alike on all ranks and start in the order of the calls, whoever waits for them', async () => {
    const orders = (await localGroup(2)).map((session) => new CallOrder(session));
    const started = await Promise.all(
      orders.map(async (order) => {
        const calls: number[] = [];
        const run = (kind: string, ms: number) =>
          order.run([kind], async (call) => {
            calls.push(call);
            await sleep(ms);
            return call;
          });
        const results = await Promise.all([run('a', 30), run('b', 0), run('a', 10), run('a', 0)]);
        expect(results).toEqual(calls);
        return calls;
      }),
    );
    expect(started).toEqual([
      [2, 3, 4, 5],
      [2, 3, 4, 5],
    ]);
  });

  it('are awaited on all ranks where they look new, and cost a message where they do not', async () => {
    const [one, other] = (await localGroup(2)).map((session) => new CallOrder(session));
    let begun = false;
    const first = one!.run(['dispatch'], async () => {
      begun = true;
    });
    await sleep(100);
    expect(begun).toBe(false);
    await Promise.all([first, other!.run(['dispatch'], async () => {})]);
    expect(begun).toBe(true);
    // Seen before: it begins although the other rank has not come.
    await one!.run(['dispatch'], async () => {});
    await other!.run(['dispatch'], async () => {});
  });

  it('get the first eight bytes of the same digest on all ranks, and another one for another call', async () => {
    const orders = (await localGroup(2)).map((session) => new CallOrder(session));
    const digests = (parts: string[]) =>
      Promise.all(orders.map((order) => order.run(parts, async (_, digest) => digest)));
    const [a, b] = await digests(['dispatch', 'x']);
    expect(a).toBe(b);
    expect((await digests(['dispatch', 'y']))[0]).not.toBe(a);
  });

  it('end with the names of those who did not come, for all ranks and for good', async () => {
    const all = await localGroup(3);
    const [zero, one, two] = all.map((session) => new CallOrder(session));
    const meet = () => [zero!, one!, two!].map((order) => order.run(['x'], async () => {}));
    await Promise.all(meet());
    const fail = (order: CallOrder) => order.run(['x'], () => Promise.reject(nativeError('E_PEER_TIMEOUT')));
    const named = {
      code: 'E_PEER_TIMEOUT',
      message: expect.stringMatching(/call 3 .*rank 2 \(last in call 2/),
    };
    await expect(fail(zero!)).rejects.toMatchObject(named);
    await expect(fail(one!)).rejects.toMatchObject({ code: 'E_PEER_TIMEOUT' });
    // The rank that comes late learns it at once, and the failure stays.
    await expect.poll(() => all[2]!.failure?.code, { timeout: 5000 }).toBe('E_PEER_TIMEOUT');
    await expect(two!.run(['x'], async () => {})).rejects.toMatchObject({ code: 'E_PEER_TIMEOUT' });
    await expect(zero!.run(['y'], async () => {})).rejects.toMatchObject(named);
  });

  it('go on after a call that was refused for its arguments', async () => {
    const orders = (await localGroup(2)).map((session) => new CallOrder(session));
    const refused = orders.map((order) => order.run(['x'], () => Promise.reject(nativeError('E_BUFFER'))));
    for (const run of await Promise.allSettled(refused)) {
      expect(run).toMatchObject({ status: 'rejected', reason: { code: 'E_BUFFER' } });
    }
    expect(await Promise.all(orders.map((order) => order.run(['x'], async () => 'went')))).toEqual([
      'went',
      'went',
    ]);
  });

  it('start while the ones before are still under way', async () => {
    const order = new CallOrder((await localGroup(1))[0]!);
    const trace: string[] = [];
    const slow = async () => {
      trace.push('begun');
      await expect.poll(() => trace.filter((word) => word === 'begun').length).toBe(2);
      trace.push('ended');
    };
    await Promise.all([order.run(['x'], slow), order.run(['x'], slow)]);
    expect(trace).toEqual(['begun', 'begun', 'ended', 'ended']);
  });

  it('keep the native words where every rank had come, and leave the session and its other groups alone', async () => {
    const sessions = await localGroup(2);
    const orders = sessions.map((session) => new CallOrder(session));
    const others = sessions.map((session) => new CallOrder(session));
    await Promise.all(orders.map((order) => order.run(['x'], async () => {})));
    const [failed] = await Promise.allSettled([
      orders[0]!.run(['x'], async () => {
        await expect.poll(async () => (await sessions[0]!.late(3)).ranks).toEqual([]);
        throw Object.assign(nativeError('E_PEER_TIMEOUT'), { rank: 1 });
      }),
      orders[1]!.run(['x'], async () => {}),
    ]);
    const { reason } = failed as PromiseRejectedResult;
    expect(reason).toMatchObject({ message: 'native E_PEER_TIMEOUT', details: { rank: 1 } });
    // For good, and without a number: the next call of the other group is 4 on both ranks.
    await expect(orders[0]!.run(['x'], async () => {})).rejects.toBe(reason);
    expect(await Promise.all(others.map((order) => order.run(['y'], async (call) => call)))).toEqual([4, 4]);
    await Promise.all(sessions.map((session) => session.barrier()));
  });

  it('are refused the same way where the call itself throws, and where the session is closed', async () => {
    const sessions = await localGroup(1);
    const order = new CallOrder(sessions[0]!);
    const throws = () => {
      throw nativeError('E_LIMIT');
    };
    await expect(order.run(['x'], throws)).rejects.toMatchObject({ name: 'FuscoError', code: 'E_LIMIT' });
    expect(await order.run(['x'], async (call) => call)).toBe(3);
    await closeAll(sessions);
    await expect(order.run(['x'], async () => {})).rejects.toMatchObject({ code: 'E_CLOSED' });
  });

  it('end on every rank where two do different things', async () => {
    const [one, other] = (await localGroup(2)).map((session) => new CallOrder(session));
    const runs = [one!.run(['dispatch', 16], async () => {}), other!.run(['dispatch', 32], async () => {})];
    for (const run of await Promise.allSettled(runs)) {
      expect(run).toMatchObject({ status: 'rejected', reason: { code: 'E_PEER_MISMATCH' } });
    }
  });

  it('share their numbers between groups of one session', async () => {
    const [session] = await localGroup(1);
    const [first, second] = [new CallOrder(session!), new CallOrder(session!)];
    const calls = [];
    for (const order of [first, second, second, first])
      calls.push(await order.run(['x'], async (call) => call));
    expect(calls).toEqual([2, 3, 4, 5]);
  });
});

describe('a session', () => {
  it('knows by how much each rank made the others wait', async () => {
    const all = await localGroup(3);
    for (const call of [1, 2]) {
      const entered = [all[0]!, all[1]!].map((session) => session.enter(call, new Uint8Array(1)));
      await sleep(150);
      await Promise.all([...entered, all[2]!.enter(call, new Uint8Array(1))]);
    }
    const behindMs = await all[1]!.lateness();
    expect(behindMs).toHaveLength(3);
    expect(behindMs[2]).toBeGreaterThan(250);
    expect(behindMs[2]! - Math.max(behindMs[0]!, behindMs[1]!)).toBeGreaterThan(150);
  });

  it('ends for all when a rank has waited in vain, and goes on where all had come', async () => {
    const all = await localGroup(2);
    await Promise.all(all.map((session) => session.enter(1, new Uint8Array(1))));
    await expect(all[0]!.timedOut(1, 1234)).resolves.toBeUndefined();
    await Promise.all(all.map((session) => session.barrier()));
    all[0]!.announce(2, new Uint8Array(1));
    await expect(all[0]!.timedOut(2, 1234)).resolves.toMatchObject({ code: 'E_PEER_TIMEOUT' });
    for (const session of all) {
      await expect.poll(() => session.failure?.message, { timeout: 5000 }).toMatch(/call 2 .*rank 1/);
    }
  });
});
