// Exchanges along plans that each rank made on its own device, on one machine and across machines.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Cuda } from '../../../executor/backends/cuda/context.ts';
import type { DeviceExchange } from '../../../executor/deviceExchange.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { decodePlan } from '../../../planner/format/decode.ts';
import { planId } from '../../../planner/format/digest.ts';
import { loadPlanner, nodeSha256 } from '../../../planner/node.ts';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { RoutingTable } from '../../../planner/routing.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import { makeRouting, toTables } from '../../support/workloads.ts';
import { clipped, idsUp, routingOf } from '../deviceExchanges.ts';
import { assertSameOutputs, makeInputs, outputsOf, runCalls, runExchanges } from '../exchanges.ts';
import { assertSame, Buffers, rejection } from '../support.ts';
import type { RankCase } from './cases.ts';

const EXPERTS = 16;
const TOPK = 4;
/** Processes that take turns on one GPU need much longer for each. */
const REPLAYS = process.env.FUSCO_TEST_ONE_GPU === '0' ? 200 : 40;
const ROW_BYTES = 1024;
/** Up to 928 tokens a hierarchical plan of these options is small, native/test/test_plan_passes.cc says. */
const TOKENS = [0, 1, 33, 700, 928, 968];

export function optionsOf(ranks: number): PlanOptions[] {
  const common = { experts: EXPERTS, ranks, hidden: ROW_BYTES / 2 };
  return [
    { ...common, strategy: 'flat', align: 8 },
    { ...common, ranksPerNode: 1, strategy: 'hier', capacity: 30 },
    { ...common, ranksPerNode: 1, strategy: 'hier', sum: 'token' },
    ...(ranks % 2 === 0 && ranks > 2 ? [{ ...common, ranksPerNode: 2, strategy: 'hier' } as const] : []),
  ];
}

export function tablesOf(ranks: number, tokens: number, seed: number): RoutingTable[] {
  const family = seed % 2 === 0 ? 'hotExperts' : 'raggedSources';
  return toTables(
    makeRouting({ family, seed, ranks, tokens, topk: TOPK, experts: EXPERTS, masked: 0.1 }),
    TOPK,
  );
}

/** Plans this rank's table on its device. */
export function planOnDevice(
  group: Group,
  buffers: Buffers,
  tables: readonly RoutingTable[],
  { ranks: _, ...options }: PlanOptions,
  bound?: number,
): Promise<DeviceExchange> {
  const own = [tables[group.localRanks[0]!]!];
  const call = routingOf(own, idsUp(buffers, own), bound);
  const maxTokens = Math.max(1, ...tables.map(({ tokens }) => tokens));
  return group.planOnDevice({ ...options, ...call, maxTokens });
}

export async function expectedOf(plan: VerifiedPlan, input: ReturnType<typeof makeInputs>) {
  using reference = await createGroup({ ranks: plan.spec.ranks, backend: 'host' });
  return await runExchanges(reference, plan, input);
}

