// Plans with device buffers for all exchanges, whose results are compared with the host backend: for tests in which
// exchanges follow one another without the host.

import assert from 'node:assert/strict';
import type { DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import { createGroup, type Exchange, type Group } from '../../executor/group.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Family } from '../support/workloads.ts';
import { type Inputs, makeInputs, type Outputs, runExchanges } from './exchanges.ts';
import { assertSame, type Buffers, POISON, planFor } from './support.ts';

const HIDDEN = 1024;
const ROW_BYTES = 2 * HIDDEN;
const EXPERTS = 16;

/** A plan with device buffers of the local ranks, and what must be in them after its exchanges. */
export class PreparedPlan {
  readonly exchange: Exchange;
  readonly #buffers: Buffers;
  readonly #expected: Outputs;
  readonly #ranks: readonly number[];
  readonly #rows: DeviceBuffer[];
  readonly #weights: DeviceBuffer[];
  readonly #gradient: DeviceBuffer[];
  readonly #out: Readonly<Record<'received' | 'combined' | 'scaled' | 'weightGradient', DeviceBuffer[]>>;

  constructor(exchange: Exchange, buffers: Buffers, input: Inputs, expected: Outputs) {
    const ranks = exchange.localRanks;
    const local = <T>(all: readonly T[]) => ranks.map((rank) => all[rank]!);
    this.exchange = exchange;
    this.#buffers = buffers;
    this.#expected = expected;
    this.#ranks = ranks;
    this.#rows = buffers.up(local(input.rows));
    this.#weights = buffers.up(local(input.weights));
    this.#gradient = buffers.up(local(input.gradient));
    const received = () => buffers.poisoned(exchange.recvRows.map((rows) => rows * ROW_BYTES));
    const combined = buffers.poisoned(exchange.tokens.map((tokens) => tokens * ROW_BYTES));
    const weightGradient = buffers.poisoned(local(input.weights).map(({ byteLength }) => byteLength));
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

  /** Overwrites all outputs, on the streams of their ranks. */
  poison(): void {
    for (const output of this.outputs) this.#buffers.cuda.fill(output, POISON);
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
      const wanted = this.#ranks.map((rank) => this.#expected[name as keyof Outputs][rank]!);
      const width = name === 'weightGradient' ? 4 : ROW_BYTES;
      assertSame(`${what}: ${name}`, this.#buffers.down(buffers), wanted, width);
    }
  }
}

/** Four plans of different sizes and strategies. @param ranksPerNode of one of them */
export async function makePlans(
  group: Group,
  buffers: Buffers,
  ranksPerNode: number,
): Promise<PreparedPlan[]> {
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
