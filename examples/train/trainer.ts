// The training loop of one MoE layer between an embedding and a head, over the ranks of a group.
//
// A batch is cut into blocks of consecutive images; a rank holds some of them. Every sum has one order, whoever holds
// what: expert weights add up the rows of an expert's block, which are ordered by (source rank, token, k); shared
// weights add up the images of a block, and then the blocks.

import { type DeviceExchange, type Exchange, ExpertLayer, type Group, StepClock } from 'fusco';
import { AllSum } from './allSum.ts';
import { type Digits, PIXELS } from './digits.ts';
import type { Rows } from './matrix.ts';
import {
  Activations,
  EXPERTS,
  type Expert,
  embedAndRoute,
  embedAndRouteBackward,
  judge,
  judgeBackward,
  makeExpert,
  makeShared,
  runExperts,
  runExpertsBackward,
  type Shared,
  TOPK,
  WIDTH,
} from './network.ts';

const LEARNING_RATE = 2e-3;
/** How far the bias of an expert moves in a step towards an even load. */
const BIAS_STEP = 1e-3;
const GATE = { experts: EXPERTS, topk: TOPK, score: 'softmax', normalize: true } as const;

/** What travels with a block's gradient: its loss, how many of its images are right, and tokens per expert. */
const LOSS = 0;
const CORRECT = 1;
const LOADS = 2;
const STATISTICS = LOADS + EXPERTS;

export interface TrainerOptions {
  /** Images of the largest batch. */
  images: number;
  /** Blocks of a batch, all ranks together; a multiple of the ranks. */
  blocks: number;
  /** Plan on the devices instead of on the host. */
  plansOnDevice?: boolean;
}

export interface BatchResult {
  /** Mean cross entropy, float32. */
  readonly loss: number;
  /** Images whose digit was right. */
  readonly correct: number;
}

/** What one rank keeps from step to step. */
interface Rank {
  readonly shared: Shared;
  readonly firstExpert: number;
  /** Those that live here, ascending, and their gradients. */
  readonly experts: readonly Expert[];
  readonly expertGradients: readonly Float32Array[];
  readonly bias: Float32Array;
  readonly images: Float32Array;
  readonly labels: Uint8Array;
  readonly a: Activations;
  /** Gradients of what `a` holds. */
  readonly d: Activations;
}

/** One batch as the ranks of this process hold it. */
interface Batch {
  /** Images of all ranks. */
  readonly count: number;
  /** Per local rank. */
  readonly tokens: readonly number[];
  /** Rows of every block of each local rank. */
  readonly blocks: readonly (readonly Rows[])[];
}

export class Trainer implements Disposable {
  readonly clock = new StepClock();
  readonly #group: Group;
  readonly #sum: AllSum;
  readonly #blocks: number;
  readonly #ranks: readonly Rank[];
  /** Most tokens of a rank, if plans are made on the devices. */
  readonly #maxTokens: number | undefined;

  private constructor(
    group: Group,
    sum: AllSum,
    ranks: readonly Rank[],
    blocks: number,
    maxTokens: number | undefined,
  ) {
    this.#maxTokens = maxTokens;
    this.#group = group;
    this.#sum = sum;
    this.#ranks = ranks;
    this.#blocks = blocks;
  }

  static async open(
    group: Group,
    { images, blocks, plansOnDevice = false }: TrainerOptions,
  ): Promise<Trainer> {
    const { ranks, localRanks } = group;
    const tokens = Math.ceil(images / ranks) + blocks;
    const local = localRanks.map((rank): Rank => {
      const first = Math.ceil((rank * EXPERTS) / ranks);
      const count = Math.ceil(((rank + 1) * EXPERTS) / ranks) - first;
      // At worst all tokens of all ranks choose experts of this one.
      const received = images * Math.min(TOPK, count);
      const experts = Array.from({ length: count }, (_, i) => makeExpert(first + i));
      return {
        shared: makeShared(),
        firstExpert: first,
        experts,
        expertGradients: experts.map(({ values }) => new Float32Array(values.length)),
        bias: new Float32Array(EXPERTS),
        images: new Float32Array(tokens * PIXELS),
        labels: new Uint8Array(tokens),
        a: new Activations(tokens, received),
        d: new Activations(tokens, received),
      };
    });
    const width = local[0]!.shared.values.length + STATISTICS;
    const sum = await AllSum.open(group, blocks / ranks, width);
    return new Trainer(group, sum, local, blocks, plansOnDevice ? tokens : undefined);
  }