/** Dispatch, combine and the weights' gradient with a bound on the rows of receive buffers, against the reference. */
async function compareBounded(
  group: Group,
  exchange: DeviceExchange,
  plan: VerifiedPlan,
  limit: number,
  buffers: Buffers,
): Promise<void> {
  const rank = group.localRanks[0]!;
  const input = makeInputs(plan, 'bf16', ROW_BYTES, 28, true);
  const whole = await expectedOf(plan, input);
  const received = buffers.poisoned([(limit + 1) * ROW_BYTES]);
  const rows = buffers.up([input.rows[rank]!]);
  await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to: received }] });
  const [found] = buffers.down(received) as [Uint8Array];
  const real = Math.min(limit, plan.shards[rank]!.recvRows) * ROW_BYTES;
  const wanted = whole.received[rank]!.subarray(0, real);
  assertSame('rows below the bound', [found.subarray(0, real)], [wanted], ROW_BYTES);
  assert.ok(
    found.subarray(limit * ROW_BYTES).every((byte) => byte === 0xaa),
    'no row beyond the bound is written',
  );
  // The rows of experts are given, so that combine does not depend on what dispatch left out.
  const experts = plan.shards.map(({ recvRows }, of) => {
    const bytes = new Uint8Array(Math.max(limit, recvRows) * ROW_BYTES);
    bytes.set(whole.received[of]!);
    return bytes;
  });
  const from = buffers.up([experts[rank]!.subarray(0, limit * ROW_BYTES)]);
  const combined = buffers.poisoned([input.rows[rank]!.byteLength]);
  const products = buffers.poisoned([input.weights[rank]!.byteLength]);
  const gradient = buffers.up([input.gradient[rank]!]);
  const weights = buffers.up([input.weights[rank]!]);
  const common = { dtype: 'bf16', rowBytes: ROW_BYTES } as const;
  await exchange.combine({ ...common, from, to: combined, weights });
  await exchange.weightGradient({ ...common, outputGradient: gradient, from, to: products });
  using reference = await createGroup({ ranks: plan.spec.ranks, backend: 'reference' });
  using bounded = await reference.prepare(clipped(plan, limit));
  const sums = input.rows.map((bytes) => new Uint8Array(bytes.byteLength));
  const dots = input.weights.map((bytes) => new Uint8Array(bytes.byteLength));
  await bounded.combine({ ...common, from: experts, to: sums, weights: input.weights });
  await bounded.weightGradient({ ...common, outputGradient: input.gradient, from: experts, to: dots });
  assertSame('combined rows', buffers.down(combined), [sums[rank]!], ROW_BYTES);
  assertSame('gradient of weights', buffers.down(products), [dots[rank]!], 4);
}

/** Blocks of `ranksPerMachine` ranks are on one machine. */
export function deviceExchangeCases(ranks: number, ranksPerMachine: number, cuda: Cuda): RankCase[] {
  if (ranksPerMachine < ranks) return casesAcross(ranks, ranksPerMachine, cuda);
  return [...casesOf(ranks, ranks, cuda), ...replayCases(ranks, cuda)];
}

