// Host against reference, bit for bit, over plans that between them use everything a plan can hold.

import { beforeAll, expect, it } from 'vitest';
import { createGroup } from '../../executor/group.ts';
import type { NativeContextOptions } from '../../executor/native/addon.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { describeNative, shifted, upload, wholes } from '../support/addon.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';
import { randomFrom } from '../support/workloads.ts';

let planner: Planner;
beforeAll(async () => {
  planner = await loadPlanner();
});

const KINDS: Record<string, NativeContextOptions> = {
  'cached, 2 threads': { threads: 2 },
  'streaming, 3 threads': { threads: 3, nonTemporalBytes: 1 },
  'portable, 1 thread': { threads: 1, kernels: 'portable' },
};

// Whole vectors, tails, less than one vector, and rows above and below the size from which stores stream.
const ELEMENTS = [1, 31, 96, 331];
const DTYPES: FloatDtype[] = ['f32', 'f16', 'bf16'];

/** Random bits: every kind of float comes up, NaN, infinities and subnormals included. */
function randomBuffers(sizes: readonly number[], seed: number, shift: number): Uint8Array[] {
  const random = randomFrom(seed);
  const buffers = shifted(sizes, shift);
  for (const bytes of buffers) for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * 256);
  return buffers;
}

/** Weights near 1, of both signs, and a few zeros and infinities. */
function randomWeights(plan: VerifiedPlan, seed: number): Float32Array[] {
  const random = randomFrom(seed);
  return plan.shards.map(({ entries }) =>
    Float32Array.from({ length: entries }, () => {
      const draw = random();
      if (draw < 0.03) return 0;
      return draw > 0.99 ? Number.NEGATIVE_INFINITY : 3 * random() - 1;
    }),
  );
}

const tokensOf = (plan: VerifiedPlan, bytes: number) => plan.shards.map((shard) => shard.tokens * bytes);
const entriesOf = (plan: VerifiedPlan, bytes: number) => plan.shards.map((shard) => shard.entries * bytes);
const recvOf = (plan: VerifiedPlan, bytes: number) => plan.shards.map((shard) => shard.recvRows * bytes);

describeNative.each(SAMPLE_NAMES)('plan %s', (name) => {
  it.each(Object.entries(KINDS))('dispatches as the reference does: %s', async (_kind, options) => {
    const plan = samplePlan(planner, name);
    const { context, native } = upload(plan, options);
    const group = await createGroup({ ranks: plan.spec.ranks, backend: 'reference' });
    const reference = await group.prepare(plan);
    for (const [i, rowBytes] of [1, 7, 256, 1000].entries()) {
      const from = randomBuffers(tokensOf(plan, rowBytes), i, i);
      const weights = randomBuffers(entriesOf(plan, 4), i + 9, 2 * i);
      const outputs = () => ({
        rows: shifted(recvOf(plan, rowBytes), 3 * i),
        weights: shifted(recvOf(plan, 4), i),
        origins: shifted(recvOf(plan, 12), i),
      });
      const [got, wanted] = [outputs(), outputs()];
      const call = (to: typeof got) => ({
        payloads: [
          { rowBytes, from, to: to.rows },
          { rowBytes: 4, per: 'entry' as const, from: weights, to: to.weights },
        ],
        origins: to.origins,
      });
      await reference.dispatch(call(wanted));
      if (i % 2 === 0) native.dispatchSync(call(got));
      else await native.dispatch(call(got));
      for (const part of ['rows', 'weights', 'origins'] as const) {
        expect(wholes(got[part]), `${part}, rows of ${rowBytes}`).toEqual(wholes(wanted[part]));
      }
    }
    context.close();
  });

  it.each(Object.entries(KINDS))('computes as the reference does: %s', async (_kind, options) => {
    const plan = samplePlan(planner, name);
    const { context, native } = upload(plan, options);
    const group = await createGroup({ ranks: plan.spec.ranks, backend: 'reference' });
    const reference = await group.prepare(plan);
    for (const [i, elements] of ELEMENTS.entries()) {
      for (const dtype of DTYPES) {
        const what = `${dtype} x ${elements}`;
        const rowBytes = elements * (dtype === 'f32' ? 4 : 2);
        const weights = randomWeights(plan, i);
        const y = randomBuffers(recvOf(plan, rowBytes), i + 20, 2 * i);
        const x = randomBuffers(tokensOf(plan, rowBytes), i + 30, i);

        for (const weighted of [{}, { weights }]) {
          const [got, wanted] = [0, 1].map(() => shifted(tokensOf(plan, rowBytes), 32 * (i % 2)));
          await reference.combine({ dtype, rowBytes, from: y, to: wanted!, ...weighted });
          await native.combine({ dtype, rowBytes, from: y, to: got!, ...weighted });
          expect(wholes(got!), `combine, ${what}`).toEqual(wholes(wanted!));
        }

        const [scaled, wantedScaled] = [0, 1].map(() => shifted(recvOf(plan, rowBytes)));
        const scaling = (to: Uint8Array[]) => ({
          payloads: [{ rowBytes, dtype, from: x, to }],
          scale: weights,
        });
        await reference.dispatch(scaling(wantedScaled!));
        native.dispatchSync(scaling(scaled!));
        expect(wholes(scaled!), `scaled dispatch, ${what}`).toEqual(wholes(wantedScaled!));

        const [gradient, wantedGradient] = [0, 1].map(() => shifted(entriesOf(plan, 4), i));
        const dot = { dtype, rowBytes, outputGradient: x, from: y };
        await reference.weightGradient({ ...dot, to: wantedGradient! });
        native.weightGradientSync({ ...dot, to: gradient! });
        expect(wholes(gradient!), `weight gradient, ${what}`).toEqual(wholes(wantedGradient!));

        const outputs = () => ({
          to: shifted(recvOf(plan, rowBytes)),
          weightsGradient: shifted(entriesOf(plan, 4), i),
          origins: shifted(recvOf(plan, 12), i),
        });
        const [both, wantedBoth] = [outputs(), outputs()];
        await reference.combineGradient({ ...dot, weights, ...wantedBoth });
        if (i % 2 === 0) native.combineGradientSync({ ...dot, weights, ...both });
        else await native.combineGradient({ ...dot, weights, ...both });
        for (const part of ['to', 'weightsGradient', 'origins'] as const) {
          expect(wholes(both[part]), `combine gradient: ${part}, ${what}`).toEqual(wholes(wantedBoth[part]));
        }
      }
    }
    context.close();
  });
});
