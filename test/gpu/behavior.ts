// What the cuda backend promises in addition to the bits: order between streams, captures, uploads, errors.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cudaDevices, openCuda } from '../../executor/backends/cuda/context.ts';
import { createGroup } from '../../executor/group.ts';
import { spin } from '../../executor/internal.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import {
  assertSame,
  codeOf,
  type GpuCase,
  openGpu,
  POISON,
  planFor,
  randomRows,
  receivedSizes,
  rejection,
  rowsPayload,
  tokenSizes,
} from './support.ts';

const RANKS = 4;
const ROW_BYTES = 2048;

const WORKLOAD = { family: 'balanced', ranks: RANKS, topk: 4, experts: 16 } as const;

function smallPlan(seed: number, tokens = 24): Promise<VerifiedPlan> {
  return planFor({ ...WORKLOAD, seed, tokens }, { hidden: ROW_BYTES / 2 });
}

function rowsOf(plan: VerifiedPlan, seed: number, rowBytes = ROW_BYTES): Uint8Array[] {
  return tokenSizes(plan, rowBytes).map((size, rank) => randomRows(seed + rank, size, 'bf16'));
}

/** What the reference receives. */
async function expectedReceive(
  plan: VerifiedPlan,
  rows: Uint8Array[],
  rowBytes = ROW_BYTES,
): Promise<Uint8Array[]> {
  using group = await createGroup({ ranks: RANKS, backend: 'reference' });
  using exchange = await group.prepare(plan);
  const to = receivedSizes(plan, rowBytes).map((size) => new Uint8Array(size));
  await exchange.dispatch({ payloads: [{ rowBytes, from: rows, to }] });
  return to;
}

async function expectedCombine(plan: VerifiedPlan, received: Uint8Array[]): Promise<Uint8Array[]> {
  using group = await createGroup({ ranks: RANKS, backend: 'reference' });
  using exchange = await group.prepare(plan);
  const to = tokenSizes(plan, ROW_BYTES).map((size) => new Uint8Array(size));
  await exchange.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: received, to });
  return to;
}

/** Each rank in turn produces its rows, and frees its receive buffer, late: the others must wait for it. */
const lateStreams: GpuCase[] = Array.from({ length: RANKS }, (_, late) => ({
  name: `no rank reads the rows or writes into the buffer of rank ${late} before its late stream is ready`,
  async run() {
    const plan = await smallPlan(1);
    const rows = rowsOf(plan, 10);
    using gpu = await openGpu(RANKS);
    const { cuda, buffers } = gpu;
    using devicePlan = cuda.devicePlan(plan);
    const produced = buffers.up(rows);
    const from = buffers.poisoned(tokenSizes(plan, ROW_BYTES));
    const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
    const copies = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
    cuda.synchronize();
    spin(cuda, late, 30e6);
    from.forEach((buffer, rank) => {
      cuda.copy(rank, buffer, produced[rank]!, buffer.bytes);
    });
    // Still in use: rows that arrive before this would be overwritten.
    cuda.fill(to[late]!, 0xbb);
    const start = performance.now();
    devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
    assert.ok(performance.now() - start < 20, 'the call waited for the GPU');
    // Readers on every rank's own stream: they wait for all writers.
    to.forEach((buffer, rank) => {
      cuda.copy(rank, copies[rank]!, buffer, buffer.bytes);
    });
    assertSame('received', buffers.down(copies), await expectedReceive(plan, rows), ROW_BYTES);
  },
}));