function casesOf(ranks: number, ranksPerMachine: number, cuda: Cuda): RankCase[] {
  const allOptions = optionsOf(ranks).filter(({ ranksPerNode }) => (ranksPerNode ?? 1) <= ranksPerMachine);
  const mostTokens = ranksPerMachine < ranks ? 700 : Infinity;
  return [
    ...allOptions.flatMap((options) =>
      TOKENS.filter((tokens) => tokens <= mostTokens).map(
        (tokens): RankCase => ({
          name: `device plans: ${options.strategy} ${options.ranksPerNode ?? 'all'} ${options.sum ?? ''}, ${tokens} tokens`,
          async run(group) {
            const wasm = await loadPlanner();
            const rank = group.localRanks[0]!;
            const tables = tablesOf(ranks, tokens, tokens);
            const plan = wasm.planAll(tables, options);
            using buffers = new Buffers(cuda);
            using exchange = await planOnDevice(group, buffers, tables, options);
            assert.deepEqual(exchange.recvRows, [plan.shards[rank]!.recvRows]);
            for (const rowBytes of [ROW_BYTES, 24]) {
              const input = makeInputs(plan, 'bf16', rowBytes, 28, true);
              const found = await runCalls(exchange, plan, input, group.localRanks, buffers);
              assertSameOutputs(found, outputsOf(await expectedOf(plan, input), rank), input);
            }
            assert.equal(await exchange.planId(), await planId(plan, nodeSha256));
          },
        }),
      ),
    ),
    {
      name: 'device plans: plan and save are those of the planner, on all ranks',
      async run(group) {
        const wasm = await loadPlanner();
        const folder = mkdtempSync(join(tmpdir(), 'fusco-device-'));
        for (const [i, options] of allOptions.entries()) {
          const tables = tablesOf(ranks, 40, i);
          const expected = await planId(wasm.planAll(tables, options), nodeSha256);
          using buffers = new Buffers(cuda);
          using exchange = await planOnDevice(group, buffers, tables, options);
          assert.equal(await planId(await exchange.plan(), nodeSha256), expected);
          const path = join(folder, `${i}.fusco`);
          assert.equal(await exchange.save(path), expected);
          if (group.localRanks[0] !== 0) continue;
          assert.equal(await (await decodePlan(readFileSync(path), nodeSha256)).planId, expected);
        }
        rmSync(folder, { recursive: true });
      },
    },
    ...allOptions.map(
      (options): RankCase => ({
        name: `device plans: bounds that leave rows out, ${options.strategy} ${options.ranksPerNode ?? 'all'} ${options.sum ?? ''}`,
        async run(group) {
          const wasm = await loadPlanner();
          const tables = tablesOf(ranks, 60, 2);
          const plan = wasm.planAll(tables, options);
          const most = Math.max(...plan.shards.map(({ recvRows }) => recvRows));
          for (const limit of [1, Math.ceil(most / 2), most - 1]) {
            using buffers = new Buffers(cuda);
            using exchange = await planOnDevice(group, buffers, tables, options, limit);
            await compareBounded(group, exchange, plan, limit, buffers);
            assert.equal(await exchange.planId(), await planId(plan, nodeSha256));
          }
        },
      }),
    ),
    {
      name: 'device plans: a bad id is masked in exchanges',
      async run(group) {
        const wasm = await loadPlanner();
        const rank = group.localRanks[0]!;
        const odd = ranks - 1;
        for (const options of allOptions) {
          const tables = tablesOf(ranks, 12, 2);
          const masked = tables.map(({ ids, ...rest }) => ({ ids: ids.slice(), ...rest }));
          tables[odd]!.ids[5] = EXPERTS;
          masked[odd]!.ids[5] = -1;
          const plan = wasm.planAll(masked, options);
          const limit = 12 * ranks * TOPK + 8 * EXPERTS;
          using buffers = new Buffers(cuda);
          using exchange = await planOnDevice(group, buffers, tables, options, limit);
          await compareBounded(group, exchange, plan, limit, buffers);
          if (rank === odd) assert.equal(await rejection(exchange.shardDigests()), 'E_ROUTING_ID');
        }
      },
    },
    {
      name: 'device plans: a bad id of one rank is its error, and that of the plan on all ranks',
      async run(group) {
        const rank = group.localRanks[0]!;
        const [options] = optionsOf(ranks) as [PlanOptions];
        const tables = tablesOf(ranks, 12, 2);
        const odd = ranks - 1;
        tables[odd]!.ids[5] = EXPERTS;
        using buffers = new Buffers(cuda);
        using exchange = await planOnDevice(group, buffers, tables, options, 12 * ranks * TOPK + 8 * EXPERTS);
        if (rank === odd) assert.equal(await rejection(exchange.shardDigests()), 'E_ROUTING_ID');
        assert.equal(await rejection(exchange.planId()), 'E_ROUTING_ID');
        assert.equal(await rejection(exchange.plan()), 'E_ROUTING_ID');
      },
    },
    {
      name: 'device plans: planners of two sizes in turn, with delays',
      async run(group) {
        const wasm = await loadPlanner();
        const rank = group.localRanks[0]!;
        using buffers = new Buffers(cuda);
        const [scratch] = buffers.poisoned([32 << 20]);
        const sides = [];
        for (const [i, tokens] of [300, 9].entries()) {
          const { ranks: _, ...options } = optionsOf(ranks)[i]!;
          const tables = tablesOf(ranks, tokens, 2 + i);
          const plan = wasm.planAll(tables, { ...options, ranks });
          const input = makeInputs(plan, 'bf16', ROW_BYTES, 28, true);
          const bound = tables.reduce((sum, { ids }) => sum + ids.length, 8 * EXPERTS);
          const maxTokens = Math.max(1, ...tables.map((table) => table.tokens));
          const own = [tables[rank]!];
          sides.push({
            call: { ...options, ...routingOf(own, idsUp(buffers, own), bound), maxTokens },
            from: buffers.up([input.rows[rank]!]),
            to: buffers.poisoned([bound * ROW_BYTES]),
            expected: (await expectedOf(plan, input)).received[rank]!,
          });
        }
        for (let turn = 0; turn < 20; turn++) {
          if (turn % ranks === rank) for (let i = 0; i < turn % 5; i++) cuda.fill(scratch!, i);
          // No exchange in between: a rank that is ahead tells the counts of the second plan early.
          const made: DeviceExchange[] = [];
          for (const { call } of sides) made.push(await group.planOnDevice(call));
          for (const [i, { from, to }] of sides.entries())
            await made[i]!.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from, to }] });
          for (const [i, { to, expected }] of sides.entries()) {
            const [found] = buffers.down(to) as [Uint8Array];
            assertSame(
              `turn ${turn}, plan ${i}`,
              [found.subarray(0, expected.length)],
              [expected],
              ROW_BYTES,
            );
            made[i]!.close();
          }
        }
      },
    },
    {
      name: 'device plans: a rank that is 50 ms late',
      async run(group) {
        const wasm = await loadPlanner();
        const rank = group.localRanks[0]!;
        for (const [i, options] of allOptions.entries()) {
          const tables = tablesOf(ranks, 40, i);
          const plan = wasm.planAll(tables, options);
          const input = makeInputs(plan, 'bf16', ROW_BYTES, 28, true);
          using buffers = new Buffers(cuda);
          if (rank === i % ranks) await new Promise((resolve) => setTimeout(resolve, 50));
          using exchange = await planOnDevice(group, buffers, tables, options);
          const found = await runCalls(exchange, plan, input, group.localRanks, buffers);
          assertSameOutputs(found, outputsOf(await expectedOf(plan, input), rank), input);
        }
      },
    },
  ];
}

