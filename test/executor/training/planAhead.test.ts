import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createGroup, type Group } from '../../../executor/group.ts';
import { PlanAhead } from '../../../executor/training/planAhead.ts';
import { encodePlan } from '../../../planner/format/encode.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import { isVerified, type Plan } from '../../../planner/plan.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import { ID_DTYPES, makeRouting, toTables, type Workload } from '../../support/workloads.ts';

const RANKS = 4;
const OPTIONS = { experts: 16, hidden: 8, dtype: 'f32' } as const;

let group: Group;
let ahead: PlanAhead;
beforeEach(async () => {
  group = await createGroup({ ranks: RANKS });
  ahead = await PlanAhead.open({ ranks: RANKS });
});
afterEach(async () => {
  group.close();
  await ahead.close();
});

const tablesOf = (change: Partial<Workload> = {}, dtype: (typeof ID_DTYPES)[number] = 'i32') =>
  toTables(
    makeRouting({
      family: 'hotExperts',
      seed: 5,
      ranks: RANKS,
      tokens: 31,
      topk: 3,
      experts: 16,
      masked: 0.1,
      ...change,
    }),
    3,
    dtype,
  );

const code = (expected: string) => expect.objectContaining({ name: 'FuscoError', code: expected });

async function bytesOf(plan: Plan): Promise<string> {
  return Buffer.from((await encodePlan(plan, nodeSha256)).bytes).toString('hex');
}