const order: GpuCase[] = [
  {
    name: 'a dispatch returns while the stream is busy, and an event says when it is done',
    async run() {
      const plan = await smallPlan(2);
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      using devicePlan = cuda.devicePlan(plan);
      const from = buffers.up(rowsOf(plan, 20));
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      using event = cuda.event(RANKS - 1);
      cuda.synchronize();
      spin(cuda, 0, 50e6);
      const start = performance.now();
      const report = devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      event.record();
      assert.equal(event.done, false);
      assert.ok(performance.now() - start < 30);
      assert.equal(report.enqueued, true);
      event.synchronize();
      assert.equal(event.done, true);
    },
  },
  {
    name: 'check does not wait for the streams, and is E_CLOSED once the group is closed',
    async run() {
      const plan = await smallPlan(2);
      using gpu = await openGpu(RANKS);
      const { cuda, buffers, group } = gpu;
      using exchange = await group.prepare(plan);
      const from = buffers.up(rowsOf(plan, 20));
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      const dispatch = () => exchange.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      await dispatch();
      using event = cuda.event(RANKS - 1);
      cuda.synchronize();
      spin(cuda, RANKS - 1, 50e6);
      await dispatch();
      event.record();
      await group.check();
      cuda.check();
      assert.equal(event.done, false, 'check waited');
      assertSame('received', buffers.down(to), await expectedReceive(plan, rowsOf(plan, 20)), ROW_BYTES);
      await group.check();
      await group.close();
      assert.equal(await rejection(group.check()), 'E_CLOSED');
    },
  },
  {
    name: 'a rank can use a stream of another library, and all ranks can share one',
    async run() {
      const plan = await smallPlan(3);
      const rows = rowsOf(plan, 30);
      using other = openCuda(1);
      // All ranks on one device: a stream belongs to a device.
      using gpu = await openGpu(RANKS, new Array(RANKS).fill(0));
      const { cuda, buffers } = gpu;
      using devicePlan = cuda.devicePlan(plan);
      for (let rank = 0; rank < RANKS; rank++) cuda.setStream(rank, other.stream(0));
      assert.equal(cuda.stream(2), other.stream(0));
      const from = buffers.up(rows);
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      spin(other, 0, 5e6);
      devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      assertSame('received', buffers.down(to), await expectedReceive(plan, rows), ROW_BYTES);
      for (let rank = 0; rank < RANKS; rank++) cuda.setStream(rank, 0n);
    },
  },
  {
    name: 'each of several exchanges in flight uses the plan that was uploaded before it',
    async run() {
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      const plans = await Promise.all([4, 5, 6, 7, 8].map((seed) => smallPlan(seed, 16 + seed)));
      const rows = plans.map((plan, i) => rowsOf(plan, 40 + 10 * i));
      using devicePlan = cuda.devicePlan(plans[0]!, { tokens: RANKS * 64, topk: 4, instances: 16 });
      const from = rows.map((bytes) => buffers.up(bytes));
      const to = plans.map((plan) => buffers.poisoned(receivedSizes(plan, ROW_BYTES)));
      cuda.synchronize();
      spin(cuda, 0, 10e6);
      plans.forEach((plan, i) => {
        devicePlan.upload(plan);
        devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from[i]!, to[i]!)] });
      });
      for (const [i, plan] of plans.entries()) {
        assertSame(`plan ${i}`, buffers.down(to[i]!), await expectedReceive(plan, rows[i]!), ROW_BYTES);
      }
    },
  },
  {
    name: 'a captured dispatch and combine replays with new rows, and with another plan on the device',
    async run() {
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      const first = await smallPlan(11, 32);
      const second = await smallPlan(12, 27);
      using devicePlan = cuda.devicePlan(first);
      const largest = (sizes: (plan: VerifiedPlan, bytes: number) => number[]) =>
        sizes(first, ROW_BYTES).map((size, rank) => Math.max(size, sizes(second, ROW_BYTES)[rank]!));
      const from = buffers.poisoned(largest(tokenSizes));
      const received = buffers.poisoned(largest(receivedSizes));
      const combined = buffers.poisoned(largest(tokenSizes));
      using graph = cuda.capture(() => {
        devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, received)] });
        devicePlan.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: received, to: combined });
      });
      for (const [i, plan] of [first, second, first].entries()) {
        if (i > 0) devicePlan.upload(plan);
        const rows = rowsOf(plan, 500 + 10 * i);
        rows.forEach((bytes, rank) => {
          cuda.copy(rank, from[rank]!, bytes, bytes.length);
        });
        spin(cuda, i, 2e6);
        graph.launch();
        const wanted = await expectedReceive(plan, rows);
        const heads = (all: Uint8Array[], like: Uint8Array[]) =>
          all.map((bytes, rank) => bytes.subarray(0, like[rank]!.length));
        assertSame(`replay ${i}`, heads(buffers.down(received), wanted), wanted, ROW_BYTES);
        const sums = await expectedCombine(plan, wanted);
        assertSame(`sums of replay ${i}`, heads(buffers.down(combined), sums), sums, ROW_BYTES);
      }
    },
  },
  {
    // Its rows are longer than what a work item moves, so that chunks have several flags.
    name: 'a captured dispatch that is the only exchange of its context replays with another plan',
    async run() {
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      const rowBytes = 16_384;
      const plans = [await smallPlan(16, 32), await smallPlan(17, 32)];
      const largest = (sizes: (plan: VerifiedPlan, bytes: number) => number[]) =>
        sizes(plans[0]!, rowBytes).map((size, rank) => Math.max(size, sizes(plans[1]!, rowBytes)[rank]!));
      using devicePlan = cuda.devicePlan(plans[0]!);
      const from = buffers.poisoned(largest(tokenSizes));
      const to = buffers.poisoned(largest(receivedSizes));
      using graph = cuda.capture(() => {
        devicePlan.dispatch({ payloads: [rowsPayload(rowBytes, from, to)] });
      });
      for (const [i, plan] of plans.entries()) {
        if (i > 0) devicePlan.upload(plan);
        const rows = rowsOf(plan, 700 + 10 * i, rowBytes);
        rows.forEach((bytes, rank) => {
          cuda.copy(rank, from[rank]!, bytes, bytes.length);
        });
        graph.launch();
        const wanted = await expectedReceive(plan, rows, rowBytes);
        const found = buffers.down(to).map((bytes, rank) => bytes.subarray(0, wanted[rank]!.length));
        assertSame(`replay ${i}`, found, wanted, rowBytes);
      }
    },
  },
  {
    name: 'a replay is refused if the new plan on the device does not fit the captured buffers',
    async run() {
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      const small = await smallPlan(13, 8);
      using devicePlan = cuda.devicePlan(small, { tokens: 4096, topk: 4, instances: 16 });
      const from = buffers.up(rowsOf(small, 1));
      const to = buffers.poisoned(receivedSizes(small, ROW_BYTES));
      using graph = cuda.capture(() => {
        devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      });
      graph.launch();
      devicePlan.upload(await smallPlan(14, 64));
      assert.equal(
        codeOf(() => graph.launch()),
        'E_BUFFER',
      );
      devicePlan.upload(small);
      graph.launch();
      cuda.synchronize();
    },
  },
  {
    name: 'JavaScript buffers go through device copies: a group gives the reference’s bytes',
    async run() {
      const plan = await smallPlan(15);
      const rows = rowsOf(plan, 60);
      using group = await createGroup({ ranks: RANKS, backend: 'cuda' });
      using exchange = await group.prepare(plan);
      const to = receivedSizes(plan, ROW_BYTES).map((size) => new Uint8Array(size).fill(POISON));
      const report = await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to }] });
      assert.equal(report.backend, 'cuda');
      assert.equal(report.path, cudaDevices().devices.length > 1 ? 'once' : 'direct');
      assert.ok(report.nanoseconds > 0);
      assertSame('received', to, await expectedReceive(plan, rows), ROW_BYTES);
    },
  },
];