/** A graph that plans and exchanges: all ranks are on one machine. */
function replayCases(ranks: number, cuda: Cuda): RankCase[] {
  return optionsOf(ranks).map(
    (options): RankCase => ({
      name: `device plans: ${REPLAYS} replays with other ids and random delays, ${options.strategy} ${options.ranksPerNode ?? 'all'}`,
      async run(group) {
        const wasm = await loadPlanner();
        const rank = group.localRanks[0]!;
        const tokens = 48;
        const bound = tokens * ranks * TOPK + 8 * EXPERTS;
        const plain = (seed: number) =>
          toTables(
            makeRouting({
              family: 'hotExperts',
              seed,
              ranks,
              tokens,
              topk: TOPK,
              experts: EXPERTS,
              masked: 0.1,
            }),
            TOPK,
          );
        const first = wasm.planAll(plain(0), options);
        const input = makeInputs(first, 'bf16', ROW_BYTES, 28, true);
        using buffers = new Buffers(cuda);
        const ids = idsUp(buffers, [plain(0)[rank]!]);
        const rows = buffers.up([input.rows[rank]!]);
        const weights = buffers.up([input.weights[rank]!]);
        const received = buffers.poisoned([bound * ROW_BYTES]);
        const combined = buffers.poisoned([tokens * ROW_BYTES]);
        const open: DeviceExchange[] = [];
        const { ranks: _, ...rest } = options;
        const step = async () => {
          const call = { ...rest, ...routingOf([plain(0)[rank]!], ids, bound), maxTokens: tokens };
          const exchange = await group.planOnDevice(call);
          open.push(exchange);
          await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to: received }] });
          await exchange.combine({
            dtype: 'bf16',
            rowBytes: ROW_BYTES,
            from: received,
            to: combined,
            weights,
          });
        };
        await step();
        using graph = await cuda.captureAsync(step);
        const delay = buffers.poisoned([32 << 20]);
        for (let replay = 1; replay <= REPLAYS; replay++) {
          const tables = plain(replay);
          cuda.copy(0, ids[0]!, tables[rank]!.ids, tables[rank]!.ids.byteLength);
          // Ranks are late in turn, by up to some milliseconds.
          if (replay % ranks === rank) for (let i = 0; i < replay % 7; i++) cuda.fill(delay[0]!, i);
          graph.launch();
          if (replay % 11 === 0) await step();
          if (replay % 5 !== 0) continue;
          const plan = wasm.planAll(tables, options);
          const expected = await expectedOf(plan, input);
          const wanted = expected.received[rank]!;
          const [found] = buffers.down(received) as [Uint8Array];
          assertSame(`replay ${replay}: received`, [found.subarray(0, wanted.length)], [wanted], ROW_BYTES);
          assertSame(
            `replay ${replay}: combined`,
            buffers.down(combined),
            [expected.combined[rank]!],
            ROW_BYTES,
          );
        }
        for (const exchange of open) exchange.close();
      },
    }),
  );
}

