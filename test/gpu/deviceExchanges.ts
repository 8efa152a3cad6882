// Exchanges along plans that were made on the devices, against the reference with the planner's own plan: random options,
// bounds on receive buffers, bad ids, several plans at a time, captured graphs, groups next to each other, late ranks.

import assert from 'node:assert/strict';
import type { Memory } from '../../executor/backends/types.ts';
import type { DeviceExchange, IdDtype } from '../../executor/deviceExchange.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import { spin } from '../../executor/internal.ts';
import { planId } from '../../planner/format/digest.ts';
import { SLOT_DROPPED } from '../../planner/format/layout.ts';
import { Shard } from '../../planner/format/shard.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { markVerified, type VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { randomPlan } from '../support/randomPlans.ts';
import { makeRouting, toTables } from '../support/workloads.ts';
import { assertSameOutputs, type Inputs, makeInputs, runCalls, runExchanges } from './exchanges.ts';
import { assertSame, type Buffers, type Gpu, type GpuCase, openGpu, rejection } from './support.ts';

const RANDOM_CASES = 60;
const PER_CASE = 15;

export function idDtypeOf(ids: RoutingTable['ids']): IdDtype {
  const kind = /^(Big)?U/.test(ids.constructor.name) ? 'u' : 'i';
  return `${kind}${8 * ids.BYTES_PER_ELEMENT}` as IdDtype;
}

/** The ids of tables in device memory. A rank without tokens has an address as well. */
export function idsUp(buffers: Buffers, tables: readonly RoutingTable[]) {
  return buffers.up(tables.map(({ ids }) => (ids.length > 0 ? ids : new Uint8Array(8))));
}

/** The call that plans these tables, whose ids are in device memory. */
export function routingOf(tables: readonly RoutingTable[], ids: ReturnType<typeof idsUp>, bound?: number) {
  return {
    ids,
    idDtype: idDtypeOf(tables[0]!.ids),
    tokens: tables.map(({ tokens }) => tokens),
    topk: tables[0]!.topk,
    ...(bound === undefined ? {} : { maxRecvRows: bound }),
  };
}

function withoutRanks({ ranks: _, ...options }: PlanOptions): Omit<PlanOptions, 'ranks'> {
  return options;
}

function planOnDevice(gpu: Gpu, tables: readonly RoutingTable[], options: PlanOptions, bound?: number) {
  const call = routingOf(tables, idsUp(gpu.buffers, tables), bound);
  return gpu.group.planOnDevice({ ...withoutRanks(options), ...call });
}

async function referenceOf(plan: VerifiedPlan, input: Inputs) {
  using group = await createGroup({ ranks: plan.spec.ranks, backend: 'reference' });
  return await runExchanges(group, plan, input);
}

/** All exchanges of a device plan against the reference, and what the plan itself says. */
async function compare(gpu: Gpu, tables: readonly RoutingTable[], options: PlanOptions, rowBytes: number) {
  const wasm = await loadPlanner();
  const plan = wasm.planAll(tables, options);
  using exchange = await planOnDevice(gpu, tables, options);
  assert.deepEqual(
    exchange.recvRows,
    plan.shards.map(({ recvRows }) => recvRows),
  );
  const input = makeInputs(plan, 'bf16', rowBytes, 224, true);
  const found = await runCalls(exchange, plan, input, gpu.group.localRanks, gpu.buffers);
  assertSameOutputs(found, await referenceOf(plan, input), input);
  return { exchange, plan };
}

const randomCases = Array.from({ length: RANDOM_CASES / PER_CASE }, (_, part): GpuCase => {
  const first = part * PER_CASE;
  return {
    name: `device plans: exchanges along random plans ${first} to ${first + PER_CASE - 1}`,
    async run() {
      for (let number = first; number < first + PER_CASE; number++) {
        const { options, tables } = randomPlan(number);
        using gpu = await openGpu(options.ranks);
        const { plan, exchange } = await compare(gpu, tables, options, [2048, 16, 104, 6][number % 4]!).catch(
          (error: Error) => {
            throw new Error(`case ${number} ${JSON.stringify(options)}: ${error.message}`);
          },
        );
        assert.throws(() => exchange.expertCounts(0), { code: 'E_CLOSED' });
        using again = await planOnDevice(gpu, tables, options);
        assert.equal(await again.planId(), await planId(plan, nodeSha256), `plan id of case ${number}`);
        assert.equal(await planId(await again.plan(), nodeSha256), await planId(plan, nodeSha256));
      }
    },
  };
});

