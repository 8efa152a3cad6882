// Plans made in native code against those of the planner's Wasm: the same bytes, decisions and errors.

import { beforeAll, expect, it } from 'vitest';
import { nativeOptions, planAllNatively } from '../../executor/native/planner.ts';
import { optionsDigest } from '../../planner/format/digest.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { Planner } from '../../planner/planner.ts';
import type { IdArray, RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { addon, describeNative } from '../support/addon.ts';
import { planDifferences, randomAutoPlan, randomPlan } from '../support/randomPlans.ts';
import { makeRouting, toTables } from '../support/workloads.ts';

let wasm: Planner;
beforeAll(async () => {
  wasm = await loadPlanner();
});

const CASES = 1000;

describeNative('native planning', () => {
  it(`makes the bytes of the Wasm planner for ${CASES} random routings`, () => {
    const strategies = new Set<string>();
    for (let number = 0; number < CASES; number++) {
      const subject = randomPlan(number);
      const { strategy, sum, capacity } = subject.options;
      const order = strategy === 'hier' ? `, sums by ${sum}` : '';
      strategies.add(`${strategy} ${capacity === 0 ? 'without' : 'with'} capacity${order}`);
      expect(planDifferences(wasm, subject), `case ${number}: ${JSON.stringify(subject.options)}`).toEqual(
        [],
      );
    }
    expect(strategies.size).toBe(6);
  });

  it('does so for 4096 - rank tokens of 8 ranks', () => {
    const routing = makeRouting({
      family: 'hotExperts',
      seed: 1,
      ranks: 8,
      tokens: 512,
      topk: 8,
      experts: 256,
    });
    const long = routing.map((tokens, rank) =>
      Array.from({ length: 4096 - rank }, (_, i) => tokens[(i * 7 + rank) % tokens.length]!),
    );
    for (const strategy of ['flat', 'hier', 'auto'] as const) {
      const options: PlanOptions = { experts: 256, ranks: 8, ranksPerNode: 2, strategy, align: 128 };
      expect(planDifferences(wasm, { options, tables: toTables(long, 8) })).toEqual([]);
    }
  });

  it('has the options digest of the planner', async () => {
    for (let number = 0; number < 200; number++) {
      const { options, tables } = randomPlan(number);
      const spec = resolveOptions({ ...options, maxRows: number % 3 }, tables[0]!.topk);
      const planner = new addon.Planner(nativeOptions(spec));
      expect(planner.describe().optionsDigest).toEqual(
        Uint8Array.from(await optionsDigest(spec, nodeSha256)),
      );
      planner.close();
    }
  });
});

describeNative('bad routing', () => {
  const OPTIONS: PlanOptions = { experts: 8, ranks: 2, capacity: 0 };

  /** The error of both planners for a routing with these ids at rank 1. */
  function errorsOf(ids: IdArray, changes: Partial<RoutingTable> = {}) {
    const table = { ids, tokens: ids.length / 2, topk: 2, ...changes };
    const other: RoutingTable = { ids: Int32Array.of(0, 1), tokens: 1, topk: 2 };
    return [wasm.planAll.bind(wasm), planAllNatively].map((plan) => {
      try {
        plan([other, table], OPTIONS);
      } catch (error) {
        const { code, message, details } = error as { code: string; message: string; details: object };
        return { code, message, details };
      }
      return undefined;
    });
  }

  it.each([
    ['out of range', Int32Array.of(0, 1, 2, 8)],
    ['below -1', Int16Array.of(0, 1, -2, 8)],
    ['out of range with 64 bits', BigInt64Array.of(0n, 1n, 2n ** 40n, 3n)],
    ['the largest of u64', BigUint64Array.of(0n, 1n, 2n ** 64n - 1n, 3n)],
    ['the largest of u8, which is not masked', Uint8Array.of(255, 1)],
    ['twice in a token', Int32Array.of(0, 1, 4, 4)],
    ['first wrong, then twice', Int32Array.of(9, 1, 4, 4)],
    ['first twice, then wrong', Int32Array.of(4, 4, 9, 1)],
  ])('has the error of the Wasm planner for an id %s', (_, ids) => {
    const [expected, found] = errorsOf(ids);
    expect(expected).toBeDefined();
    expect(found).toEqual(expected);
  });

  it('is refused in every position of a small table', () => {
    for (let entry = 0; entry < 6; entry++) {
      for (const bad of [8, -7]) {
        const ids = Int32Array.of(0, 1, 2, 3, 4, 5);
        ids[entry] = bad;
        const [expected, found] = errorsOf(ids);
        expect(found).toEqual(expected);
        expect(found).toMatchObject({ code: 'E_ROUTING_ID', details: { token: entry >> 1, k: entry & 1 } });
      }
    }
  });

  it('has the error of the Wasm planner for tables of a wrong shape or type', () => {
    const four = Int32Array.of(0, 1, 2, 3);
    const wrong: [IdArray, Partial<RoutingTable>][] = [
      [four, { tokens: 3 }],
      [four, { topk: 1, tokens: 4 }],
      [Float32Array.of(0, 1, 2, 3) as unknown as IdArray, {}],
    ];
    for (const [ids, changes] of wrong) {
      const [expected, found] = errorsOf(ids, changes);
      expect(expected).toBeDefined();
      expect(found).toEqual(expected);
    }
  });
});

describeNative('a bound of receive buffers', () => {
  it('is kept, or refused with the error of the Wasm planner', () => {
    const tables = toTables(
      makeRouting({ family: 'hotRank', seed: 2, ranks: 4, tokens: 9, topk: 2, experts: 8 }),
      2,
    );
    const options: PlanOptions = { experts: 8, ranks: 4, align: 4 };
    const most = Math.max(...wasm.planAll(tables, options).shards.map(({ recvRows }) => recvRows));
    for (const strategy of ['flat', 'auto'] as const) {
      const bounded = { ...options, strategy, maxRows: most };
      expect(planDifferences(wasm, { options: bounded, tables })).toEqual([]);
      const errors = [wasm.planAll.bind(wasm), planAllNatively].map((plan) => {
        try {
          plan(tables, { ...bounded, maxRows: most - 1 });
        } catch (error) {
          const { code, message } = error as { code: string; message: string };
          return { code, message };
        }
        return undefined;
      });
      expect(errors[0]).toMatchObject({ code: 'E_MAX_ROWS' });
      expect(errors[1]).toEqual(errors[0]);
    }
  });
});

describeNative('strategy auto', () => {
  it(`makes the bytes and gives the reason of the Wasm planner for ${CASES} random routings`, () => {
    const chosen = new Map<string, number>();
    for (let number = 0; number < CASES; number++) {
      const subject = randomAutoPlan(number);
      expect(planDifferences(wasm, subject), `case ${number}: ${JSON.stringify(subject.options)}`).toEqual(
        [],
      );
      const { reason } = planAllNatively(subject.tables, subject.options).decision;
      const name = `${reason.split(' has ')[0]}${reason.includes('replicas') ? ', replicas' : ''}`;
      chosen.set(name, (chosen.get(name) ?? 0) + 1);
    }
    const names = ['flat', 'flat, replicas', 'once per node', 'once per node, replicas', 'once per rank'];
    expect([...chosen.keys()].sort()).toEqual(names);
    expect(Math.min(...chosen.values())).toBeGreaterThan(10);
  });

  it('has the options digest of the planner, which covers the ranks of a machine', async () => {
    const digests = new Set<string>();
    for (const ranksPerHost of [2, 4, 8]) {
      const options: PlanOptions = { experts: 8, ranks: 8, ranksPerNode: 2, strategy: 'auto', ranksPerHost };
      const spec = resolveOptions(options, 2);
      const planner = new addon.Planner(nativeOptions(spec));
      const { optionsDigest: digest } = planner.describe();
      planner.close();
      expect(digest).toEqual(Uint8Array.from(await optionsDigest(spec, nodeSha256)));
      digests.add(Buffer.from(digest).toString('hex'));
    }
    expect(digests.size).toBe(3);
  });

  const AUTO = { experts: 8, ranks: 4, ranksPerNode: 2, topk: 2, dtype: 'bf16', strategy: 'auto' } as const;

  it('counts rows per node and per rank, with the first facts, or again after the capacity', () => {
    // Experts 0, 1 are on rank 0, experts 2, 3 on rank 1, and so on; nodes are ranks 0, 1 and 2, 3.
    const table: RoutingTable = { ids: Int32Array.of(0, 4, 4, 6, 4, 5), tokens: 3, topk: 2 };
    const planner = new addon.Planner(AUTO);
    expect(planner.describe()).toMatchObject({ instances: 8, counts: 14, secondCounts: 0 });
    expect([...planner.count(0, table)]).toEqual([1, 0, 0, 0, 3, 1, 1, 0, 0, 3, 0, 0, 3, 1]);

    const bounded = new addon.Planner({ ...AUTO, capacity: 1 });
    expect(bounded.describe()).toMatchObject({ counts: 8, secondCounts: 6 });
    const counts = new Uint32Array(32);
    for (const rank of [0, 1, 2, 3]) counts.set(bounded.count(rank, table), 8 * rank);
    // Expert 4 keeps the entry of token 0, expert 6 that of token 1, expert 5 that of token 2.
    expect([...bounded.countAgain(0, table, counts)]).toEqual([0, 3, 0, 0, 2, 1]);
    expect([...bounded.countAgain(1, table, counts)]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it('refuses facts whose rows per rank contradict the ids of the rank', () => {
    // One token has two experts on rank 2, the other one two on rank 3.
    const table: RoutingTable = { ids: Int32Array.of(4, 5, 6, 7), tokens: 2, topk: 2 };
    const planner = new addon.Planner(AUTO);
    const counts = new Uint32Array(4 * 14);
    for (const rank of [0, 1, 2, 3]) counts.set(planner.count(rank, table), 14 * rank);
    expect(planner.decide(counts, undefined)).toMatchObject({
      strategy: 'hier',
      ranksPerNode: 1,
      rule: 'static',
      reason: expect.stringMatching(/^once per rank has the least busy rank: flat /),
    });
    const lying = counts.map((count, i) => (i === 8 + 2 + 2 ? count - 1 : count));
    expect(() => planner.shard(0, table, lying, undefined)).toThrow(
      expect.objectContaining({
        code: 'E_FACTS',
        message: 'rank 0 sends 1 rows to node 2, the facts say 0',
      }),
    );
  });

  it.each([
    [
      'that are no whole nodes',
      3,
      /^ranksPerHost 3 is not a multiple of ranksPerNode 2 that divides 4 ranks$/,
    ],
    ['more than there are', 6, /^ranksPerHost is 6; it must be an integer from 1 to 4$/],
  ])('refuses ranks of a machine %s', (_, ranksPerHost, message) => {
    expect(() => new addon.Planner({ ...AUTO, ranksPerHost })).toThrow(
      expect.objectContaining({ code: 'E_OPTION', message: expect.stringMatching(message) }),
    );
    // Other strategies do not read them.
    new addon.Planner({ ...AUTO, strategy: 'flat', ranksPerHost }).close();
  });
});

describeNative('the native planner of one rank', () => {
  const table: RoutingTable = { ids: Int32Array.of(0, 1, 5, 6), tokens: 2, topk: 2 };
  const hier = { experts: 8, ranks: 4, ranksPerNode: 2, topk: 2, dtype: 'bf16', strategy: 'hier' } as const;
  const refused = (code: string, text: RegExp) =>
    expect.objectContaining({ code, message: expect.stringMatching(text) });

  it('counts its rows per node with the first facts, or again after the capacity', () => {
    const planner = new addon.Planner(hier);
    expect(planner.describe()).toMatchObject({ instances: 8, counts: 10, secondCounts: 0 });
    expect([...planner.count(0, table)]).toEqual([1, 1, 0, 0, 0, 1, 1, 0, 0, 1]);

    const bounded = new addon.Planner({ ...hier, capacity: 1 });
    expect(bounded.describe()).toMatchObject({ counts: 8, secondCounts: 2 });
    const counts = new Uint32Array(32);
    for (const rank of [0, 1, 2, 3]) counts.set(bounded.count(rank, table), 8 * rank);
    expect([...bounded.countAgain(0, table, counts)]).toEqual([0, 1]);
    expect([...bounded.countAgain(1, table, counts)]).toEqual([0, 0]);
  });

  it('refuses facts that contradict its ids', () => {
    const planner = new addon.Planner(hier);
    const counts = new Uint32Array(40);
    for (const rank of [0, 1, 2, 3]) counts.set(planner.count(rank, table), 10 * rank);
    expect(planner.shard(0, table, counts, undefined).length).toBeGreaterThan(256);
    const lie = (at: number, by: number) => counts.map((count, i) => (i === at ? count + by : count));
    expect(() => planner.shard(0, table, lie(1, 1), undefined)).toThrow(
      refused('E_FACTS', /^rank 0 routes 1 rows to instance 1, the facts say 2$/),
    );
    expect(() => planner.shard(0, table, lie(5, -1), undefined)).toThrow(refused('E_FACTS', /instance 5/));
    expect(() => planner.shard(0, table, lie(9, 1), undefined)).toThrow(
      refused('E_FACTS', /^rank 0 sends 1 rows to node 1, the facts say 2$/),
    );
    expect(() =>
      planner.shard(
        0,
        table,
        counts.map(() => 2 ** 31 - 1),
        undefined,
      ),
    ).toThrow(refused('E_LIMIT', /more than 2147483647 rows for one expert/));
    expect(() => planner.shard(0, table, counts.subarray(1), undefined)).toThrow(
      refused('E_OPTION', /40 elements/),
    );
  });

  it.each([
    ['experts', { experts: 0 }, 'E_OPTION', /experts is 0; it must be an integer from 1 to 65535/],
    ['ranks', { ranks: 4097 }, 'E_OPTION', /ranks is 4097/],
    ['a node that does not divide the ranks', { ranksPerNode: 3 }, 'E_OPTION', /does not divide 4 ranks/],
    ['topk', { topk: 257 }, 'E_OPTION', /topk is 257/],
    ['tiles of more than 256 entries', { tileTokens: 129 }, 'E_OPTION', /tileTokens is 129/],
    ['rows of more than 16 MiB', { hidden: 2 ** 23 + 1 }, 'E_OPTION', /hidden x dtype is 16777218/],
  ])('refuses %s', (_, change, code, text) => {
    expect(() => new addon.Planner({ ...hier, ...change })).toThrow(refused(code, text));
  });

  it.each([
    ['a rank outside the group', [0, 4], /expert 1 on rank 4 of 4/],
    ['a rank twice for an expert', [2, 2], /expert 0 is placed twice on one rank/],
  ])('refuses a placement with %s', (_, ranks, text) => {
    const offsets = ranks[0] === ranks[1] ? [0, 2, 2] : [0, 1, 2];
    const options = {
      ...hier,
      experts: 2,
      topk: 1,
      placementOffsets: Uint32Array.from(offsets),
      placementRanks: Uint16Array.from(ranks),
    };
    expect(() => new addon.Planner(options)).toThrow(refused('E_PLACEMENT', text));
  });

  it('refuses to be used after close', () => {
    const planner = new addon.Planner(hier);
    planner.close();
    expect(() => planner.count(0, table)).toThrow(refused('E_CLOSED', /the planner is closed/));
  });
});
