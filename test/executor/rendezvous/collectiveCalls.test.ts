import { describe, expect, it } from 'vitest';
import { CallLog, MAX_CALLS_AHEAD } from '../../../executor/rendezvous/collectiveCalls.ts';
import { encodeFrame, FrameReader } from '../../../executor/rendezvous/frames.ts';
import { Gathering } from '../../../executor/rendezvous/gather.ts';
import { MAX_SERVER_FRAME } from '../../../executor/rendezvous/messages.ts';
import { describeRanks, nameRanks, timeoutError } from '../../../executor/rendezvous/report.ts';

describe('the calls of a group', () => {
  it('are complete when the last rank has entered them, in order', () => {
    const log = new CallLog(3);
    expect(log.enter(0, 1, 'a', true)).toEqual([]);
    expect(log.enter(0, 2, 'b', true)).toEqual([]);
    expect(log.enter(1, 1, 'a', false)).toEqual([]);
    expect(log.enter(2, 1, 'a', true)).toMatchObject([{ call: 1, awaiting: [0, 2] }]);
    expect(log.enter(1, 2, 'b', false)).toEqual([]);
    expect(log.behind(2)).toEqual([2]);
    expect(log.enter(2, 2, 'b', false)).toMatchObject([{ call: 2, awaiting: [0] }]);
    expect([0, 1, 2].map((rank) => log.lastCall(rank))).toEqual([2, 2, 2]);
    expect(log.behind(3)).toEqual([0, 1, 2]);
  });

  it('may leave numbers out, if all ranks do', () => {
    const log = new CallLog(2);
    expect(log.enter(0, 10, 'a', false)).toEqual([]);
    expect(log.enter(1, 10, 'a', false)).toMatchObject([{ call: 10 }]);
    log.enter(0, 20, 'a', false);
    expect(log.enter(1, 19, 'a', false)).toMatchObject({
      code: 'E_PEER_MISMATCH',
      text: 'rank 1 entered call 19 where rank 0 entered call 20',
    });
  });

  it('name all that have entered a call in which one differs', () => {
    const log = new CallLog(4);
    for (const rank of [0, 2, 3]) log.enter(rank, 5, 'a', false);
    expect(log.enter(1, 5, 'b', false)).toMatchObject({
      code: 'E_PEER_MISMATCH',
      text: expect.stringMatching(/^in call 5 rank 1 makes a different exchange from ranks 0, 2, 3:/),
    });
  });

  it('are remembered as far as the fastest rank may be ahead, and no further', () => {
    const log = new CallLog(2);
    for (let call = 0; call < MAX_CALLS_AHEAD; call++) log.enter(0, call, 'a', false);
    expect(log.lastCall(0)).toBe(MAX_CALLS_AHEAD - 1);
    expect(log.enter(0, MAX_CALLS_AHEAD, 'a', false)).toMatchObject({
      code: 'E_PEER_TIMEOUT',
      text: `rank 0 is ${MAX_CALLS_AHEAD} calls ahead of rank 1`,
      ranks: [{ rank: 1, lastCall: undefined }],
    });
  });

  it('are forgotten once all have entered them', () => {
    const log = new CallLog(2);
    let complete = 0;
    for (let call = 0; call < 3 * MAX_CALLS_AHEAD; call++) {
      for (const rank of [0, 1]) {
        const outcome = log.enter(rank, call, 'a', false);
        complete += 'code' in outcome ? Number.NaN : outcome.length;
      }
    }
    expect(complete).toBe(3 * MAX_CALLS_AHEAD);
    expect([log.isBehind(0), log.isBehind(1)]).toEqual([false, false]);
  });
});

describe('a call of all ranks', () => {
  it('is over when all are there, and the next one begins', () => {
    const call = new Gathering(2);
    expect(call.missing()).toEqual([]);
    expect(call.arrive(1, 0, 'a barrier', new Uint8Array(0))).toBeUndefined();
    expect([call.isOpen(0), call.isOpen(1), call.missing()]).toEqual([true, false, [0]]);
    expect(() => call.arrive(1, 0, 'a barrier', new Uint8Array(0))).toThrow('gather 0 out of turn');
    expect(call.arrive(0, 0, 'a barrier', new Uint8Array(0))).toBeInstanceOf(Uint8Array);
    expect([call.isOpen(0), call.isOpen(1)]).toEqual([false, false]);
    expect(() => call.arrive(1, 0, 'a barrier', new Uint8Array(0))).toThrow('gather 0 out of turn');
    expect(call.arrive(1, 1, 'a barrier', new Uint8Array(0))).toBeUndefined();
  });
});

describe('what is said about late ranks', () => {
  const late = { rank: 3, lastCall: 6, silentMs: 120, state: 'behind' } as const;

  it('lists each with its last call', () => {
    const gone = { rank: 1, lastCall: undefined, silentMs: 7, state: 'gone' } as const;
    expect(describeRanks([gone, late])).toBe(
      'rank 1 is gone (in no call yet, last heard 7 ms ago), rank 3 (last in call 6, last heard 120 ms ago)',
    );
    expect(timeoutError(7n, { call: 7, answered: true, ranks: [late] })).toMatchObject({
      code: 'E_PEER_TIMEOUT',
      message:
        'call 7 did not end in time; it was not entered by rank 3 (last in call 6, last heard 120 ms ago)',
      details: { rank: 3, value: 7n },
    });
    expect(timeoutError(7, { call: 7, answered: true, ranks: [] }).message).toContain(
      'every rank has entered it',
    );
  });

  it('stays short in a large group', () => {
    const ranks = Array.from({ length: 4096 }, (_, rank) => ({
      ...late,
      rank,
      lastCall: 2 ** 40,
      silentMs: 86_400_000,
    }));
    expect(describeRanks(ranks).length).toBeLessThan(1200);
    expect(describeRanks(ranks)).toMatch(/ and 4080 more$/);
    const failure = { code: 'E_PEER_TIMEOUT', text: describeRanks(ranks), ranks };
    const frame = encodeFrame({ type: 'failure', failure } as { type: string });
    expect([...new FrameReader(MAX_SERVER_FRAME).push(frame)]).toMatchObject([{ head: { failure } }]);
    expect(nameRanks([5])).toBe('rank 5');
    expect(nameRanks([...ranks.keys()])).toMatch(/^ranks 0, 1, .*15 and 4080 more$/);
  });
});