/** The plan as it is executed with a bound: slots from `limit` on are dropped. */
export function clipped(plan: VerifiedPlan, limit: number): VerifiedPlan {
  const shards = plan.shards.map((shard, rank) => {
    const copy = Shard.open(Uint8Array.from(shard.bytes), rank);
    copy.entrySlot.forEach((slot, entry) => {
      if (slot >= limit) copy.entrySlot[entry] = SLOT_DROPPED;
    });
    return copy;
  });
  return markVerified({ ...plan, shards });
}

/** Exchanges with a bound on the rows of receive buffers, against the reference. */
async function compareBounded(
  gpu: Gpu,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  limit: number,
) {
  const wasm = await loadPlanner();
  const plan = wasm.planAll(tables, options);
  const rowBytes = 2048;
  const dtype = 'bf16';
  const { group, buffers } = gpu;
  using exchange = await planOnDevice(gpu, tables, options, limit);
  assert.deepEqual(
    exchange.recvRows,
    plan.shards.map(() => limit),
  );
  const input = makeInputs(plan, dtype, rowBytes, 224, true);
  using reference = await createGroup({ ranks: plan.spec.ranks, backend: 'reference' });
  const whole = await runExchanges(reference, plan, input);
  const rows = buffers.up(input.rows);
  const weights = buffers.up(input.weights);
  const gradient = buffers.up(input.gradient);
  const received = buffers.poisoned(group.localRanks.map(() => (limit + 1) * rowBytes));
  await exchange.dispatch({ payloads: [{ rowBytes, from: rows, to: received }] });
  for (const [rank, bytes] of buffers.down(received).entries()) {
    const real = Math.min(limit, plan.shards[rank]!.recvRows) * rowBytes;
    assertSame(
      'rows below the bound',
      [bytes.subarray(0, real)],
      [whole.received[rank]!.subarray(0, real)],
      rowBytes,
    );
    assert.ok(
      bytes.subarray(limit * rowBytes).every((byte) => byte === 0xaa),
      'no row beyond the bound is written',
    );
  }
  // The rows of experts are given, so that combine does not depend on what dispatch left out.
  const experts = plan.shards.map(({ recvRows }, rank) => {
    const bytes = new Uint8Array(Math.max(limit, recvRows) * rowBytes);
    bytes.set(whole.received[rank]!);
    return bytes;
  });
  const from = buffers.up(experts.map((bytes) => bytes.subarray(0, limit * rowBytes)));
  const out = {
    combined: buffers.poisoned(input.rows.map((bytes) => bytes.byteLength)),
    weightGradient: buffers.poisoned(input.weights.map((bytes) => bytes.byteLength)),
    gradientWeights: buffers.poisoned(input.weights.map((bytes) => bytes.byteLength)),
    gradientRows: buffers.poisoned(group.localRanks.map(() => limit * rowBytes)),
  };
  const common = { dtype, rowBytes } as const;
  await exchange.combine({ ...common, from, to: out.combined, weights });
  await exchange.weightGradient({ ...common, outputGradient: gradient, from, to: out.weightGradient });
  await exchange.combineGradient({
    ...{ ...common, outputGradient: gradient, from, weights },
    ...{ to: out.gradientRows, weightsGradient: out.gradientWeights },
  });
  using bounded = await reference.prepare(clipped(plan, limit));
  const combined = input.rows.map((bytes) => new Uint8Array(bytes.byteLength));
  const products = input.weights.map((bytes) => new Uint8Array(bytes.byteLength));
  await bounded.combine({ ...common, from: experts, to: combined, weights: input.weights });
  await bounded.weightGradient({ ...common, outputGradient: input.gradient, from: experts, to: products });
  assertSame('combined rows', buffers.down(out.combined), combined, rowBytes);
  assertSame('gradient of weights', buffers.down(out.weightGradient), products, 4);
  assertSame('weights of a combine gradient', buffers.down(out.gradientWeights), products, 4);
  const overflow = plan.shards.map(({ expertOffset, expertRows }) =>
    [...expertRows].reduce((sum, count, j) => {
      const fits = Math.max(0, Math.min(count, limit - expertOffset[j]!));
      return sum + count - fits;
    }, 0),
  );
  assert.deepEqual(await exchange.overflowRows(), overflow);
  assert.equal(await exchange.planId(), await planId(plan, nodeSha256), 'the bound does not change the plan');
}