  /** One step of training. */
  async train(digits: Digits): Promise<BatchResult> {
    return this.#run(digits, true);
  }

  /** What the network says of some digits, without learning from them. */
  async judge(digits: Digits): Promise<BatchResult> {
    return this.#run(digits, false);
  }

  async #run(digits: Digits, learn: boolean): Promise<BatchResult> {
    const batch = this.#load(digits);
    await this.#gate(batch);
    using layer = await this.#openLayer(batch);
    await this.#forward(layer.experts);
    this.#judge(batch, learn);
    if (learn) await this.#backward(batch, layer.experts);
    const sums = await this.#sum.add();
    if (learn) this.#update(sums, batch.count);
    const statistics = sums[0]!.subarray(-STATISTICS);
    return { loss: Math.fround(statistics[LOSS]! / batch.count), correct: statistics[CORRECT]! };
  }

  /** Gives every local rank its images. */
  #load({ images, labels, count }: Digits): Batch {
    const perRank = this.#blocks / this.#group.ranks;
    const start = (block: number) => Math.floor((block * count) / this.#blocks);
    const blocks = this.#group.localRanks.map((rank, i) => {
      const first = start(rank * perRank);
      const end = start((rank + 1) * perRank);
      this.#ranks[i]!.images.set(images.subarray(first * PIXELS, end * PIXELS));
      this.#ranks[i]!.labels.set(labels.subarray(first, end));
      return Array.from({ length: perRank }, (_, b) => ({
        begin: start(rank * perRank + b) - first,
        end: start(rank * perRank + b + 1) - first,
      }));
    });
    return { count, blocks, tokens: blocks.map((rows) => rows.at(-1)!.end) };
  }

  async #gate({ tokens }: Batch): Promise<void> {
    const ranks = this.#ranks;
    ranks.forEach(({ images, shared, a }, i) => {
      embedAndRoute({ begin: 0, end: tokens[i]! }, images, shared, a);
    });
    await this.clock.time('gate', () =>
      this.#group.gate({
        options: GATE,
        tokens,
        logits: ranks.map(({ a }) => a.routerLogits),
        bias: ranks.map(({ bias }) => bias),
        ids: ranks.map(({ a }) => a.ids),
        weights: ranks.map(({ a }) => a.weights),
        scores: ranks.map(({ a }) => a.scores),
      }),
    );
  }

  /** Plans this step's exchange. */
  async #plan({ tokens }: Batch): Promise<Exchange | DeviceExchange> {
    const { clock } = this;
    const options = { experts: EXPERTS, hidden: WIDTH, dtype: 'f32' } as const;
    const ids = this.#ranks.map(({ a }, i) => a.ids.subarray(0, tokens[i]! * TOPK));
    const maxTokens = this.#maxTokens;
    if (maxTokens !== undefined) {
      const routing = { ids, tokens, topk: TOPK, maxTokens };
      return clock.time('plan', () => this.#group.planOnDevice({ ...options, ...routing }));
    }
    const tables = ids.map((own, i) => ({ ids: own, tokens: tokens[i]!, topk: TOPK }));
    const plan = await clock.time('plan', () => this.#group.planLocal(tables, options));
    return clock.time('prepare', () => this.#group.prepare(plan));
  }

  /** Plans this step's exchange, which the caller closes. */
  async #openLayer(batch: Batch): Promise<{ experts: ExpertLayer; [Symbol.dispose](): void }> {
    const { clock } = this;
    const exchange = await this.#plan(batch);
    const experts = new ExpertLayer(exchange, { hidden: WIDTH, dtype: 'f32', clock });
    return { experts, [Symbol.dispose]: () => exchange.close() };
  }

  async #forward(layer: ExpertLayer): Promise<void> {
    const ranks = this.#ranks;
    await layer.dispatch({ tokens: ranks.map(({ a }) => a.hidden), rows: ranks.map(({ a }) => a.rows) });
    await this.clock.time('experts', () => {
      ranks.forEach(({ experts, a }, i) => {
        runExperts(layer.blocks[i]!, experts, a);
      });
    });
    await layer.combine({
      rows: ranks.map(({ a }) => a.outer),
      tokens: ranks.map(({ a }) => a.mixed),
      weights: ranks.map(({ a }) => a.weights),
    });
  }

  /** A block's gradient of the shared weights and its statistics: what the block adds to the sums. */
  #blockOf(i: number, block: number) {
    const parameters = this.#ranks[i]!.shared.values.length;
    const begin = block * (parameters + STATISTICS);
    const row = this.#sum.rows[i]!.subarray(begin, begin + parameters + STATISTICS);
    return { row, gradient: row.subarray(0, parameters), statistics: row.subarray(parameters) };
  }

  /** Statistics of every block, and the head's gradient. */
  #judge({ count, blocks }: Batch, learn: boolean): void {
    this.#ranks.forEach(({ shared, labels, a, d }, i) => {
      blocks[i]!.forEach((rows, b) => {
        const { row, gradient, statistics } = this.#blockOf(i, b);
        row.fill(0);
        const { loss, correct } = judge(rows, labels, shared, a);
        statistics[LOSS] = loss;
        statistics[CORRECT] = correct;
        for (let entry = rows.begin * TOPK; entry < rows.end * TOPK; entry++) {
          statistics[LOADS + a.ids[entry]!]!++;
        }
        if (learn) judgeBackward(rows, labels, count, shared, gradient, a, d);
      });
    });
  }

  async #backward({ tokens, blocks }: Batch, layer: ExpertLayer): Promise<void> {
    const ranks = this.#ranks;
    await layer.combineBackward({
      tokensGradient: ranks.map(({ d }) => d.mixed),
      rowsGradient: ranks.map(({ d }) => d.outer),
      weights: ranks.map(({ a }) => a.weights),
      rows: ranks.map(({ a }) => a.outer),
      weightsGradient: ranks.map(({ d }) => d.weights),
    });
    await this.clock.time('experts', () => {
      ranks.forEach(({ experts, expertGradients, a, d }, i) => {
        for (const gradient of expertGradients) gradient.fill(0);
        runExpertsBackward(layer.blocks[i]!, experts, expertGradients, a, d);
      });
    });
    await layer.dispatchBackward({
      rowsGradient: ranks.map(({ d }) => d.rows),
      tokensGradient: ranks.map(({ d }) => d.hidden),
    });
    await this.clock.time('gateBackward', () =>
      this.#group.gateBackward({
        options: GATE,
        tokens,
        ids: ranks.map(({ a }) => a.ids),
        scores: ranks.map(({ a }) => a.scores),
        weightsGradient: ranks.map(({ d }) => d.weights),
        logitsGradient: ranks.map(({ d }) => d.routerLogits),
      }),
    );
    ranks.forEach(({ shared, images, a, d }, i) => {
      blocks[i]!.forEach((rows, b) => {
        embedAndRouteBackward(rows, images, shared, this.#blockOf(i, b).gradient, a, d);
      });
    });
  }

  /** Every rank learns the same from the same sums; an expert from its own gradient. */
  #update(sums: readonly Float32Array[], count: number): void {
    const mean = (count * TOPK) / EXPERTS;
    this.#ranks.forEach(({ shared, experts, expertGradients, bias }, i) => {
      const sum = sums[i]!;
      const loads = sum.subarray(-STATISTICS).subarray(LOADS);
      shared.update(sum.subarray(0, -STATISTICS), LEARNING_RATE);
      experts.forEach((expert, e) => {
        expert.update(expertGradients[e]!, LEARNING_RATE);
      });
      // Load balancing without an auxiliary loss, as in DeepSeek-V3.
      loads.forEach((load, expert) => {
        bias[expert]! += BIAS_STEP * Math.sign(mean - load);
      });
    });
  }

  /** The weights of this process's ranks, by name: the shared ones, which are identical on all ranks, and the experts'. */
  weights(): Map<string, Float32Array> {
    const named = new Map([['shared weights', this.#ranks[0]!.shared.values]]);
    for (const { firstExpert, experts } of this.#ranks) {
      experts.forEach(({ values }, i) => {
        named.set(`weights of expert ${firstExpert + i}`, values);
      });
    }
    return named;
  }

  [Symbol.dispose](): void {
    this.#sum[Symbol.dispose]();
  }
}
