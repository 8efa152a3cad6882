// Ranks that are killed, stopped or busy, at every stage: each survivor is told which, and in which call it was last.
// Concurrent ones run side by side, since most of their time is waiting; first those whose deadlines are not waited out,
// then, a few at a time, those that look at time.

import { describe, expect, it, vi } from 'vitest';
import { errorOf, freePort, type Line, type Rank, resultOf, startGroup, startRank } from './support.ts';

/** Where it is waited out. */
const DEADLINE_MS = 3000;
/** Where it is not: groups that start side by side may take their time. */
const LONG_MS = 20_000;
/** No survivor may need longer than its deadline and this. */
const MARGIN_MS = 20_000;

/** Runs something and gives what it gives, unless it needs longer than the deadline allows. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  const started = performance.now();
  const value = await work;
  expect(performance.now() - started).toBeLessThan(DEADLINE_MS + MARGIN_MS);
  return value;
}

/** Waits until a rank is in the middle of an action: it is not over 300 ms after the one before. */
async function isIn(rank: Rank, before: string): Promise<void> {
  await rank.line(before);
  await new Promise((resolve) => setTimeout(resolve, 300));
}

const failuresOf = (rank: Rank): Line[] => rank.lines.filter(({ failure }) => failure !== undefined);

/** Stages at which a rank ends, each with what the rank and its two peers do meanwhile. */
const STAGES: readonly {
  stage: string;
  script: string;
  peers: string;
  before: string;
  waiting: string;
  last: string;
}[] = [
  {
    stage: 'after its hello',
    script: 'connect,hold',
    peers: 'connect,barrier',
    before: 'hold',
    waiting: 'barrier',
    last: 'in no call yet',
  },
  {
    stage: 'in a barrier',
    script: 'connect,enter 3 a,barrier',
    peers: 'connect,enter 3 a,sleep 900,barrier',
    before: 'enter 3 a',
    waiting: 'barrier',
    last: 'last in call 3',
  },
  {
    stage: 'in a call that it waits for',
    script: 'connect,await 4 a,await 5 a',
    peers: 'connect,await 4 a,sleep 900,await 5 a',
    before: 'await 4 a',
    waiting: 'await 5 a',
    last: 'last in call 5',
  },
  {
    stage: 'between two calls',
    script: 'connect,await 6 a,hold',
    peers: 'connect,await 6 a,enter 7 a,await 8 a',
    before: 'hold',
    waiting: 'await 8 a',
    last: 'last in call 6',
  },
];

describe.concurrent.each([2, 1, 0])('rank %i of three, killed', (victim) => {
  it.each(STAGES)('$stage: every survivor names it', async ({ script, peers, before, waiting, last }) => {
    const scripts = [peers, peers, peers];
    scripts[victim] = script;
    const ranks = await startGroup(scripts, { deadlineMs: LONG_MS });
    await isIn(ranks[victim]!, before);
    ranks[victim]!.signal('SIGKILL');
    const survivors = ranks.filter((_, rank) => rank !== victim);
    const errors = await inTime(Promise.all(survivors.map((rank) => errorOf(rank, waiting))));
    for (const { code, message, rank } of errors) {
      expect([code, rank]).toEqual(['E_PEER_TIMEOUT', victim]);
      expect(message).toContain(`rank ${victim} is gone`);
      expect(message).toContain(last);
    }
    for (const rank of survivors) {
      expect(failuresOf(rank).map(({ failure }) => failure?.rank)).toEqual([victim]);
    }
  });
});

