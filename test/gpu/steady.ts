// A loop on GPUs that has warmed up: over a thousand training steps it takes no device memory, and the process does not grow.

import assert from 'node:assert/strict';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import { ExpertLayer } from '../../executor/training/layer.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import {
  entrySizes,
  type GpuCase,
  openGpu,
  POISON,
  planFor,
  randomRows,
  receivedSizes,
  rowsPayload,
  tokenSizes,
} from './support.ts';

const RANKS = 4;
const TOKENS = 128;
const TOPK = 4;
const EXPERTS = 16;
const HIDDEN = 256;
const ROW_BYTES = 4 * HIDDEN;
const GATE = { experts: EXPERTS, topk: TOPK, normalize: true } as const;
const STEPS = 1000;
const WARM_UP_STEPS = 50;
const MIB = 2 ** 20;

/** Plans that steps take by turns. */
function makePlans(): Promise<VerifiedPlan[]> {
  const workload = {
    family: 'hotExperts',
    ranks: RANKS,
    tokens: TOKENS,
    topk: TOPK,
    experts: EXPERTS,
  } as const;
  const options = { hidden: HIDDEN, dtype: 'f32', align: 8 } as const;
  return Promise.all([1, 2, 3].map((seed) => planFor({ ...workload, seed }, options)));
}

/** The larger of each rank's sizes over all plans. */
function largest(plans: readonly VerifiedPlan[], sizes: (plan: VerifiedPlan) => number[]): number[] {
  return sizes(plans[0]!).map((_, rank) => Math.max(...plans.map((plan) => sizes(plan)[rank]!)));
}

const freeBytes = () => cudaDevices().devices.map((device) => device.freeBytes);

/** Runs the training steps and fails if they keep memory. `everyStep`: none may be taken in between, either. */
async function assertSteady(
  step: (n: number) => Promise<void>,
  synchronize: () => void,
  everyStep: boolean,
): Promise<void> {
  for (let n = 0; n < WARM_UP_STEPS; n++) await step(n);
  synchronize();
  const free = freeBytes();
  const resident = process.memoryUsage().rss;
  for (let n = 0; n < STEPS; n++) {
    await step(n);
    if (everyStep && n % 10 === 0) assert.deepEqual(freeBytes(), free, `free device memory in step ${n}`);
  }
  synchronize();
  assert.deepEqual(freeBytes(), free, 'free device memory at the end');
  const growth = (process.memoryUsage().rss - resident) / MIB;
  assert.ok(growth < 64, `the process grew by ${growth.toFixed(1)} MiB`);
}

export const steadyCases: readonly GpuCase[] = [
  {
    name: 'a thousand training steps on device memory with a plan each take no device memory',
    async run() {
      const plans = await makePlans();
      using gpu = await openGpu(RANKS);
      const { cuda, group, buffers } = gpu;
      using devicePlan = cuda.devicePlan(plans[0]!, {
        tokens: RANKS * TOKENS,
        topk: TOPK,
        instances: EXPERTS,
      });
      const counts = new Array<number>(RANKS).fill(TOKENS);
      const perToken = (bytes: number) => buffers.poisoned(counts.map((count) => count * bytes));
      const from = buffers.up(
        largest(plans, (plan) => tokenSizes(plan, ROW_BYTES)).map((size, rank) =>
          randomRows(rank, size, 'f32'),
        ),
      );
      const rows = buffers.poisoned(largest(plans, (plan) => receivedSizes(plan, ROW_BYTES)));
      const rowsGradient = buffers.poisoned(largest(plans, (plan) => receivedSizes(plan, ROW_BYTES)));
      const combined = perToken(ROW_BYTES);
      const tokensGradient = perToken(ROW_BYTES);
      const weights = buffers.up(
        largest(plans, (plan) => entrySizes(plan, 4)).map((size, rank) => randomRows(50 + rank, size, 'f32')),
      );
      const weightsGradient = perToken(4 * TOPK);
      const logits = buffers.up(
        counts.map((count, rank) => randomRows(80 + rank, count * 4 * EXPERTS, 'f32')),
      );
      const ids = perToken(4 * TOPK);
      const gateWeights = perToken(4 * TOPK);
      const scores = perToken(4 * EXPERTS);
      const codes = perToken(HIDDEN);
      const scales = perToken(4 * Math.ceil(HIDDEN / 128));
      const step = async (n: number) => {
        await group.gate({ options: GATE, tokens: counts, logits, ids, weights: gateWeights, scores });
        await group.quantize({ dtype: 'f32', hidden: HIDDEN, rows: counts, values: from, codes, scales });
        devicePlan.upload(plans[n % plans.length]!);
        devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, from, rows)] });
        const combine = { dtype: 'f32', rowBytes: ROW_BYTES } as const;
        devicePlan.combine({ ...combine, from: rows, to: combined, weights });
        devicePlan.combineGradient({
          ...{ ...combine, outputGradient: combined, from: rows, weights },
          ...{ to: rowsGradient, weightsGradient },
        });
        devicePlan.combine({ ...combine, from: rowsGradient, to: tokensGradient });
        if (n % 20 === 19) cuda.synchronize();
      };
      await assertSteady(step, () => cuda.synchronize(), true);
      assert.ok(buffers.down(tokensGradient).every((bytes) => bytes.some((byte) => byte !== POISON)));
    },
  },
  {
    name: 'a thousand training steps from JavaScript’s buffers with an exchange each keep no memory',
    async run() {
      const plans = await makePlans();
      using gpu = await openGpu(RANKS);
      const { cuda, group } = gpu;
      const sized = (sizes: readonly number[]) => sizes.map((size) => new Uint8Array(size));
      const tokens = largest(plans, (plan) => tokenSizes(plan, ROW_BYTES)).map((size, rank) =>
        randomRows(rank, size, 'f32'),
      );
      const rows = sized(largest(plans, (plan) => receivedSizes(plan, ROW_BYTES)));
      const combined = sized(largest(plans, (plan) => tokenSizes(plan, ROW_BYTES)));
      const step = async (n: number) => {
        using exchange = await group.prepare(plans[n % plans.length]!);
        const layer = new ExpertLayer(exchange, { hidden: HIDDEN, dtype: 'f32' });
        await layer.dispatch({ tokens, rows });
        await layer.combine({ rows, tokens: combined });
      };
      await assertSteady(step, () => cuda.synchronize(), false);
      assert.ok(combined.every((bytes) => bytes.some((byte) => byte !== 0)));
    },
  },
];