function casesAcross(ranks: number, ranksPerMachine: number, cuda: Cuda): RankCase[] {
  return [
    ...casesOf(ranks, ranksPerMachine, cuda),
    {
      name: 'device plans: across machines the first exchange reads the plan back, and captures are refused',
      async run(group) {
        const wasm = await loadPlanner();
        const rank = group.localRanks[0]!;
        const [options] = optionsOf(ranks) as [PlanOptions];
        const tables = tablesOf(ranks, 20, 2);
        const limit = 20 * ranks * TOPK + 8 * EXPERTS;
        const input = makeInputs(wasm.planAll(tables, options), 'bf16', ROW_BYTES, 28, true);
        using buffers = new Buffers(cuda);
        const { ranks: _, ...rest } = options;
        const own = [tables[rank]!];
        const request = { ...rest, ...routingOf(own, idsUp(buffers, own), limit), maxTokens: 20 };
        const from = buffers.up([input.rows[rank]!]);
        const payloads = [{ rowBytes: ROW_BYTES, from, to: buffers.poisoned([limit * ROW_BYTES]) }];
        const exchange = await group.planOnDevice(request);
        assert.ok((await exchange.dispatch({ payloads })).wire!.readbackBytes! > 0);
        const { enqueued, wire } = await exchange.dispatch({ payloads });
        assert.equal(enqueued, false);
        assert.equal(wire!.readbackBytes, undefined, 'once for a plan');
        const capture = (work: () => Promise<unknown>) => rejection(cuda.captureAsync(work));
        assert.equal(await capture(() => exchange.dispatch({ payloads })), 'E_BACKEND');
        exchange.close();
        assert.equal(await capture(() => group.planOnDevice(request)), 'E_BACKEND');
        // What a closed exchange still frees on another thread leaves the next capture alone.
        for (let round = 0; round < 10; round++) {
          const again = await group.planOnDevice(request);
          await again.dispatch({ payloads });
          again.close();
          using _graph = await cuda.captureAsync(async () => cuda.fill(payloads[0]!.to[0]!, round));
        }
      },
    },
    {
      name: 'device plans: a node of the plan on several machines is refused, and the group goes on',
      async run(group) {
        const options: PlanOptions = { experts: EXPERTS, ranks, ranksPerNode: ranks, strategy: 'hier' };
        const tables = tablesOf(ranks, 8, 1);
        using buffers = new Buffers(cuda);
        assert.equal(await rejection(planOnDevice(group, buffers, tables, options)), 'E_BACKEND');
        const [flat] = optionsOf(ranks) as [PlanOptions];
        using exchange = await planOnDevice(group, buffers, tables, flat);
        assert.equal(exchange.recvRows.length, 1);
      },
    },
  ];
}