describe.concurrent('a rank that connects, dies and is started again before the group is there', () => {
  it('takes its place', async () => {
    const port = await freePort();
    const options = { port, worldSize: 3, deadlineMs: LONG_MS };
    const zero = startRank(0, 'connect,barrier', options);
    const left = 'rank 1 left before all ranks were there';
    // Rank 1 does not say when it has said hello: it gets more time until its end is noticed.
    for (let ms = 300; !zero.log.includes(left); ms *= 2) {
      const first = startRank(1, 'connect', options);
      await new Promise((resolve) => setTimeout(resolve, ms));
      first.signal('SIGKILL');
      await first.ended;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const others = [startRank(1, 'connect,barrier', options), startRank(2, 'connect,barrier', options)];
    for (const rank of [zero, ...others]) await resultOf(rank, 'barrier');
  });
});

describe('a rank that is busy', () => {
  it.concurrent.each([1, 0])('(rank %i) is named as behind, heard of all the time', async (victim) => {
    const scripts = ['', '', ''].fill('connect,barrier,await 1 a,await 2 a');
    scripts[victim] = `connect,barrier,await 1 a,spin ${DEADLINE_MS + 1500},late 2`;
    const ranks = await startGroup(scripts, { deadlineMs: DEADLINE_MS });
    const survivors = ranks.filter((_, rank) => rank !== victim);
    await ranks[victim]!.line('spin');
    const errors = await inTime(Promise.all(survivors.map((rank) => errorOf(rank, 'await 2 a'))));
    for (const { code, message } of errors) {
      expect(code).toBe('E_PEER_TIMEOUT');
      expect(message).toMatch(
        new RegExp(
          `after \\d+ ms call 2 still waits for rank ${victim} \\(last in call 1, last heard \\d{1,3} ms ago\\)`,
        ),
      );
    }
    // The busy rank is told, too, once it has time to listen; and its question is answered.
    expect(await resultOf(ranks[victim]!, 'late 2')).toMatchObject({
      call: 2,
      ranks: [{ rank: victim, lastCall: 1 }],
    });
  });

  it.concurrent('does not fail while nobody waits for it', async () => {
    const spin = `connect,barrier,spin ${DEADLINE_MS + 800},barrier 4000`;
    const ranks = await startGroup([spin, spin], { deadlineMs: DEADLINE_MS });
    for (const rank of ranks) {
      await rank.ended;
      expect(rank.lines.filter(({ error, failure }) => error ?? failure)).toEqual([]);
    }
  });
});

describe.concurrent('a rank of three that is killed before its hello', () => {
  it.each([2, 1, 0])('(rank %i) is named by the others when their deadline passes', async (victim) => {
    const port = await freePort();
    const options = { port, worldSize: 3, deadlineMs: DEADLINE_MS };
    const survivors = [0, 1, 2].filter((rank) => rank !== victim);
    const ranks = survivors.map((rank) => startRank(rank, 'connect', options));
    startRank(victim, 'sleep 9000,connect', options).signal('SIGKILL');
    for (const rank of ranks) {
      const error = await inTime(errorOf(rank, 'connect'));
      expect(error).toMatchObject({ code: 'E_PEER_TIMEOUT', rank: victim });
      expect(error.message).toContain(
        victim === 0 ? 'could not connect to rank 0' : `rank ${victim} (never connected)`,
      );
    }
  });
});

describe.concurrent('a rank that is stopped', () => {
  it.each([2, 0])(
    '(rank %i) is named by every survivor, with its last call and its silence',
    async (victim) => {
      const scripts = ['', '', ''].fill('connect,await 1 a,sleep 600,enter 2 a,await 3 a');
      scripts[victim] = 'connect,await 1 a,hold';
      const ranks = await startGroup(scripts, { deadlineMs: DEADLINE_MS });
      await ranks[victim]!.line('hold');
      // Long enough for rank 0 to have told its last call with its heart-beat.
      await new Promise((resolve) => setTimeout(resolve, 200));
      ranks[victim]!.signal('SIGSTOP');
      const survivors = ranks.filter((_, rank) => rank !== victim);
      const errors = await inTime(Promise.all(survivors.map((rank) => errorOf(rank, 'await 3 a'))));
      for (const { code, message, rank } of errors) {
        expect([code, rank]).toEqual(['E_PEER_TIMEOUT', victim]);
        expect(message).toMatch(new RegExp(`rank ${victim}\\b.*last in call 1.*last heard \\d{4} ms ago`));
      }
    },
  );

  it('learns of it when it goes on', async () => {
    const ranks = await startGroup(['connect,barrier,sleep 400,barrier', 'connect,barrier,hold'], {
      deadlineMs: DEADLINE_MS,
    });
    await ranks[1]!.line('hold');
    ranks[1]!.signal('SIGSTOP');
    await ranks[0]!.ended;
    ranks[1]!.signal('SIGCONT');
    await vi.waitFor(() => expect(failuresOf(ranks[1]!)).toHaveLength(1), 5000);
    expect(failuresOf(ranks[1]!)[0]!.failure).toMatchObject({ code: 'E_PEER_TIMEOUT' });
  });
});

describe.concurrent('who is late', () => {
  it('is answered without ending the session', async () => {
    const ranks = await startGroup([
      'connect,await 1 a,enter 2 a,sleep 300,late 2,late 1,barrier',
      'connect,await 1 a,sleep 1200,barrier',
    ]);
    const report = (await resultOf(ranks[0]!, 'late 2')) as { ranks: { silentMs: number }[] };
    expect(report).toMatchObject({
      call: 2,
      answered: true,
      ranks: [{ rank: 1, lastCall: 1, state: 'behind' }],
    });
    expect(report.ranks).toHaveLength(1);
    expect(report.ranks[0]!.silentMs).toBeLessThan(1000);
    expect(await resultOf(ranks[0]!, 'late 1')).toEqual({ call: 1, answered: true, ranks: [] });
    for (const rank of ranks) await resultOf(rank, 'barrier');
  });

  it('is rank 0 where rank 0 does not answer, within 2 s', async () => {
    const ranks = await startGroup(['connect,await 1 a,hold', 'connect,await 1 a,sleep 400,late 2'], {
      deadlineMs: 10_000,
    });
    await ranks[0]!.line('hold');
    await ranks[1]!.line('await 1 a');
    ranks[0]!.signal('SIGSTOP');
    const { at } = await ranks[1]!.line('sleep 400');
    const answer = await ranks[1]!.line('late 2');
    expect(answer.value).toMatchObject({
      answered: false,
      ranks: [{ rank: 0, lastCall: 1, state: 'silent' }],
    });
    expect(answer.at - at).toBeLessThan(2000);
  });
});
