// A loop that has warmed up keeps nothing from step to step: neither JavaScript's heap, nor buffers outside of it, nor
// the process as a whole, native code included, grows over a thousand steps.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BackendName } from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group } from '../../executor/group.ts';
import { findAddon } from '../../executor/native/addon.ts';
import { StepClock } from '../../executor/training/clock.ts';
import { ExpertLayer } from '../../executor/training/layer.ts';
import { PlanAhead } from '../../executor/training/planAhead.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { randomFrom } from '../support/workloads.ts';

const BACKEND: BackendName = findAddon().addon === undefined ? 'reference' : 'host';
const MIB = 2 ** 20;
const STEPS = 1000;
const WARM_UP_STEPS = 200;
const RANKS = 2;
/** A plan has about 100 KiB, so that keeping one of each step, or its native copy, would show as 100 MiB. */
const TOKENS = BACKEND === 'host' ? 1024 : 64;
const TOPK = 4;
const EXPERTS = 16;
const HIDDEN = 4;
const GATE = { experts: EXPERTS, topk: TOPK, normalize: true } as const;
const OPTIONS = { experts: EXPERTS, hidden: HIDDEN, dtype: 'f32', capacity: TOKENS / 2, align: 8 } as const;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What is in use once all garbage is gone, in MiB. */
async function memory(): Promise<{ heap: number; buffers: number; resident: number }> {
  for (let i = 0; i < 3; i++) {
    collect();
    // Finalizers of native objects run between turns.
    await new Promise(setImmediate);
  }
  const { heapUsed, arrayBuffers, rss } = process.memoryUsage();
  return { heap: heapUsed / MIB, buffers: arrayBuffers / MIB, resident: rss / MIB };
}

/** Growth of all three over the steps. */
async function growthOf(step: (n: number) => Promise<void>): Promise<Awaited<ReturnType<typeof memory>>> {
  for (let n = 0; n < WARM_UP_STEPS; n++) await step(n);
  const before = await memory();
  for (let n = 0; n < STEPS; n++) await step(WARM_UP_STEPS + n);
  const after = await memory();
  return {
    heap: after.heap - before.heap,
    buffers: after.buffers - before.buffers,
    resident: after.resident - before.resident,
  };
}

function expectSteady(growth: Awaited<ReturnType<typeof memory>>): void {
  expect(growth.heap).toBeLessThan(2);
  // Buffers that are on their way between threads, or wait for a finalizer, come and go: a few plans.
  expect(growth.buffers).toBeLessThan(4);
  // What the collector and the compiler of JavaScript still take is in here, too.
  expect(growth.resident).toBeLessThan(24);
}

/** Buffers of a loop, made once for the largest step. */
class Loop {
  readonly clock = new StepClock();
  readonly #group: Group;
  readonly #random = randomFrom(4);
  readonly #perToken = (width: number) =>
    Array.from({ length: RANKS }, () => new Float32Array(TOKENS * width));
  readonly #perRow = (width: number) =>
    Array.from({ length: RANKS }, () => new Float32Array((RANKS * TOKENS * TOPK + EXPERTS * 8) * width));
  readonly #logits = this.#perToken(EXPERTS);
  readonly #scores = this.#perToken(EXPERTS);
  readonly #logitsGradient = this.#perToken(EXPERTS);
  readonly #ids = Array.from({ length: RANKS }, () => new Int32Array(TOKENS * TOPK));
  readonly #weights = this.#perToken(TOPK);
  readonly #weightsGradient = this.#perToken(TOPK);
  readonly #tokens = this.#perToken(HIDDEN);
  readonly #combined = this.#perToken(HIDDEN);
  readonly #tokensGradient = this.#perToken(HIDDEN);
  readonly #rows = this.#perRow(HIDDEN);
  readonly #rowsGradient = this.#perRow(HIDDEN);
  readonly #counts = new Array<number>(RANKS).fill(TOKENS);