describe('a plan made ahead', () => {
  const options: [string, Omit<PlanOptions, 'ranks'>][] = [
    ['flat', OPTIONS],
    ['capacity and alignment', { ...OPTIONS, capacity: 11, align: 8 }],
    ['two nodes', { ...OPTIONS, strategy: 'hier', ranksPerNode: 2, balance: 'lpt', partial: 'f32' }],
    ['auto', { ...OPTIONS, strategy: 'auto', ranksPerNode: 2 }],
    ['replicas and tiles', { ...OPTIONS, experts: 3, placement: [1, [0, 2, 3], 3], tileTokens: 4 }],
    ['slices of one row', { ...OPTIONS, sliceBytes: 1 }],
  ];

  it.each(options)('is the plan of group.plan, byte for byte: %s', async (_, chosen) => {
    const tables = tablesOf({ experts: chosen.experts });
    const { plan } = await ahead.plan(tables, chosen);
    const wanted = group.plan(tables, chosen);
    expect(await bytesOf(plan)).toBe(await bytesOf(wanted));
    expect(plan.decision).toEqual(wanted.decision);
    expect(plan.spec).toEqual(wanted.spec);
  });

  it.each(ID_DTYPES)('takes ids of %s', async (dtype) => {
    const masked = dtype.startsWith('u') ? 0 : 0.2;
    const tables = tablesOf({ masked }, dtype);
    const { plan } = await ahead.plan(tables, OPTIONS);
    expect(await bytesOf(plan)).toBe(await bytesOf(group.plan(tables, OPTIONS)));
  });

  it('runs: it counts as verified, and moves the rows that group.plan would', async () => {
    const tables = tablesOf();
    const { plan } = await ahead.plan(tables, OPTIONS);
    expect(isVerified(plan)).toBe(true);
    const received = [];
    for (const each of [plan, group.plan(tables, OPTIONS)]) {
      using exchange = await group.prepare(each);
      const from = exchange.tokens.map((count, rank) =>
        Float32Array.from({ length: count * 8 }, (_, i) => rank * 1000 + i),
      );
      const to = exchange.recvRows.map((count) => new Float32Array(count * 8));
      await exchange.dispatch({ payloads: [{ rowBytes: 32, from, to }] });
      received.push(to);
    }
    expect(received[0]).toEqual(received[1]);
    expect(received[0]!.some((rows) => rows.some((value) => value !== 0))).toBe(true);
  });

  it('is verified once more where that is asked for', async () => {
    await using checked = await PlanAhead.open({ ranks: RANKS, verify: true });
    const chosen = { ...OPTIONS, strategy: 'hier', ranksPerNode: 2 } as const;
    const { plan } = await checked.plan(tablesOf(), chosen);
    expect(isVerified(plan)).toBe(true);
    expect(await bytesOf(plan)).toBe(await bytesOf(group.plan(tablesOf(), chosen)));
  });

  it('is of the ids as they were: they are copied at once, those of a Buffer, too', async () => {
    const wanted = await bytesOf(group.plan(tablesOf({ masked: 0 }, 'u8'), OPTIONS));
    const tables = tablesOf({ masked: 0 }, 'u8').map((table) => ({
      ...table,
      ids: Buffer.from(table.ids as Uint8Array),
    }));
    const planned = ahead.plan(tables, OPTIONS);
    for (const { ids } of tables) ids.fill(0);
    expect(await bytesOf((await planned).plan)).toBe(wanted);
    expect(tables[0]!.ids.length).toBe(31 * 3);
  });

  it('is of ids that are given away, where they own their memory; others are copied', async () => {
    const tables = tablesOf();
    const wanted = await bytesOf(group.plan(tables, OPTIONS));
    const wide = new Int32Array(94);
    wide.set(tables[2]!.ids as Int32Array, 1);
    const shared = new Int32Array(new SharedArrayBuffer(4 * 93));
    shared.set(tables[3]!.ids as Int32Array);
    const given = tables.map(({ ids }, rank) => [ids, ids, wide.subarray(1), shared][rank]!) as Int32Array[];
    const planned = ahead.plan(
      given.map((ids) => ({ ids, tokens: 31, topk: 3 })),
      OPTIONS,
      { transfer: true },
    );
    expect(given.map(({ length }) => length)).toEqual([0, 0, 93, 93]);
    expect(await bytesOf((await planned).plan)).toBe(wanted);
    // Two tables in one buffer cannot both be given away.
    const twice = tablesOf().map(({ ids }) => ids)[0]!;
    const same = Array.from({ length: RANKS }, () => ({ ids: twice, tokens: 31, topk: 3 }));
    const { plan } = await ahead.plan(same, OPTIONS, { transfer: true });
    expect(twice.length).toBe(93);
    expect(await bytesOf(plan)).toBe(await bytesOf(group.plan(same, OPTIONS)));
  });

  it('comes in the order of asking, and one that is refused stops no other', async () => {
    const steps = [1, 2, 3].map((seed) => tablesOf({ seed }));
    const bad = [...steps[0]!.slice(0, 3), { ids: Int32Array.of(0, 16, 1), tokens: 1, topk: 3 }];
    const planned = [steps[0]!, bad, steps[1]!, steps[2]!].map((tables) => ahead.plan(tables, OPTIONS));
    expect(ahead.pending).toBe(4);
    const order: number[] = [];
    const results = await Promise.allSettled(
      planned.map((plan, i) =>
        plan.finally(() => {
          order.push(i);
        }),
      ),
    );
    expect(order).toEqual([0, 1, 2, 3]);
    expect(ahead.pending).toBe(0);
    const refusal = results[1] as PromiseRejectedResult;
    expect(() => {
      group.plan(bad, OPTIONS);
    }).toThrow(refusal.reason.message);
    expect(refusal.reason).toEqual(code('E_ROUTING_ID'));
    expect(refusal.reason.details).toMatchObject({ rank: 3, token: 0, k: 1, value: 16, limit: 15 });
    for (const [i, at] of [0, 2, 3].entries()) {
      const { value } = results[at] as PromiseFulfilledResult<Awaited<(typeof planned)[number]>>;
      expect(await bytesOf(value.plan)).toBe(await bytesOf(group.plan(steps[i]!, OPTIONS)));
    }
  });

  it('is made while exchanges run', async () => {
    // Large enough for many exchanges to fit in. Entry k of token t goes to expert (7 t + 5 k) % 16.
    const tokens = 100_000;
    const ids = Uint8Array.from(
      { length: 3 * tokens },
      (_, entry) => (7 * Math.floor(entry / 3) + 5 * (entry % 3)) % 16,
    );
    const tables = Array.from({ length: RANKS }, () => ({ ids, tokens, topk: 3 }));
    using exchange = await group.prepare(group.plan(tablesOf({ tokens: 8 }), OPTIONS));
    const from = exchange.tokens.map((count) => new Float32Array(count * 8));
    const to = exchange.recvRows.map((count) => new Float32Array(count * 8));
    await ahead.plan(tables, OPTIONS);
    let inside = 0;
    // A busy machine may give the two threads one processor; not again and again.
    for (let attempt = 0; attempt < 20 && inside === 0; attempt++) {
      const spans: [number, number][] = [];
      let isPlanned = false;
      const planned = ahead.plan(tables, OPTIONS).finally(() => {
        isPlanned = true;
      });
      while (!isPlanned) {
        const start = performance.now();
        await exchange.dispatch({ payloads: [{ rowBytes: 32, from, to }] });
        spans.push([start, performance.now()]);
        await new Promise(setImmediate);
      }
      const { startedAt, nanoseconds } = await planned;
      expect(nanoseconds).toBeGreaterThan(0);
      inside = spans.filter(([a, b]) => a > startedAt && b < startedAt + nanoseconds / 1e6).length;
    }
    expect(inside).toBeGreaterThan(0);
  });
});

