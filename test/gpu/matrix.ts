// Bitwise against the reference, over a pairwise cover of what an exchange can be; the large corners against the
// host backend, which the host's own tests compare with the reference.

import assert from 'node:assert/strict';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import type {
  BackendName,
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  WeightGradientCall,
} from '../../executor/backends/types.ts';
import { createGroup } from '../../executor/group.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { pairwise } from '../support/pairwise.ts';
import { assertSameOutputs, type Inputs, makeInputs, runCalls, runExchanges } from './exchanges.ts';
import { type GpuCase, openGpu, planFor } from './support.ts';

type GpuPath = 'direct' | 'once';

/** Whether the ranks of a plan are on several devices, so that rows can be sent once per rank. */
const onSeveralDevices = (plan: VerifiedPlan) => Math.min(cudaDevices().devices.length, plan.spec.ranks) > 1;

/** All exchanges on device memory. */
async function onDevice(plan: VerifiedPlan, input: Inputs, path: GpuPath, offset: number) {
  const { ranks } = plan.spec;
  using gpu = await openGpu(ranks);
  using devicePlan = gpu.cuda.devicePlan(plan);
  const calls = {
    combine: (call: CombineCall) => devicePlan.combine(call),
    weightGradient: (call: WeightGradientCall) => devicePlan.weightGradient(call),
    combineGradient: (call: CombineGradientCall) => {
      const report = devicePlan.combineGradient(call);
      const isAligned = input.rowBytes % 16 === 0 && offset % 16 === 0;
      assert.equal(report.path, isAligned && onSeveralDevices(plan) ? 'once' : 'direct');
    },
    dispatch: (call: DispatchCall) => {
      // The scaled dispatch takes the path that it chooses.
      const report = devicePlan.dispatch(call, call.scale === undefined ? path : 'auto');
      if (call.scale === undefined) assert.equal(report.path, path);
    },
  };
  return await runCalls(
    calls,
    plan,
    input,
    Array.from({ length: ranks }, (_, rank) => rank),
    gpu.buffers,
    offset,
  );
}

async function compare(
  plan: VerifiedPlan,
  input: Inputs,
  backend: BackendName,
  path: GpuPath,
  offset: number,
): Promise<void> {
  using group = await createGroup({ ranks: plan.spec.ranks, backend });
  const expected = await runExchanges(group, plan, input);
  assertSameOutputs(await onDevice(plan, input, path, offset), expected, input);
}

/** All exchanges on device memory, by every path that there is, against those of a backend. */
export async function compareAllPaths(
  plan: VerifiedPlan,
  input: Inputs,
  backend: BackendName,
  offset = 0,
): Promise<void> {
  await compare(plan, input, backend, 'direct', offset);
  if (onSeveralDevices(plan)) await compare(plan, input, backend, 'once', offset);
}

const FACTORS = {
  tokens: [0, 1, 7, 33],
  // 24 and 104 bytes of bf16 allow 8-byte accesses only, 510 no more than 2; 1024 takes the TMA path.
  hidden: [12, 16, 52, 255, 1024],
  topk: [1, 2, 6, 8],
  experts: [8, 64],
  group: ['1x1', '8x1', '4x2', '4x4', '2x8', '1x4', '1x8'],
  dtype: ['f32', 'bf16', 'f16'],
  masked: [0, 0.1, 1],
  align: [1, 16, 128],
  strategy: ['flat', 'hier', 'hier f32', 'hier token'],
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
    const plan = await planFor(
      { ...workload, masked: f.masked },
      {
        ranksPerNode,
        align: f.align,
        capacity: f.capacity,
        strategy: f.strategy === 'flat' ? 'flat' : 'hier',
        partial: f.strategy.endsWith('f32') ? 'f32' : 'payload',
        sum: f.strategy.endsWith('token') ? 'token' : 'node',
        hidden: f.hidden,
      },
    );
    const rowBytes = f.hidden * (f.dtype === 'f32' ? 4 : 2);
    const input = makeInputs(plan, f.dtype, rowBytes, 224, f.weighted);
    await compareAllPaths(plan, input, 'reference', f.offset);
  },
}));

const corners: GpuCase[] = [
  { ranks: 8, ranksPerNode: 8, tokens: 700, hidden: 7168, strategy: 'flat', align: 128 },
  { ranks: 8, ranksPerNode: 1, tokens: 300, hidden: 7168, strategy: 'hier', align: 1 },
  { ranks: 64, ranksPerNode: 8, tokens: 64, hidden: 2048, strategy: 'hier', align: 16 },
  // Rows longer than a tile's piece, and rows whose size is no multiple of 16 bytes.
  { ranks: 4, ranksPerNode: 4, tokens: 50, hidden: 20488, strategy: 'flat', align: 1 },
  { ranks: 4, ranksPerNode: 4, tokens: 50, hidden: 7165, strategy: 'flat', align: 1 },
].map(({ ranks, ranksPerNode, tokens, hidden, strategy, align }) => ({
  name: `corner: ${ranks} ranks, ${ranksPerNode} a node, ${tokens} tokens, hidden ${hidden}, ${strategy}`,
  async run() {
    const workload = { family: 'hotExperts', seed: hidden, ranks, tokens, topk: 8, experts: 256 } as const;
    const plan = await planFor(
      { ...workload, masked: 0.05 },
      {
        ranksPerNode,
        align,
        strategy: strategy as 'flat' | 'hier',
        hidden,
      },
    );
    const input = makeInputs(plan, 'bf16', 2 * hidden, 224, true);
    await compareAllPaths(plan, input, 'host');
  },
}));

export const matrixCases: GpuCase[] = [...matrix, ...corners];