const SMALL: PlanOptions = { experts: 8, ranks: 2, ranksPerNode: 1, strategy: 'hier' };

function smallTables(ids: Int32Array): RoutingTable[] {
  return [
    { ids: Int32Array.of(0, 1, 2), tokens: 1, topk: 3 },
    { ids, tokens: 2, topk: 3 },
  ];
}

/** Two ranks, one expert taken twice or out of range, in every position. */
async function badIds(): Promise<void> {
  const wasm = await loadPlanner();
  using gpu = await openGpu(2);
  for (let entry = 0; entry < 6; entry++) {
    for (const bad of [8, -2, 2 ** 31 - 1, 'twice'] as const) {
      const ids = Int32Array.of(5, 0, 3, 7, 1, 2);
      const other = entry % 3 === 2 ? entry - 1 : entry + 1;
      ids[entry] = bad === 'twice' ? ids[other]! : bad;
      const masked = Int32Array.from(ids);
      masked[bad === 'twice' ? Math.max(entry, other) : entry] = -1;
      const plan = wasm.planAll(smallTables(masked), SMALL);
      const code = bad === 'twice' ? 'E_ROUTING_DUPLICATE' : 'E_ROUTING_ID';
      assert.equal(await rejection(planOnDevice(gpu, smallTables(ids), SMALL)), code, 'an exact size waits');
      const bound = Math.max(...plan.shards.map(({ recvRows }) => recvRows));
      using exchange = await planOnDevice(gpu, smallTables(ids), SMALL, bound);
      const input = makeInputs(plan, 'bf16', 32, 16, true);
      const padded = receivingAll(exchange, bound, plan);
      const found = await runCalls(padded, plan, input, gpu.group.localRanks, gpu.buffers);
      assertSameOutputs(found, await referenceOf(plan, input), input);
      assert.equal(await rejection(exchange.plan()), code);
      assert.equal(await rejection(exchange.planId()), code);
    }
  }
}

/** The calls of an exchange with a bound, in which receive buffers may be as small as the plan needs. */
function receivingAll(exchange: DeviceExchange, bound: number, plan: VerifiedPlan) {
  // Buffers of this test are parts of larger allocations: only the stated bytes are too few.
  const larger = (memories: readonly Memory[] | undefined, rowBytes: number) =>
    memories?.map((memory, rank) => {
      assert.ok('address' in memory && plan.shards[rank] !== undefined);
      return { ...memory, bytes: bound * rowBytes };
    });
  const list = (memories: readonly Memory[], rowBytes: number) => larger(memories, rowBytes)!;
  return {
    dispatch: (call: Parameters<DeviceExchange['dispatch']>[0]) => {
      const payloads = call.payloads.map((payload) => ({
        ...payload,
        to: list(payload.to, payload.rowBytes),
      }));
      const origins = larger(call.origins, 12);
      return exchange.dispatch({ ...call, payloads, ...(origins === undefined ? {} : { origins }) });
    },
    combine: (call: Parameters<DeviceExchange['combine']>[0]) =>
      exchange.combine({ ...call, from: list(call.from, call.rowBytes) }),
    weightGradient: (call: Parameters<DeviceExchange['weightGradient']>[0]) =>
      exchange.weightGradient({ ...call, from: list(call.from, call.rowBytes) }),
    combineGradient: (call: Parameters<DeviceExchange['combineGradient']>[0]) => {
      const rows = { from: list(call.from, call.rowBytes), to: list(call.to, call.rowBytes) };
      const origins = larger(call.origins, 12);
      return exchange.combineGradient({ ...call, ...rows, ...(origins === undefined ? {} : { origins }) });
    },
  };
}