  constructor(group: Group) {
    this.#group = group;
  }

  get tables(): RoutingTable[] {
    return this.#ids.map((ids) => ({ ids, tokens: TOKENS, topk: TOPK }));
  }

  /** New logits, so that every step routes and receives otherwise. */
  async gate(): Promise<void> {
    for (const logits of this.#logits) {
      for (let i = 0; i < logits.length; i++) logits[i] = this.#random();
    }
    await this.clock.time('gate', () =>
      this.#group.gate({
        options: GATE,
        tokens: this.#counts,
        logits: this.#logits,
        ids: this.#ids,
        weights: this.#weights,
        scores: this.#scores,
      }),
    );
  }

  /** Forward and backward, with experts that return their rows. */
  async pass(exchange: Exchange): Promise<void> {
    const layer = new ExpertLayer(exchange, { hidden: HIDDEN, dtype: 'f32', clock: this.clock });
    const [rows, weights, tokensGradient] = [this.#rows, this.#weights, this.#combined];
    await layer.dispatch({ tokens: this.#tokens, rows });
    await layer.combine({ rows, tokens: this.#combined, weights });
    const weightsGradient = this.#weightsGradient;
    const rowsGradient = this.#rowsGradient;
    await layer.combineBackward({ tokensGradient, rowsGradient, weights, rows, weightsGradient });
    await layer.dispatchBackward({ rowsGradient, tokensGradient: this.#tokensGradient });
    await this.#group.gateBackward({
      options: GATE,
      tokens: this.#counts,
      ids: this.#ids,
      scores: this.#scores,
      weightsGradient,
      logitsGradient: this.#logitsGradient,
    });
  }
}

describe('a thousand steps', () => {
  let group: Group;
  let loop: Loop;
  beforeEach(async () => {
    group = await createGroup({ ranks: RANKS, backend: BACKEND, threads: 2 });
    loop = new Loop(group);
  });
  afterEach(() => group.close());

  it('of one plan keep nothing', async () => {
    await loop.gate();
    using exchange = await group.prepare(group.plan(loop.tables, OPTIONS));
    expectSteady(await growthOf(() => loop.pass(exchange)));
  });

  it('with a new gate and a new plan keep nothing', async () => {
    const growth = await growthOf(async () => {
      await loop.gate();
      const plan = await loop.clock.time('plan', () => group.plan(loop.tables, OPTIONS));
      using exchange = await loop.clock.time('prepare', () => group.prepare(plan));
      await loop.pass(exchange);
      const times = loop.clock.take();
      for (const stage of ['gate', 'plan', 'prepare', 'dispatch', 'combine', 'combineBackward'] as const) {
        expect(times[stage]).toBeGreaterThan(0);
      }
    });
    expectSteady(growth);
  });

  it('planned ahead keep nothing', async () => {
    await using ahead = await PlanAhead.open({ ranks: RANKS });
    await loop.gate();
    let next = ahead.plan(loop.tables, OPTIONS);
    const growth = await growthOf(async () => {
      const { plan } = await next;
      next = ahead.plan(loop.tables, OPTIONS);
      using exchange = await group.prepare(plan);
      await loop.pass(exchange);
    });
    await next;
    expectSteady(growth);
  });

  it('that each keep their plan are noticed', async () => {
    const kept: VerifiedPlan[] = [];
    const growth = await growthOf(async () => {
      await loop.gate();
      kept.push(group.plan(loop.tables, OPTIONS));
    });
    expect(kept.length).toBe(WARM_UP_STEPS + STEPS);
    const bytes = kept[0]!.shards.reduce((sum, shard) => sum + shard.bytes.length, 0);
    expect(growth.buffers).toBeGreaterThan((0.9 * STEPS * bytes) / MIB);
    if (BACKEND === 'host') expect(growth.resident).toBeGreaterThan(48);
  });
});
