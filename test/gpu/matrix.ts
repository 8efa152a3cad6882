// Bitwise against the reference, over a pairwise cover of what an exchange can be; the large corners against the
// host backend, which the host's own tests compare with the reference.

import { openCuda } from '../../executor/backends/cuda/context.ts';
import type { BackendName, CombineCall, DispatchCall } from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { pairwise } from '../support/pairwise.ts';
import { makeRouting } from '../support/workloads.ts';
import { assertSameOutputs, type Inputs, makeInputs, type Outputs, runExchanges } from './exchanges.ts';
import { Buffers, entrySizes, type GpuCase, planOf, receivedSizes, tokenSizes } from './support.ts';

/** All four exchanges on device memory, `offset` bytes behind an aligned address. */
function onDevice(plan: VerifiedPlan, input: Inputs, path: 'direct' | 'forward', offset: number): Outputs {
  using cuda = openCuda(plan.spec.ranks);
  using buffers = new Buffers(cuda);
  using slot = cuda.devicePlan(plan);
  const { dtype, rowBytes, scaleBytes } = input;
  const rows = buffers.up(input.rows, offset);
  const scales = buffers.up(input.scales);
  const weights = buffers.up(input.weights);
  const gradient = buffers.up(input.gradient, offset);
  const received = buffers.poisoned(receivedSizes(plan, rowBytes), offset);
  const receivedScales = buffers.poisoned(receivedSizes(plan, scaleBytes));
  const receivedWeights = buffers.poisoned(receivedSizes(plan, 4));
  const origins = buffers.poisoned(receivedSizes(plan, 12));
  const combined = buffers.poisoned(tokenSizes(plan, rowBytes), offset);
  const scaled = buffers.poisoned(receivedSizes(plan, rowBytes), offset);
  const weightGradient = buffers.poisoned(entrySizes(plan, 4));
  const call: DispatchCall = {
    payloads: [
      { rowBytes, from: rows, to: received },
      { rowBytes: scaleBytes, from: scales, to: receivedScales },
      { rowBytes: 4, per: 'entry', from: weights, to: receivedWeights },
    ],
    origins,
  };
  const report = slot.dispatch(call, path);
  if (report.path !== path) throw new Error(`the ${path} path was asked for, ${report.path} ran`);
  const combine: CombineCall = { dtype, rowBytes, from: received, to: combined };
  slot.combine(input.weighted ? { ...combine, weights } : combine);
  slot.dispatch({ payloads: [{ rowBytes, dtype, from: gradient, to: scaled }], scale: weights });
  slot.weightGradient({ dtype, rowBytes, outputGradient: gradient, from: received, to: weightGradient });
  return {
    received: buffers.down(received),
    receivedScales: buffers.down(receivedScales),
    receivedWeights: buffers.down(receivedWeights),
    origins: buffers.down(origins),
    combined: buffers.down(combined),
    scaled: buffers.down(scaled),
    weightGradient: buffers.down(weightGradient),
  };
}

async function compare(
  plan: VerifiedPlan,
  input: Inputs,
  backend: BackendName,
  path: 'direct' | 'forward',
  offset = 0,
): Promise<void> {
  using group = await createGroup({ ranks: plan.spec.ranks, backend });
  const expected = await runExchanges(group, plan, input);
  assertSameOutputs(onDevice(plan, input, path, offset), expected, input);
}

const FACTORS = {
  tokens: [0, 1, 7, 33],
  // 24 and 104 bytes of bf16 allow 8-byte accesses only, 510 no more than 2; 1024 goes by tiles.
  hidden: [12, 16, 52, 255, 1024],
  topk: [1, 2, 6, 8],
  experts: [8, 64],
  group: ['1x1', '8x1', '4x2', '4x4', '2x8'],
  dtype: ['f32', 'bf16', 'f16'],
  masked: [0, 0.1, 1],
  align: [1, 16, 128],
  strategy: ['flat', 'hier direct', 'hier forward', 'hier forward f32'],
  capacity: [0, 5],
  weighted: [true, false],
  offset: [0, 4],
} as const;

const matrix: GpuCase[] = pairwise(FACTORS).map((f, i) => ({
  name: `matrix ${i}: ${Object.values(f).join(' ')}`,
  async run() {
    const [ranksPerNode, nodes] = f.group.split('x').map(Number) as [number, number];
    const ranks = ranksPerNode * nodes;
    const family = (['balanced', 'hotExperts', 'raggedSources', 'rankWithoutRows'] as const)[i % 4]!;
    const workload = { family, seed: i, ranks, tokens: f.tokens, topk: f.topk, experts: f.experts };
    const plan = await planOf(makeRouting({ ...workload, masked: f.masked }), f.topk, {
      experts: f.experts,
      ranksPerNode,
      align: f.align,
      capacity: f.capacity,
      strategy: f.strategy === 'flat' ? 'flat' : 'hier',
      partial: f.strategy.endsWith('f32') ? 'f32' : 'payload',
      hidden: f.hidden,
    });
    const rowBytes = f.hidden * (f.dtype === 'f32' ? 4 : 2);
    const input = makeInputs(plan, f.dtype, rowBytes, 224, f.weighted);
    await compare(plan, input, 'reference', f.strategy.includes('forward') ? 'forward' : 'direct', f.offset);
  },
}));

const corners: GpuCase[] = [
  { ranks: 8, ranksPerNode: 8, tokens: 700, hidden: 7168, strategy: 'flat', align: 128 },
  { ranks: 8, ranksPerNode: 1, tokens: 300, hidden: 7168, strategy: 'hier', align: 1 },
  { ranks: 64, ranksPerNode: 8, tokens: 64, hidden: 2048, strategy: 'hier', align: 16 },
  // Rows longer than a tile's piece, and rows of no round size.
  { ranks: 4, ranksPerNode: 4, tokens: 50, hidden: 20488, strategy: 'flat', align: 1 },
  { ranks: 4, ranksPerNode: 4, tokens: 50, hidden: 7165, strategy: 'flat', align: 1 },
].map(({ ranks, ranksPerNode, tokens, hidden, strategy, align }) => ({
  name: `corner: ${ranks} ranks, ${ranksPerNode} a node, ${tokens} tokens, hidden ${hidden}, ${strategy}`,
  async run() {
    const workload = { family: 'hotExperts', seed: hidden, ranks, tokens, topk: 8, experts: 256 } as const;
    const plan = await planOf(makeRouting({ ...workload, masked: 0.05 }), 8, {
      experts: 256,
      ranksPerNode,
      align,
      strategy: strategy as 'flat' | 'hier',
      hidden,
    });
    const input = makeInputs(plan, 'bf16', 2 * hidden, 224, true);
    await compare(plan, input, 'host', strategy === 'hier' ? 'forward' : 'direct');
    if (strategy === 'hier') await compare(plan, input, 'host', 'direct');
  },
}));

export const matrixCases: GpuCase[] = [...matrix, ...corners];