/** A step of a training loop: plan, dispatch, combine and both gradients, into buffers that stay. */
class Step {
  readonly #gpu: Gpu;
  readonly #options: PlanOptions;
  readonly #tables: RoutingTable[];
  readonly #bound: number;
  readonly #rowBytes = 256;
  readonly #ids: ReturnType<typeof idsUp>;
  readonly #in: Readonly<Record<'rows' | 'weights' | 'gradient', ReturnType<typeof idsUp>>>;
  readonly #out: Readonly<
    Record<'received' | 'combined' | 'gradientRows' | 'gradientWeights', ReturnType<typeof idsUp>>
  >;
  readonly #input: Inputs;
  readonly #open: DeviceExchange[] = [];

  constructor(gpu: Gpu, options: PlanOptions, tables: RoutingTable[], plan: VerifiedPlan) {
    const { buffers } = gpu;
    this.#gpu = gpu;
    this.#options = options;
    this.#tables = tables;
    const entries = tables.reduce((sum, { ids }) => sum + ids.length, 0);
    this.#bound = entries + options.experts;
    this.#input = makeInputs(plan, 'bf16', this.#rowBytes, 16, true);
    this.#ids = idsUp(buffers, tables);
    this.#in = {
      rows: buffers.up(this.#input.rows),
      weights: buffers.up(this.#input.weights),
      gradient: buffers.up(this.#input.gradient),
    };
    const rows = () => buffers.poisoned(tables.map(() => this.#bound * this.#rowBytes));
    this.#out = {
      received: rows(),
      combined: buffers.poisoned(this.#input.rows.map((bytes) => bytes.byteLength)),
      gradientRows: rows(),
      gradientWeights: buffers.poisoned(this.#input.weights.map((bytes) => bytes.byteLength)),
    };
  }

  async enqueue(): Promise<void> {
    const { group } = this.#gpu;
    const call = routingOf(this.#tables, this.#ids, this.#bound);
    const exchange = await group.planOnDevice({ ...withoutRanks(this.#options), ...call });
    this.#open.push(exchange);
    const common = { dtype: 'bf16', rowBytes: this.#rowBytes } as const;
    const { rows, weights, gradient } = this.#in;
    const { received, combined, gradientRows, gradientWeights } = this.#out;
    await exchange.dispatch({ payloads: [{ rowBytes: this.#rowBytes, from: rows, to: received }] });
    await exchange.combine({ ...common, from: received, to: combined, weights });
    await exchange.combineGradient({
      ...{ ...common, outputGradient: gradient, from: received, weights },
      ...{ to: gradientRows, weightsGradient: gradientWeights },
    });
  }

  /** Other ids for the next step, with the same numbers of tokens. */
  route(tables: readonly RoutingTable[]): void {
    for (const [rank, { ids }] of tables.entries()) {
      if (ids.length > 0) this.#gpu.cuda.copy(rank, this.#ids[rank]!, ids, ids.byteLength);
    }
  }

  async check(note: string, plan: VerifiedPlan, reference: Group): Promise<void> {
    const rowBytes = this.#rowBytes;
    const { rows, weights, gradient } = this.#input;
    using exchange = await reference.prepare(plan);
    const received = plan.shards.map(({ recvRows }) => new Uint8Array(recvRows * rowBytes));
    const combined = rows.map((bytes) => new Uint8Array(bytes.byteLength));
    const to = received.map((bytes) => new Uint8Array(bytes.byteLength));
    const weightsGradient = weights.map((bytes) => new Uint8Array(bytes.byteLength));
    const common = { dtype: 'bf16', rowBytes } as const;
    await exchange.dispatch({ payloads: [{ rowBytes, from: rows, to: received }] });
    await exchange.combine({ ...common, from: received, to: combined, weights });
    await exchange.combineGradient({
      ...{ ...common, outputGradient: gradient, from: received, weights, to, weightsGradient },
    });
    const down = (buffers: ReturnType<typeof idsUp>) => this.#gpu.buffers.down(buffers);
    const start = (buffers: ReturnType<typeof idsUp>, expected: Uint8Array[]) =>
      down(buffers).map((bytes, rank) => bytes.subarray(0, expected[rank]!.length));
    assertSame(`${note}: received`, start(this.#out.received, received), received, rowBytes);
    assertSame(`${note}: combined`, down(this.#out.combined), combined, rowBytes);
    assertSame(`${note}: gradient rows`, start(this.#out.gradientRows, to), to, rowBytes);
    assertSame(`${note}: gradient of weights`, down(this.#out.gradientWeights), weightsGradient, 4);
  }

  close(): void {
    for (const exchange of this.#open) exchange.close();
  }
}

/** SMs of each of two groups, whose kernels wait for other GPUs at the same time: together fewer than a GPU has. */
const SHARE = 48;

const LOOP = { ranks: 4, tokens: 24, topk: 3, experts: 16 } as const;

function loopTables(seed: number): RoutingTable[] {
  return toTables(makeRouting({ family: 'hotExperts', seed, masked: 0.1, ...LOOP }), LOOP.topk);
}

/** Options of the loops: with several ranks of a node, and with rows once per rank. */
const LOOPS: PlanOptions[] = [
  { experts: LOOP.experts, ranks: LOOP.ranks, strategy: 'flat', align: 8, hidden: 128 },
  { experts: LOOP.experts, ranks: LOOP.ranks, ranksPerNode: 1, strategy: 'hier', capacity: 20, hidden: 128 },
  { experts: LOOP.experts, ranks: LOOP.ranks, ranksPerNode: 2, strategy: 'hier', hidden: 128 },
];

const otherCases: GpuCase[] = [
  {
    name: 'device plans: overflow by one row, by half of the rows and by all but one',
    async run() {
      const wasm = await loadPlanner();
      for (const options of LOOPS) {
        using gpu = await openGpu(options.ranks);
        const tables = loopTables(3);
        const plan = wasm.planAll(tables, options);
        const most = Math.max(...plan.shards.map(({ recvRows }) => recvRows));
        for (const limit of [most + 3, most - 1, most >> 1, 1])
          await compareBounded(gpu, tables, options, limit);
      }
    },
  },
  { name: 'device plans: bad ids in every position are masked', run: badIds },
  {
    name: 'device plans: several are alive, and exchanges follow in another order',
    async run() {
      const wasm = await loadPlanner();
      for (const options of LOOPS) {
        using gpu = await openGpu(options.ranks);
        const steps = [11, 12, 13].map(loopTables);
        const exchanges: DeviceExchange[] = [];
        for (const tables of steps) exchanges.push(await planOnDevice(gpu, tables, options));
        for (const i of [2, 0, 1, 0]) {
          const plan = wasm.planAll(steps[i]!, options);
          const input = makeInputs(plan, 'bf16', 256, 16, true, i);
          const found = await runCalls(exchanges[i]!, plan, input, gpu.group.localRanks, gpu.buffers);
          assertSameOutputs(found, await referenceOf(plan, input), input);
        }
        for (const exchange of exchanges) exchange.close();
      }
    },
  },
  ...LOOPS.map((options): GpuCase => {
    const replays = options.ranksPerNode === 1 ? 1000 : 200;
    return {
      name: `device plans: ${replays} replays of one graph with other ids, ${options.strategy}, ${options.ranksPerNode ?? 'all'} ranks of a node`,
      async run() {
        const wasm = await loadPlanner();
        using gpu = await openGpu(options.ranks);
        using reference = await createGroup({ ranks: options.ranks, backend: 'host' });
        const first = loopTables(0);
        const step = new Step(gpu, options, first, wasm.planAll(first, options));
        // Memory of exchanges cannot be made in a capture.
        await step.enqueue();
        using graph = await gpu.cuda.captureAsync(() => step.enqueue());
        for (let replay = 1; replay <= replays; replay++) {
          const tables = loopTables(replay);
          step.route(tables);
          graph.launch();
          // Eager steps between replays.
          if (replay % 97 === 0) await step.enqueue();
          await step.check(`replay ${replay}`, wasm.planAll(tables, options), reference);
        }
        step.close();
      },
    };
  }),
  {
    name: 'device plans: two groups on two streams, interleaved',
    async run() {
      const wasm = await loadPlanner();
      const options = LOOPS[1]!;
      using one = await openGpu(options.ranks);
      using two = await openGpu(options.ranks);
      for (const { cuda } of [one, two]) cuda.limitSms(SHARE);
      using reference = await createGroup({ ranks: options.ranks, backend: 'host' });
      const plan = wasm.planAll(loopTables(0), options);
      const steps = [one, two].map((gpu) => new Step(gpu, options, loopTables(0), plan));
      for (let round = 1; round <= 30; round++) {
        const tables = [loopTables(2 * round), loopTables(2 * round + 1)];
        for (const [i, step] of steps.entries()) step.route(tables[i]!);
        for (let again = 0; again < 3; again++) for (const step of steps) await step.enqueue();
        for (const [i, step] of steps.entries()) {
          await step.check(`round ${round}, group ${i}`, wasm.planAll(tables[i]!, options), reference);
        }
      }
      for (const step of steps) step.close();
    },
  },
  {
    name: 'device plans: a rank that is 50 ms late',
    async run() {
      const wasm = await loadPlanner();
      for (const options of LOOPS) {
        using gpu = await openGpu(options.ranks);
        using reference = await createGroup({ ranks: options.ranks, backend: 'host' });
        const plan = wasm.planAll(loopTables(0), options);
        const step = new Step(gpu, options, loopTables(0), plan);
        for (let late = 0; late < options.ranks; late++) {
          const tables = loopTables(late + 1);
          step.route(tables);
          spin(gpu.cuda, late, 50e6);
          await step.enqueue();
          await step.check(`rank ${late} late`, wasm.planAll(tables, options), reference);
        }
        step.close();
      }
    },
  },
  {
    name: 'device plans: what is refused',
    async run() {
      using gpu = await openGpu(2);
      const tables = smallTables(Int32Array.of(5, 0, 3, 7, 1, 2));
      const call = { ...withoutRanks(SMALL), ...routingOf(tables, idsUp(gpu.buffers, tables)) };
      const refused = async (code: string, change: object) =>
        assert.equal(await rejection(gpu.group.planOnDevice({ ...call, ...change })), code);
      await refused('E_OPTION', { strategy: 'auto' });
      await refused('E_RANKS', { tokens: [1] });
      await refused('E_ROUTING_DTYPE', { ids: tables.map(({ ids }) => ids), idDtype: 'i64' });
      await refused('E_BUFFER', { tokens: [1, 3] });
      await refused('E_LIMIT', { maxTokens: 1 });
      await refused('E_ROUTING_DTYPE', { idDtype: 'f32' });
      using exchange = await gpu.group.planOnDevice({ ...call, maxRecvRows: 8 });
      const rows = gpu.buffers.up([new Uint8Array(16), new Uint8Array(32)]);
      const to = gpu.buffers.poisoned([7 * 16, 8 * 16]);
      const dispatch = exchange.dispatch({ payloads: [{ rowBytes: 16, from: rows, to }] });
      assert.equal(await rejection(dispatch), 'E_BUFFER', 'a receive buffer below the bound');
      assert.throws(() => exchange.expertBlocks(), { code: 'E_OPTION' });
      using reference = await createGroup({ ranks: 2, backend: 'reference' });
      assert.equal(await rejection(reference.planOnDevice(call)), 'E_BACKEND');
    },
  },
];

export const deviceExchangeCases: readonly GpuCase[] = [...otherCases, ...randomCases];
