// Handles end when they are closed, collected, or left behind by their thread; work in flight always finishes.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { beforeAll, expect, it } from 'vitest';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { describeNative, upload, uploadTo } from '../support/addon.ts';
import { makeRouting, toTables } from '../support/workloads.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const root = fileURLToPath(new URL('../..', import.meta.url));
// Threads and processes started here load the addon by its path: under sanitizers the sanitized one (sanitize.sh).
const addonFile = process.env.FUSCO_SANITIZED_ADDON ?? `${root}build/native/Release/fusco.node`;
const paths = { manifest: `${root}package.json`, addon: addonFile };

const ROW_BYTES = 2048;
const closed = expect.objectContaining({ code: 'E_CLOSED' });

describeNative('lifetime', () => {
  // One rank, 4 tokens, one expert.
  let shard: Uint8Array;
  const encodedShard = () => Buffer.from(shard).toString('base64');
  // 4 ranks x 256 tokens: an exchange takes long enough to be caught in flight.
  let plan: VerifiedPlan;
  beforeAll(async () => {
    const routing = makeRouting({ family: 'balanced', seed: 1, ranks: 4, tokens: 256, topk: 4, experts: 32 });
    const planner = await loadPlanner();
    plan = planner.planAll(toTables(routing, 4), { ranks: 4, experts: 32 });
    shard = planner.planAll(toTables([[[0], [0], [0], [0]]], 1), { ranks: 1, experts: 1 }).shards[0]!.bytes;
  });

  const buffers = () => ({
    rowBytes: ROW_BYTES,
    from: plan.shards.map((shard, rank) => new Uint8Array(shard.tokens * ROW_BYTES).fill(rank + 1)),
    to: plan.shards.map((shard) => new Uint8Array(shard.recvRows * ROW_BYTES)),
  });
  // Every row of a full buffer holds its source rank + 1, and no row is left at zero.
  const isFull = (to: Uint8Array[]) => to.every((bytes) => bytes.every((byte) => byte > 0));

  it('lets what is in flight finish when the plan is closed, and refuses what comes later', async () => {
    const { context, native } = upload(plan);
    const payloads = [buffers(), buffers(), buffers()];
    const running = payloads.map((payload) => native.dispatch({ payloads: [payload] }));
    native.close();
    native.close();
    expect(native.closed).toBe(true);
    expect(() => native.dispatch({ payloads: [] })).toThrow(closed);
    expect(() => native.combineSync({} as never)).toThrow(closed);
    await Promise.all(running);
    expect(payloads.every(({ to }) => isFull(to))).toBe(true);
    context.close();
  });

  it('does the same when the context is closed under its plans', async () => {
    const { context, native } = upload(plan);
    const payload = buffers();
    const running = [1, 2, 3].map(() => native.dispatch({ payloads: [payload] }));
    context.close();
    context.close();
    expect([context.closed, native.closed]).toEqual([true, true]);
    expect(() => native.dispatchSync({ payloads: [] })).toThrow(closed);
    expect(() => uploadTo(context, plan)).toThrow(closed);
    expect(await Promise.all(running)).toHaveLength(3);
    expect(isFull(payload.to)).toBe(true);
    expect(context.threads).toBe(0);
  });

  it('runs asynchronous exchanges in the order of their calls', async () => {
    const { context, native } = upload(plan);
    const [first, second] = [buffers(), buffers()];
    second.from.forEach((bytes) => {
      bytes.fill(77);
    });
    const order: number[] = [];
    const call = (payload: typeof first, number: number) =>
      native.dispatch({ payloads: [{ ...payload, to: first.to }] }).then(() => order.push(number));
    await Promise.all([call(first, 1), call(second, 2), call(first, 3), call(second, 4)]);
    expect(order).toEqual([1, 2, 3, 4]);
    expect(first.to.every((bytes) => bytes.every((byte) => byte === 77))).toBe(true);
    context.close();
  });

  it('keeps buffers alive that nobody else holds while an exchange is in flight', async () => {
    const { context, native } = upload(plan);
    const running = Array.from({ length: 20 }, () => native.dispatch({ payloads: [buffers()] }));
    for (let i = 0; i < 5; i++) collect();
    expect(await Promise.all(running)).toHaveLength(20);
    context.close();
  });

  it('frees plans and contexts that are never closed', async () => {
    const gone: WeakRef<object>[] = [];
    await (async () => {
      for (let i = 0; i < 20; i++) {
        const { context, native } = upload(plan);
        await native.dispatch({ payloads: [buffers()] });
        gone.push(new WeakRef(context), new WeakRef(native));
      }
    })();
    for (let i = 0; i < 20 && gone.some((handle) => handle.deref() !== undefined); i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      collect();
    }
    expect(gone.filter((handle) => handle.deref() !== undefined).length).toBeLessThanOrEqual(2);
  });

  it('does not grow over 1,000 exchanges', async () => {
    const { context, native } = upload(plan);
    const payload = buffers();
    const home = plan.shards.map((shard) => new Uint8Array(shard.tokens * ROW_BYTES));
    const round = async () => {
      await native.dispatch({ payloads: [payload] });
      await native.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: payload.to, to: home });
    };
    const resident = () => {
      collect();
      return process.memoryUsage.rss();
    };
    for (let i = 0; i < 100; i++) await round();
    const before = resident();
    for (let i = 0; i < 500; i++) await round();
    // One row lost per exchange would be 2 MB.
    expect(resident() - before).toBeLessThan(1.5 * 2 ** 20);
    context.close();
  });

  const workerSource = `
    const { createRequire } = require('node:module');
    const { parentPort, workerData } = require('node:worker_threads');
    const addon = createRequire(workerData.manifest)(workerData.addon);
    const context = new addon.Context({ threads: 2 });
    const native = new addon.Plan(context, workerData.desc);
    const { rowBytes, from, to, rounds } = workerData;
    const all = Array.from({ length: rounds }, () => native.dispatch({ payloads: [{ rowBytes, from, to }] }));
    parentPort.postMessage('started');
    Promise.all(all).then((stats) => parentPort.postMessage(stats.length));
  `;
  const startWorker = (rounds: number, more = '') => {
    const share = (bytes: Uint8Array) => {
      const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
      copy.set(bytes);
      return copy;
    };
    const { from, to } = buffers();
    const workerData = {
      ...paths,
      desc: { ranksPerNode: 4, strategy: 'flat', shards: plan.shards.map((shard) => shard.bytes.slice()) },
      rowBytes: ROW_BYTES,
      rounds,
      from: from.map(share),
      to: to.map(share),
    };
    return { worker: new Worker(workerSource + more, { eval: true, workerData }), to: workerData.to };
  };
  const message = (worker: Worker, wanted: unknown) =>
    new Promise<void>((resolve, reject) => {
      worker.once('error', reject);
      worker.on('message', (value) => value === wanted && resolve());
    });

  it('works in several worker threads at once, into memory that they share with us', async () => {
    const workers = [1, 2, 3].map(() => startWorker(10));
    await Promise.all(workers.map(({ worker }) => message(worker, 10)));
    await Promise.all(workers.map(({ worker }) => worker.terminate()));
    expect(workers.every(({ to }) => isFull(to))).toBe(true);
  });

  it('ends with its environment when a worker is terminated in mid-exchange', async () => {
    for (let i = 0; i < 5; i++) {
      const { worker } = startWorker(2000);
      await message(worker, 'started');
      expect(await worker.terminate()).toBe(1);
    }
    // The addon still works here.
    const { context, native } = upload(plan);
    const payload = buffers();
    await native.dispatch({ payloads: [payload] });
    expect(isFull(payload.to)).toBe(true);
    context.close();
  });

  it('ends with a worker that dies of its own error in mid-exchange', async () => {
    for (let i = 0; i < 3; i++) {
      const { worker } = startWorker(2000, "setImmediate(() => { throw new Error('the worker died'); });");
      const failed = new Promise<Error>((resolve) => worker.once('error', resolve));
      const ended = new Promise((resolve) => worker.once('exit', resolve));
      expect((await failed).message).toBe('the worker died');
      expect(await ended).toBe(1);
    }
    const { context, native } = upload(plan);
    const payload = buffers();
    await native.dispatch({ payloads: [payload] });
    expect(isFull(payload.to)).toBe(true);
    context.close();
  });

  it('lets the process end without a close, but not before what is in flight has settled', () => {
    const source = `
      const { createRequire } = require('node:module');
      const addon = createRequire(${JSON.stringify(paths.manifest)})(${JSON.stringify(paths.addon)});
      const context = new addon.Context({ threads: 2 });
      const shards = [Buffer.from(${JSON.stringify(encodedShard())}, 'base64')];
      const native = new addon.Plan(context, { ranksPerNode: 1, strategy: 'flat', shards });
      const rowBytes = 1 << 20;
      const payload = { rowBytes, from: [Buffer.alloc(4 * rowBytes, 5)], to: [Buffer.alloc(4 * rowBytes)] };
      native.dispatch({ payloads: [payload] }).then(() => console.log(payload.to[0][4 * rowBytes - 1]));
    `;
    const run = spawnSync(process.execPath, ['-e', source], { encoding: 'utf8', timeout: 20_000 });
    expect([run.status, run.stdout, run.stderr]).toEqual([0, '5\n', '']);
  });
});