const CHILD = fileURLToPath(new URL('./sticky.js', import.meta.url));

const errors: GpuCase[] = [
  {
    name: 'E_MEMORY names the bytes asked for and the bytes free, and the process goes on',
    async run() {
      using cuda = openCuda(1);
      try {
        cuda.alloc(0, 2 ** 45);
        assert.fail('32 TiB were allocated');
      } catch (error) {
        assert.ok(error instanceof FuscoError);
        assert.equal(error.code, 'E_MEMORY');
        assert.equal(error.details.value, 2 ** 45);
        assert.ok((error.details.limit as number) > 0);
      }
      cuda.free(cuda.alloc(0, 1024));
    },
  },
  {
    name: 'host memory and small buffers are refused before anything is written',
    async run() {
      const plan = await smallPlan(16);
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      using devicePlan = cuda.devicePlan(plan);
      const from = buffers.up(rowsOf(plan, 70));
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      const short = to.map((buffer) => ({ ...buffer, bytes: buffer.bytes - 1 }));
      const host = rowsOf(plan, 1);
      const call = (payload: Parameters<typeof rowsPayload>) => () =>
        devicePlan.dispatch({ payloads: [rowsPayload(...payload)] });
      assert.equal(codeOf(call([ROW_BYTES, from, short])), 'E_BUFFER');
      assert.equal(codeOf(call([ROW_BYTES, from, from])), 'E_BUFFER');
      assert.equal(
        codeOf(() => devicePlan.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: host, to }] })),
        'E_BUFFER',
      );
      for (const bytes of buffers.down(to)) assert.ok(bytes.every((byte) => byte === POISON));
    },
  },
  {
    name: 'devices, ranks and plans that do not exist or were not verified are refused',
    async run() {
      assert.equal(
        codeOf(() => openCuda(1, [99])),
        'E_OPTION',
      );
      assert.equal(
        codeOf(() => openCuda(65)),
        'E_OPTION',
      );
      const plan = await smallPlan(17);
      using cuda = openCuda(RANKS);
      assert.equal(
        codeOf(() => cuda.devicePlan({ ...plan } as VerifiedPlan)),
        'E_UNVERIFIED',
      );
      using fewer = openCuda(2);
      assert.equal(
        codeOf(() => fewer.devicePlan(plan)),
        'E_RANKS',
      );
      using devicePlan = cuda.devicePlan(plan);
      const larger = await smallPlan(18, 100);
      assert.equal(
        codeOf(() => devicePlan.upload(larger)),
        'E_LIMIT',
      );
    },
  },
  {
    name: 'a forged tile order never launches',
    async run() {
      const workload = { ...WORKLOAD, seed: 9, tokens: 20 };
      const plan = await planFor(workload, { tileTokens: 4 });
      using cuda = openCuda(RANKS);
      const order = plan.shards[1]!.tileOrder;
      const before = order[0]!;
      order[0] = order[1]!;
      const code = codeOf(() => cuda.devicePlan(plan));
      order[0] = before;
      assert.equal(code, 'E_ENTRY');
      cuda.devicePlan(plan).close();
    },
  },
  {
    name: 'an address that the GPU cannot reach breaks the device, not the process; every later call fails',
    run() {
      const output = execFileSync(process.execPath, [CHILD], { encoding: 'utf8' });
      assert.deepEqual(output.trim().split('\n'), ['E_BACKEND', 'E_BACKEND', 'E_BACKEND', 'alive']);
    },
  },
];

export const behaviorCases: GpuCase[] = [...lateStreams, ...order, ...errors];
