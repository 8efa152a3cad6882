// What the cuda backend promises beside the bits: order between streams, captures, uploads, errors.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { openCuda } from '../../executor/backends/cuda/context.ts';
import { createGroup } from '../../executor/group.ts';
import { spin } from '../../executor/internal.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { makeRouting } from '../support/workloads.ts';
import {
  assertSame,
  Buffers,
  type GpuCase,
  planOf,
  randomRows,
  receivedSizes,
  rowsPayload,
  tokenSizes,
} from './support.ts';

const RANKS = 4;
const ROW_BYTES = 2048;

function smallPlan(seed: number, tokens = 24): Promise<VerifiedPlan> {
  const workload = { family: 'balanced', seed, ranks: RANKS, tokens, topk: 4, experts: 16 } as const;
  return planOf(makeRouting(workload), 4, { experts: 16, hidden: ROW_BYTES / 2 });
}

function rowsOf(plan: VerifiedPlan, seed: number): Uint8Array[] {
  return tokenSizes(plan, ROW_BYTES).map((size, rank) => randomRows(seed + rank, size, 'bf16'));
}

/** What the reference receives. */
async function expectedReceive(plan: VerifiedPlan, rows: Uint8Array[]): Promise<Uint8Array[]> {
  using group = await createGroup({ ranks: RANKS, backend: 'reference' });
  using exchange = await group.prepare(plan);
  const to = receivedSizes(plan, ROW_BYTES).map((size) => new Uint8Array(size));
  await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to }] });
  return to;
}

async function expectedCombine(plan: VerifiedPlan, received: Uint8Array[]): Promise<Uint8Array[]> {
  using group = await createGroup({ ranks: RANKS, backend: 'reference' });
  using exchange = await group.prepare(plan);
  const to = tokenSizes(plan, ROW_BYTES).map((size) => new Uint8Array(size));
  await exchange.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: received, to });
  return to;
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof FuscoError) return error.code;
    throw error;
  }
  return 'nothing was thrown';
}

/** Each rank in turn produces its rows, and frees its receive buffer, late: the others must wait for it. */
const lateStreams: GpuCase[] = Array.from({ length: RANKS }, (_, late) => ({
  name: `rank ${late}'s stream is late: nobody reads its rows or writes into its buffer before it is ready`,
  async run() {
    const plan = await smallPlan(1);
    const rows = rowsOf(plan, 10);
    using cuda = openCuda(RANKS);
    using buffers = new Buffers(cuda);
    using slot = cuda.slot(plan);
    const produced = buffers.up(rows);
    const from = buffers.poisoned(tokenSizes(plan, ROW_BYTES));
    const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
    const copies = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
    cuda.synchronize();
    spin(cuda, late, 30e6);
    from.forEach((buffer, rank) => {
      cuda.copy(rank, buffer, produced[rank]!, buffer.bytes);
    });
    // Still in use: what arrives before this would be poisoned.
    cuda.fill(to[late]!, 0xbb);
    const start = performance.now();
    slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
    assert.ok(performance.now() - start < 20, 'the call waited for the GPU');
    // Readers on every rank's own stream: done when all writers are.
    to.forEach((buffer, rank) => {
      cuda.copy(rank, copies[rank]!, buffer, buffer.bytes);
    });
    assertSame('received', buffers.down(copies), await expectedReceive(plan, rows), ROW_BYTES);
  },
}));

