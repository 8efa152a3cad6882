// The order of a group's calls, over real sessions whose ranks live in this process; what runs natively is played.

import { describe, expect, it } from 'vitest';
import { StepOrder } from '../../../executor/nccl/steps.ts';
import type { Session } from '../../../executor/rendezvous/session.ts';
import { closeAll, failureOf, localGroup } from '../rendezvous/support.ts';

type Started = [step: number, digest: bigint];

/** An error as the addon throws it. */
const nativeError = (code: string, message: string, details = {}) =>
  Object.assign(new Error(message), { code, ...details });

/** Runs a step that notes when native code would have got it. */
const noted = (order: StepOrder, started: Started[], ...parts: string[]) =>
  order.run(parts, async (step, digest) => {
    started.push([step, digest]);
    return step;
  });

const fails = (error: Error) => () => Promise.reject(error);

/** A group in which every rank has run a step like `parts`. */
async function begun(worldSize: number, ...parts: string[]): Promise<[Session[], StepOrder[]]> {
  const sessions = await localGroup(worldSize);
  const orders = sessions.map((session) => new StepOrder(session));
  await Promise.all(orders.map((order) => noted(order, [], ...parts)));
  return [sessions, orders];
}

describe('steps of a group', () => {
  it('start in the order of the calls though nobody awaits them, with numbers and digests alike on all ranks', async () => {
    const sessions = await localGroup(3);
    const started: Started[][] = [[], [], []];
    const results = sessions.map((session, rank) => {
      const order = new StepOrder(session);
      return Promise.all(['a', 'b', 'a', 'c', 'b'].map((kind) => noted(order, started[rank]!, kind, 'plan')));
    });
    for (const result of await Promise.all(results)) expect(result).toEqual([2, 3, 4, 5, 6]);
    expect(started[0]!.map(([step]) => step)).toEqual([2, 3, 4, 5, 6]);
    const [a, b, again, c, last] = started[0]!.map(([, digest]) => digest);
    expect([again, last]).toEqual([a, b]);
    expect(new Set([a, b, c]).size).toBe(3);
    expect(started[1]).toEqual(started[0]);
    expect(started[2]).toEqual(started[0]);
    await closeAll(sessions);
  });

  it('wait for all ranks where they look like none before, and for nobody where they do not', async () => {
    const sessions = await localGroup(2);
    const orders = sessions.map((session) => new StepOrder(session));
    const started: Started[] = [];
    const first = noted(orders[0]!, started, 'dispatch');
    const overlapping = noted(orders[0]!, started, 'dispatch');
    // Rank 0 has entered it: what does not wait has started.
    await expect
      .poll(async () => (await sessions[0]!.late(2)).ranks)
      .toMatchObject([{ rank: 1, state: 'behind' }]);
    expect(started).toEqual([]);
    await noted(orders[1]!, [], 'dispatch');
    await Promise.all([first, overlapping]);
    await noted(orders[0]!, started, 'dispatch');
    expect(started.map(([step]) => step)).toEqual([2, 3, 4]);
    expect((await sessions[0]!.late(3)).ranks).toMatchObject([{ rank: 1, lastStep: 2 }]);
    await closeAll(sessions);
  });

  it('start while the ones before are still under way', async () => {
    const [sessions, [order]] = await begun(1, 'dispatch');
    const trace: string[] = [];
    const ends: (() => void)[] = [];
    const slow = () => {
      trace.push('begun');
      return new Promise<void>((resolve) => ends.push(resolve)).then(() => void trace.push('ended'));
    };
    const both = [order!.run(['dispatch'], slow), order!.run(['dispatch'], slow)];
    await expect.poll(() => trace).toEqual(['begun', 'begun']);
    for (const end of ends) end();
    await Promise.all(both);
    await closeAll(sessions!);
  });

  it('of two groups share the numbers of their session', async () => {
    const sessions = await localGroup(2);
    const started: Started[][] = [[], []];
    await Promise.all(
      sessions.map((session, rank) => {
        const [one, other] = [new StepOrder(session), new StepOrder(session)];
        const calls = [one, other, one, other].map((order) => noted(order, started[rank]!, 'dispatch'));
        return Promise.all(calls);
      }),
    );
    expect(started[0]!.map(([step]) => step)).toEqual([2, 3, 4, 5]);
    expect(started[1]).toEqual(started[0]);
    await closeAll(sessions);
  });
});

