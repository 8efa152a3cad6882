// Small real plans that between them use everything a plan can hold.

import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { makeRouting, toTables, type Workload } from './workloads.ts';

const SAMPLES: Record<string, { workload: Workload; options: Omit<PlanOptions, 'ranks' | 'experts'> }> = {
  plain: {
    workload: { family: 'balanced', seed: 1, ranks: 4, tokens: 12, topk: 2, experts: 8 },
    options: {},
  },
  // Masked and dropped entries, padding, several slices a peer.
  crowded: {
    workload: { family: 'hotExperts', seed: 2, ranks: 4, tokens: 16, topk: 3, experts: 12, masked: 0.15 },
    options: { align: 4, capacity: 9, ranksPerNode: 2, hidden: 8, dtype: 'f32', sliceBytes: 96 },
  },
  // Replicas, a rank without experts, ranks with few tokens.
  replicas: {
    workload: { family: 'raggedSources', seed: 3, ranks: 6, tokens: 14, topk: 2, experts: 5, masked: 0.1 },
    options: { ranksPerNode: 2, align: 2, placement: [[0, 3], 1, [1, 2, 4], 4, 0] },
  },
  // Nothing at all on one rank; one slice a row.
  hollow: {
    workload: { family: 'rankWithoutRows', seed: 4, ranks: 3, tokens: 7, topk: 1, experts: 3 },
    options: { sliceBytes: 1 },
  },
  // 3 nodes of 2 ranks; masked and dropped entries, replicas, padding, several slices a node.
  hier: {
    workload: { family: 'hotRank', seed: 5, ranks: 6, tokens: 9, topk: 3, experts: 12, masked: 0.1 },
    options: {
      strategy: 'hier',
      balance: 'rotate',
      ranksPerNode: 2,
      align: 2,
      capacity: 12,
      hidden: 8,
      dtype: 'f32',
      sliceBytes: 96,
      placement: [0, 0, [1, 4], 1, 2, [2, 5], 3, 3, 4, 4, 5, 5],
    },
  },
  // De-duplication per rank, with uneven sources and partial sums in f32.
  ranksAlone: {
    workload: { family: 'raggedSources', seed: 6, ranks: 4, tokens: 12, topk: 2, experts: 8 },
    options: { strategy: 'hier', ranksPerNode: 1, partial: 'f32' },
  },
  // Forwarded rows whose combine adds single rows by k.
  byToken: {
    workload: { family: 'hotExperts', seed: 7, ranks: 6, tokens: 10, topk: 4, experts: 12, masked: 0.1 },
    options: { strategy: 'hier', ranksPerNode: 2, sum: 'token', align: 2, capacity: 20 },
  },
};

export const SAMPLE_NAMES = Object.keys(SAMPLES);

export function samplePlan(planner: Planner, name: string): VerifiedPlan {
  const { workload, options } = SAMPLES[name]!;
  const { ranks, experts, topk } = workload;
  return planner.planAll(toTables(makeRouting(workload), topk), { ...options, ranks, experts });
}
