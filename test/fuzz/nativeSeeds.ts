// Seeds of native/fuzz/fuzz_exchange.cc: real plans in the form that its head comment gives.

import { loadPlanner } from '../../planner/node.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';

const FLAGS = [0, 1 | 8, 2, 4 | 8, 16, 32] as const;
const ROW_BYTES = [16, 6, 4, 260, 32, 34] as const;

/** One input per sample plan, with other row sizes and flags each. */
export async function exchangeSeeds(): Promise<Uint8Array[]> {
  const planner = await loadPlanner();
  return SAMPLE_NAMES.map((name, i) => {
    const { spec, shards } = samplePlan(planner, name);
    const isHier = spec.strategy === 'hier' ? 1 : 0;
    const sums = (spec.partial === 'f32' ? 1 : 0) | (spec.sum === 'token' ? 2 : 0);
    const rowBytes = ROW_BYTES[i % ROW_BYTES.length]!;
    const head = [
      spec.ranks - 1,
      spec.ranksPerNode,
      isHier,
      sums,
      1 + (i % 3),
      rowBytes & 255,
      rowBytes >> 8,
    ];
    const sizes = Uint32Array.from(shards, ({ bytes }) => bytes.length);
    const filling = Uint8Array.from({ length: 64 }, (_, at) => 17 * at + i);
    return Buffer.concat([
      Uint8Array.of(...head, FLAGS[i % FLAGS.length]!),
      new Uint8Array(sizes.buffer),
      ...shards.map(({ bytes }) => bytes),
      filling,
    ]);
  });
}
