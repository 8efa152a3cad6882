// Arithmetic at its edges: every dtype's special values through combine and scaled dispatch, in every tree.

import { createGroup } from '../../executor/group.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { assertSame, type GpuCase, planOf, receivedSizes, tokenSizes } from './support.ts';

/** Zeros, subnormals, ones, the largest finite values, infinities and NaNs with payloads, of both signs. */
const VALUES: Record<FloatDtype, number[]> = {
  f32: [0, 1, 0x007fffff, 0x00800000, 0x3f800000, 0x3f800001, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc12345],
  f16: [0, 1, 0x03ff, 0x0400, 0x3c00, 0x3c01, 0x7bff, 0x7c00, 0x7c01, 0x7e12],
  bf16: [0, 1, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x7f7f, 0x7f80, 0x7f81, 0x7fc1],
};

const WEIGHTS = [1, -1, 0.5, 1 / 3, 1e-30, 3e38, 0, -0];

/** Every value meets every value of the next ranks, shifted by rank and token. */
function specialRows(dtype: FloatDtype, elements: number, rank: number, tokens: number): Uint8Array {
  const size = dtype === 'f32' ? 4 : 2;
  const values = VALUES[dtype].flatMap((bits) => [bits, bits + 2 ** (8 * size - 1)]);
  const array = size === 4 ? new Uint32Array(elements * tokens) : new Uint16Array(elements * tokens);
  for (let i = 0; i < array.length; i++) array[i] = values[(i * (rank + 1) + (i >> 3)) % values.length]!;
  return new Uint8Array(array.buffer);
}

const KINDS = [
  { strategy: 'flat', partial: 'payload' },
  { strategy: 'hier', partial: 'payload' },
  { strategy: 'hier', partial: 'f32' },
] as const;

export const specialCases: GpuCase[] = (['f32', 'f16', 'bf16'] as const).flatMap((dtype) =>
  KINDS.flatMap(({ strategy, partial }) =>
    [true, false].map((weighted) => ({
      name: `special values: ${dtype} ${strategy} ${partial} ${weighted ? 'weighted' : 'unweighted'}`,
      async run() {
        const ids = [0, 1, 2, 3].map((r) => [
          [r, (r + 1) % 4, (r + 2) % 4],
          [(r + 3) % 4, -1, r],
        ]);
        const plan = await planOf(ids, 3, { experts: 4, strategy, partial, ranksPerNode: 2 });
        const elements = 400;
        const rowBytes = elements * (dtype === 'f32' ? 4 : 2);
        const rows = plan.shards.map((shard) => specialRows(dtype, elements, shard.rank, shard.tokens));
        const from = plan.shards.map((shard) => specialRows(dtype, elements, shard.rank + 7, shard.recvRows));
        const weights = plan.shards.map((shard) =>
          Float32Array.from({ length: shard.entries }, (_, i) => WEIGHTS[(i + shard.rank) % WEIGHTS.length]!),
        );
        const results = [];
        for (const backend of ['cuda', 'reference'] as const) {
          using group = await createGroup({ ranks: 4, backend });
          using exchange = await group.prepare(plan);
          const combined = tokenSizes(plan, rowBytes).map((size) => new Uint8Array(size).fill(0xaa));
          const scaled = receivedSizes(plan, rowBytes).map((size) => new Uint8Array(size).fill(0xaa));
          const gradient = plan.shards.map((shard) => new Uint8Array(4 * shard.entries).fill(0xaa));
          const call = { dtype, rowBytes, from, to: combined };
          await exchange.combine(weighted ? { ...call, weights } : call);
          await exchange.dispatch({
            payloads: [{ rowBytes, dtype, from: rows, to: scaled }],
            scale: weights,
          });
          await exchange.weightGradient({ dtype, rowBytes, outputGradient: rows, from, to: gradient });
          const to = receivedSizes(plan, rowBytes).map((size) => new Uint8Array(size).fill(0xaa));
          const weightsGradient = gradient.map((bytes) => new Uint8Array(bytes.length).fill(0xaa));
          await exchange.combineGradient({
            ...{ dtype, rowBytes, outputGradient: rows, from, weights, to, weightsGradient },
          });
          results.push({ combined, scaled, gradient, to, weightsGradient });
        }
        const [actual, expected] = results;
        assertSame('combined', actual!.combined, expected!.combined, rowBytes);
        assertSame('scaled', actual!.scaled, expected!.scaled, rowBytes);
        assertSame('weight gradient', actual!.gradient, expected!.gradient, 4);
        assertSame('scaled by combineGradient', actual!.to, expected!.to, rowBytes);
        assertSame('weights', actual!.weightsGradient, expected!.weightsGradient, 4);
      },
    })),
  ),
);
