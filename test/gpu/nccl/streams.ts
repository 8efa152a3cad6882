// Exchanges that are ordered by streams: all ranks on one machine. Calls follow one another without the host, along
// several plans, with ranks that are late at random, with few SMs, and in graphs.

import assert from 'node:assert/strict';
import type { Cuda, DeviceBuffer } from '../../../executor/backends/cuda/context.ts';
import { createGroup, type Exchange, type Group } from '../../../executor/group.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Family } from '../../support/workloads.ts';
import { type Inputs, makeInputs, type Outputs, runExchanges } from '../exchanges.ts';
import { assertSame, Buffers, POISON, planFor } from '../support.ts';
import type { RankCase } from './cases.ts';

const HIDDEN = 1024;
const ROW_BYTES = 2 * HIDDEN;
const EXPERTS = 16;
const REPEATS = 200;
/** Bytes of a fill that delays a stream, and most fills of one delay. */
const DELAY_BYTES = 64 << 20;
const MOST_DELAYS = 8;

/** A plan with device buffers of the local rank, and what must be in them after an exchange. */
class PreparedPlan {
  readonly exchange: Exchange;
  readonly #buffers: Buffers;
  readonly #expected: Outputs;
  readonly #rank: number;
  readonly #rows: DeviceBuffer[];
  readonly #weights: DeviceBuffer[];
  readonly #gradient: DeviceBuffer[];
  readonly #out: Readonly<Record<'received' | 'combined' | 'scaled' | 'weightGradient', DeviceBuffer[]>>;

  constructor(exchange: Exchange, buffers: Buffers, input: Inputs, expected: Outputs) {
    const rank = exchange.localRanks[0]!;
    const tokens = exchange.tokens[0]!;
    this.exchange = exchange;
    this.#buffers = buffers;
    this.#expected = expected;
    this.#rank = rank;
    this.#rows = buffers.up([input.rows[rank]!]);
    this.#weights = buffers.up([input.weights[rank]!]);
    this.#gradient = buffers.up([input.gradient[rank]!]);
    const received = () => buffers.poisoned([exchange.recvRows[0]! * ROW_BYTES]);
    const combined = buffers.poisoned([tokens * ROW_BYTES]);
    const weightGradient = buffers.poisoned([input.weights[rank]!.byteLength]);
    this.#out = { received: received(), combined, scaled: received(), weightGradient };
  }

  static async make(group: Group, buffers: Buffers, plan: VerifiedPlan, seed: number): Promise<PreparedPlan> {
    const input = makeInputs(plan, 'bf16', ROW_BYTES, 28, true, seed);
    using reference = await createGroup({ ranks: group.ranks, backend: 'host' });
    const expected = await runExchanges(reference, plan, input);
    return new PreparedPlan(await group.prepare(plan), buffers, input, expected);
  }