describe('a step that did not end natively in time', () => {
  it('becomes the error that names who had not entered it, ends the session for all, and stays the group’s', async () => {
    const [sessions, orders] = await begun(3, 'dispatch');
    const failures = sessions.map(failureOf);
    const timeout = nativeError('E_PEER_TIMEOUT', 'step 3, an exchange: not done after 50 ms');
    const error = await orders[0]!.run(['dispatch'], fails(timeout)).catch((found) => found);
    expect(error).toMatchObject({ code: 'E_PEER_TIMEOUT', details: { rank: 1, value: 3 } });
    expect(error.message).toMatch(
      /^step 3 did not end in time; it was not entered by rank 1 \(last in step 2, .*\), rank 2 \(last in step 2/,
    );
    for (const failure of await Promise.all(failures)) {
      expect(failure).toMatchObject({ code: 'E_PEER_TIMEOUT', details: { rank: 1 } });
      expect(failure.message).toMatch(/^after \d+ ms step 3 still waits for rank 1 .*, rank 2 /);
    }
    const started: Started[] = [];
    await expect(noted(orders[0]!, started, 'dispatch')).rejects.toBe(error);
    // The others learn it from the session, whatever they call next.
    await expect(noted(orders[2]!, started, 'dispatch')).rejects.toBe(sessions[2]!.failure);
    expect(started).toEqual([]);
    await closeAll(sessions);
  });

  it('keeps its own words where every rank had entered it, and leaves the session and its other groups alone', async () => {
    const [sessions, orders] = await begun(2, 'dispatch');
    const others = sessions.map((session) => new StepOrder(session));
    const timeout = nativeError('E_PEER_TIMEOUT', 'step 3, an exchange: not done after 50 ms', { rank: 1 });
    const ended = await Promise.allSettled([
      noted(orders[1]!, [], 'dispatch'),
      orders[0]!.run(['dispatch'], async () => {
        await expect.poll(async () => (await sessions[0]!.late(3)).ranks).toEqual([]);
        throw timeout;
      }),
    ]);
    const { reason } = ended[1] as PromiseRejectedResult;
    expect(reason).toMatchObject({ code: 'E_PEER_TIMEOUT', message: timeout.message, details: { rank: 1 } });
    await expect(noted(orders[0]!, [], 'dispatch')).rejects.toBe(reason);
    expect(await Promise.all(others.map((order) => noted(order, [], 'combine')))).toEqual([4, 4]);
    await Promise.all(sessions.map((session) => session.barrier()));
    await closeAll(sessions);
  });
});

describe('a step that is refused', () => {
  it('for its buffers leaves the group as it is', async () => {
    const [sessions, orders] = await begun(2, 'dispatch');
    const refusal = nativeError('E_BUFFER', 'from: an address is no multiple of 4 bytes', { limit: 4 });
    const refused = await Promise.allSettled(orders.map((order) => order.run(['combine'], fails(refusal))));
    for (const one of refused) {
      expect(one).toMatchObject({ reason: { name: 'FuscoError', code: 'E_BUFFER', details: { limit: 4 } } });
    }
    expect(await Promise.all(orders.map((order) => noted(order, [], 'dispatch')))).toEqual([4, 4]);
    await closeAll(sessions);
  });

  it('before anything was submitted, by a call that throws, is refused the same way', async () => {
    const [sessions, [order]] = await begun(1, 'dispatch');
    const closed = () => {
      throw nativeError('E_CLOSED', 'the plan is closed');
    };
    await expect(order!.run(['dispatch'], closed)).rejects.toMatchObject({
      name: 'FuscoError',
      code: 'E_CLOSED',
    });
    expect(await noted(order!, [], 'dispatch')).toBe(4);
    await closeAll(sessions);
  });

  it('because ranks do different things names them on every rank, and nothing is moved', async () => {
    const [sessions, orders] = await begun(2, 'dispatch');
    const started: Started[] = [];
    const errors = await Promise.all(
      orders.map((order, rank) => noted(order, started, 'dispatch', `${rank}`).catch((error) => error)),
    );
    for (const [rank, error] of errors.entries()) {
      expect(error).toMatchObject({ code: 'E_PEER_MISMATCH' });
      expect(error.message).toMatch(/^in step 3 rank [01] does another exchange than rank [01]:/);
      await expect(noted(orders[rank]!, started, 'dispatch')).rejects.toBe(error);
    }
    expect(started).toEqual([]);
    await closeAll(sessions);
  });

  it('over a closed session says that it is closed', async () => {
    const [sessions, [order]] = await begun(1, 'dispatch');
    await closeAll(sessions!);
    await expect(noted(order!, [], 'dispatch')).rejects.toMatchObject({ code: 'E_CLOSED' });
  });
});