const order: GpuCase[] = [
  {
    name: 'everything enqueues and returns while the stream is busy, and events say when it is done',
    async run() {
      const plan = await smallPlan(2);
      using cuda = openCuda(RANKS);
      using buffers = new Buffers(cuda);
      using slot = cuda.slot(plan);
      const from = buffers.up(rowsOf(plan, 20));
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      using event = cuda.event(RANKS - 1);
      cuda.synchronize();
      spin(cuda, 0, 50e6);
      const start = performance.now();
      const report = slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      event.record();
      assert.equal(event.done, false);
      assert.ok(performance.now() - start < 30);
      assert.equal(report.enqueued, true);
      event.synchronize();
      assert.equal(event.done, true);
    },
  },
  {
    name: 'a stream of another owner can be a rank’s, and all ranks may share one',
    async run() {
      const plan = await smallPlan(3);
      const rows = rowsOf(plan, 30);
      using other = openCuda(1);
      // On one device: a stream belongs to one.
      using cuda = openCuda(RANKS, new Array(RANKS).fill(0));
      using buffers = new Buffers(cuda);
      using slot = cuda.slot(plan);
      for (let rank = 0; rank < RANKS; rank++) cuda.setStream(rank, other.stream(0));
      assert.equal(cuda.stream(2), other.stream(0));
      const from = buffers.up(rows);
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      spin(other, 0, 5e6);
      slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      assertSame('received', buffers.down(to), await expectedReceive(plan, rows), ROW_BYTES);
      for (let rank = 0; rank < RANKS; rank++) cuda.setStream(rank, 0n);
    },
  },
  {
    name: 'uploads between exchanges that are still in flight: each exchange sees its own plan',
    async run() {
      using cuda = openCuda(RANKS);
      using buffers = new Buffers(cuda);
      const plans = await Promise.all([4, 5, 6, 7, 8].map((seed) => smallPlan(seed, 16 + seed)));
      const rows = plans.map((plan, i) => rowsOf(plan, 40 + 10 * i));
      using slot = cuda.slot(plans[0]!, { tokens: RANKS * 64, topk: 4, instances: 16 });
      const from = rows.map((bytes) => buffers.up(bytes));
      const to = plans.map((plan) => buffers.poisoned(receivedSizes(plan, ROW_BYTES)));
      cuda.synchronize();
      spin(cuda, 0, 10e6);
      plans.forEach((plan, i) => {
        slot.upload(plan);
        slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from[i]!, to[i]!)] });
      });
      for (const [i, plan] of plans.entries()) {
        assertSame(`plan ${i}`, buffers.down(to[i]!), await expectedReceive(plan, rows[i]!), ROW_BYTES);
      }
    },
  },
  {
    name: 'a captured dispatch and combine replay with new rows, and with another plan in the slot',
    async run() {
      using cuda = openCuda(RANKS);
      using buffers = new Buffers(cuda);
      const first = await smallPlan(11, 32);
      const second = await smallPlan(12, 27);
      using slot = cuda.slot(first);
      const largest = (sizes: (plan: VerifiedPlan, bytes: number) => number[]) =>
        sizes(first, ROW_BYTES).map((size, rank) => Math.max(size, sizes(second, ROW_BYTES)[rank]!));
      const from = buffers.poisoned(largest(tokenSizes));
      const received = buffers.poisoned(largest(receivedSizes));
      const combined = buffers.poisoned(largest(tokenSizes));
      using graph = cuda.capture(() => {
        slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, received)] });
        slot.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: received, to: combined });
      });
      for (const [i, plan] of [first, second, first].entries()) {
        if (i > 0) slot.upload(plan);
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
    name: 'a replay is refused where the slot’s new plan does not fit the captured buffers',
    async run() {
      using cuda = openCuda(RANKS);
      using buffers = new Buffers(cuda);
      const small = await smallPlan(13, 8);
      using slot = cuda.slot(small, { tokens: 4096, topk: 4, instances: 16 });
      const from = buffers.up(rowsOf(small, 1));
      const to = buffers.poisoned(receivedSizes(small, ROW_BYTES));
      using graph = cuda.capture(() => {
        slot.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, to)] });
      });
      graph.launch();
      slot.upload(await smallPlan(14, 64));
      assert.equal(
        codeOf(() => graph.launch()),
        'E_BUFFER',
      );
      slot.upload(small);
      graph.launch();
      cuda.synchronize();
    },
  },
  {
    name: 'JavaScript buffers are staged: the group API gives the reference’s bytes',
    async run() {
      const plan = await smallPlan(15);
      const rows = rowsOf(plan, 60);
      using group = await createGroup({ ranks: RANKS, backend: 'cuda' });
      using exchange = await group.prepare(plan);
      const to = receivedSizes(plan, ROW_BYTES).map((size) => new Uint8Array(size).fill(0xaa));
      const report = await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to }] });
      assert.equal(report.backend, 'cuda');
      assert.equal(report.path, 'direct');
      assert.ok(report.nanoseconds > 0);
      assertSame('received', to, await expectedReceive(plan, rows), ROW_BYTES);
    },
  },
];

const CHILD = fileURLToPath(new URL('./sticky.js', import.meta.url));

const errors: GpuCase[] = [
  {
    name: 'out of memory names the bytes asked and free, and the process lives',
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
      using cuda = openCuda(RANKS);
      using buffers = new Buffers(cuda);
      using slot = cuda.slot(plan);
      const from = buffers.up(rowsOf(plan, 70));
      const to = buffers.poisoned(receivedSizes(plan, ROW_BYTES));
      const short = to.map((buffer) => ({ ...buffer, bytes: buffer.bytes - 1 }));
      const host = rowsOf(plan, 1);
      const call = (payload: Parameters<typeof rowsPayload>) => () =>
        slot.dispatch({ payloads: [rowsPayload(...payload)] });
      assert.equal(codeOf(call([ROW_BYTES, from, short])), 'E_BUFFER');
      assert.equal(codeOf(call([ROW_BYTES, from, from])), 'E_BUFFER');
      assert.equal(
        codeOf(() => slot.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: host, to }] })),
        'E_BUFFER',
      );
      for (const bytes of buffers.down(to)) assert.ok(bytes.every((byte) => byte === 0xaa));
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
        codeOf(() => cuda.slot({ ...plan } as VerifiedPlan)),
        'E_UNVERIFIED',
      );
      using fewer = openCuda(2);
      assert.equal(
        codeOf(() => fewer.slot(plan)),
        'E_RANKS',
      );
      using slot = cuda.slot(plan);
      const larger = await smallPlan(18, 100);
      assert.equal(
        codeOf(() => slot.upload(larger)),
        'E_LIMIT',
      );
    },
  },
  {
    name: 'a forged tile order or landing row never launches',
    async run() {
      const workload = {
        family: 'balanced',
        seed: 9,
        ranks: RANKS,
        tokens: 20,
        topk: 4,
        experts: 16,
      } as const;
      const plan = await planOf(makeRouting(workload), 4, { experts: 16, strategy: 'hier', ranksPerNode: 1 });
      using cuda = openCuda(RANKS);
      const target = plan.shards[1]!.forwardTarget;
      const before = target[0]!;
      target[0] = before + 1;
      const code = codeOf(() => cuda.slot(plan));
      target[0] = before;
      assert.equal(code, 'E_SEGMENT_BOUNDS');
      cuda.slot(plan).close();
    },
  },
  {
    name: 'an address that the GPU cannot reach breaks the device, not the process, and every call says so',
    run() {
      const output = execFileSync(process.execPath, [CHILD], { encoding: 'utf8' });
      assert.deepEqual(output.trim().split('\n'), ['E_BACKEND', 'E_BACKEND', 'alive']);
    },
  },
];

export const behaviourCases: GpuCase[] = [...lateStreams, ...order, ...errors];