  get outputs(): DeviceBuffer[] {
    return Object.values(this.#out).flat();
  }

  async enqueue(): Promise<void> {
    const { received, combined, scaled, weightGradient } = this.#out;
    const common = { dtype: 'bf16', rowBytes: ROW_BYTES } as const;
    const { enqueued } = await this.exchange.dispatch({
      payloads: [{ rowBytes: ROW_BYTES, from: this.#rows, to: received }],
    });
    assert.equal(enqueued, true, 'the call was enqueued');
    await this.exchange.combine({ ...common, from: received, to: combined, weights: this.#weights });
    await this.exchange.combineGradient({
      ...{ ...common, outputGradient: this.#gradient, from: received, weights: this.#weights },
      ...{ to: scaled, weightsGradient: weightGradient },
    });
  }

  check(what: string): void {
    for (const [name, buffers] of Object.entries(this.#out)) {
      const wanted = this.#expected[name as keyof Outputs][this.#rank]!;
      const width = name === 'weightGradient' ? 4 : ROW_BYTES;
      assertSame(`${what}: ${name}`, this.#buffers.down(buffers), [wanted], width);
    }
  }
}

async function makePlans(group: Group, buffers: Buffers, ranksPerNode: number): Promise<PreparedPlan[]> {
  const families: Family[] = ['balanced', 'raggedSources', 'hotExperts', 'rankWithoutRows'];
  const plans: PreparedPlan[] = [];
  for (const [seed, family] of families.entries()) {
    const workload = {
      family,
      seed,
      ranks: group.ranks,
      tokens: 40 + 50 * seed,
      topk: 4,
      experts: EXPERTS,
      masked: 0.1,
    };
    const strategy = seed % 2 === 0 ? 'hier' : 'flat';
    const options = {
      // One plan has a partial sum per rank, one has the nodes of the group.
      ranksPerNode: seed === 0 ? 1 : ranksPerNode,
      strategy,
      hidden: HIDDEN,
      align: 8,
      capacity: seed === 2 ? 20 : 0,
    } as const;
    plans.push(await PreparedPlan.make(group, buffers, await planFor(workload, options), 1000 * seed));
  }
  return plans;
}

/** @param ranksPerNode of one of the plans */
export function streamCases(cuda: Cuda, ranksPerNode: number): RankCase[] {
  return [
    {
      name: `${REPEATS} exchanges along four plans, with random delays and few SMs`,
      async run(group) {
        using buffers = new Buffers(cuda);
        const plans = await makePlans(group, buffers, ranksPerNode);
        const [scratch] = buffers.poisoned([DELAY_BYTES]);
        for (let i = 0; i < REPEATS; i++) {
          // The same limit on all ranks, other delays on each.
          if (i % 25 === 0) cuda.limitSms([0, 1, 3, 16][(i / 25) % 4]!);
          const plan = plans[i % plans.length]!;
          for (const output of plan.outputs) cuda.fill(output, POISON);
          const delays = Math.random() < 0.3 ? Math.floor(Math.random() * MOST_DELAYS) : 0;
          for (let d = 0; d < delays; d++) cuda.fill(scratch!, d);
          await plan.enqueue();
          if (i % 7 === 0 || i >= REPEATS - plans.length) plan.check(`exchange ${i}`);
        }
        cuda.limitSms(0);
        for (const { exchange } of plans) exchange.close();
      },
    },
    {
      name: 'graphs of exchanges, replayed between other calls',
      async run(group) {
        using buffers = new Buffers(cuda);
        const plans = await makePlans(group, buffers, ranksPerNode);
        // Nothing is mapped or allocated in a capture.
        for (const plan of plans) await plan.enqueue();
        using graph = await cuda.captureAsync(async () => {
          await plans[0]!.enqueue();
          await plans[1]!.enqueue();
        });
        for (let i = 0; i < 20; i++) {
          for (const plan of plans) for (const output of plan.outputs) cuda.fill(output, POISON);
          graph.launch();
          await plans[2]!.enqueue();
          if (i % 3 === 0) graph.launch();
          await plans[3]!.enqueue();
          if (i % 5 === 0) for (const [p, plan] of plans.entries()) plan.check(`replay ${i}, plan ${p}`);
        }
        for (const { exchange } of plans) exchange.close();
      },
    },
    {
      name: 'buffers that are registered, freed and allocated again',
      async run(group) {
        for (let i = 0; i < 4; i++) {
          using buffers = new Buffers(cuda);
          const plans = await makePlans(group, buffers, ranksPerNode);
          if (i % 2 === 0) await group.register(plans.flatMap((plan) => plan.outputs));
          for (const plan of plans) await plan.enqueue();
          for (const [p, plan] of plans.entries()) plan.check(`round ${i}, plan ${p}`);
          if (i === 2) await group.deregister(plans.flatMap((plan) => plan.outputs));
          for (const { exchange } of plans) exchange.close();
        }
      },
    },
  ];
}