describe('planning ahead', () => {
  it('refuses what group.plan refuses, before anything is sent', async () => {
    const tables = tablesOf();
    await expect(ahead.plan(tables.slice(1), OPTIONS)).rejects.toThrow(code('E_RANKS'));
    await expect(ahead.plan([], OPTIONS)).rejects.toThrow(code('E_RANKS'));
    await expect(ahead.plan(tables, { ...OPTIONS, experts: 0 })).rejects.toThrow(code('E_OPTION'));
    await expect(ahead.plan(tables, { ...OPTIONS, placement: [9] })).rejects.toThrow(code('E_PLACEMENT'));
    const floats = tables.map((table) => ({ ...table, ids: new Float32Array(93) as unknown as Int32Array }));
    await expect(ahead.plan(floats, OPTIONS)).rejects.toThrow(code('E_ROUTING_DTYPE'));
    const short = tables.map((table) => ({ ...table, ids: table.ids.slice(1) as Int32Array }));
    await expect(ahead.plan(short, OPTIONS)).rejects.toThrow(code('E_ROUTING_SHAPE'));
    expect(ahead.pending).toBe(0);
    await expect(PlanAhead.open({ ranks: 0 })).rejects.toThrow(code('E_OPTION'));
  });

  it('gives up what is pending when it is closed; closing twice is harmless', async () => {
    const planned = ahead.plan(tablesOf({ tokens: 4096 }), OPTIONS);
    const refused = expect(planned).rejects.toThrow(code('E_CLOSED'));
    await ahead.close();
    await refused;
    await ahead.close();
    await expect(ahead.plan(tablesOf(), OPTIONS)).rejects.toThrow(code('E_CLOSED'));
  });

  it('does not keep an idle process alive', async () => {
    const module = fileURLToPath(new URL('../../../dist/executor/index.js', import.meta.url));
    const text = `
      const { PlanAhead } = await import(${JSON.stringify(module)});
      const ahead = await PlanAhead.open({ ranks: 1 });
      const { plan } = await ahead.plan([{ ids: Int32Array.of(0), tokens: 1, topk: 1 }], { experts: 1 });
      console.log(plan.shards.length);
    `;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', text], {
      timeout: 30_000,
    });
    expect(stdout.trim()).toBe('1');
  });
});
