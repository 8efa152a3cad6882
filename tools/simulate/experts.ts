// The time and memory of the experts, which depend most on placement, replicas and capacity.
//
// An expert is a gated MLP: three matrices hidden x intermediate, and takes 6 x hidden x intermediate floating point
// operations per row. Its time is that of the products or, with few rows, of reading its weights.

import { FuscoError } from '../../planner/errors.ts';
import type { Plan } from '../../planner/plan.ts';
import { largest, sum } from '../../planner/totals.ts';
import { combineRowBytes, dispatchRowBytes } from '../figures/rowBytes.ts';
import type { Topology } from './topology.ts';

/** The experts of a model. */
export interface Model {
  readonly name: string;
  readonly hidden: number;
  readonly experts: number;
  readonly topk: number;
  /** Columns of an expert's two inner matrices. */
  readonly intermediate: number;
  /** Layers with experts. */
  readonly layers: number;
}

const model = (
  name: string,
  hidden: number,
  experts: number,
  topk: number,
  intermediate: number,
  layers: number,
): Model => ({ name, hidden, experts, topk, intermediate, layers });

/** From the configuration files of the models. */
export const MODELS: readonly Model[] = [
  model('deepseek-v3', 7168, 256, 8, 2048, 58),
  model('deepseek-v2-lite', 2048, 64, 6, 1408, 26),
  model('kimi-k2', 7168, 384, 8, 2048, 60),
  model('qwen3-235b', 4096, 128, 8, 1536, 94),
  model('qwen3-30b', 2048, 128, 8, 768, 48),
  model('mixtral-8x7b', 4096, 8, 2, 14_336, 32),
  model('mixtral-8x22b', 6144, 8, 2, 16_384, 56),
];

/** The model whose rows, experts and choices a plan has; undefined if it is none of MODELS. */
export function modelOf({ spec }: Pick<Plan, 'spec'>): Model | undefined {
  const { hidden, experts, topk } = spec;
  return MODELS.find((each) => each.hidden === hidden && each.experts === experts && each.topk === topk);
}

/** A model by its name. Throws E_OPTION with the names that are known. */
export function namedModel(name: string): Model {
  const found = MODELS.find((each) => each.name === name);
  if (found !== undefined) return found;
  const names = MODELS.map((each) => each.name).join(', ');
  throw new FuscoError('E_OPTION', `model ${name} is not one of ${names}; --intermediate takes a number`);
}

export interface ExpertTime {
  /** Of the slowest rank, for which all others wait. */
  readonly us: number;
  readonly rank: number;
  /** What limits it: matrix products, or reading weights. */
  readonly bound: 'products' | 'weights';
  /** If every rank had the mean of the rows. */
  readonly evenUs: number;
}

/** Bytes of the three matrices of one expert: one per element in fp8, else two. */
function weightBytes({ hidden, intermediate }: Model, { spec }: Plan): number {
  return 3 * hidden * intermediate * (spec.dtype === 'fp8' ? 1 : 2);
}

/** Time of the experts of the slowest rank. */
export function expertTime(plan: Plan, experts: Model, { constants }: Topology): ExpertTime {
  const { gemmTflops, gemmReached, hbmGBps, hbmReached } = constants;
  const rate = gemmTflops * gemmReached * (plan.spec.dtype === 'fp8' ? 2 : 1) * 1e6;
  const productUs = (rows: number) => (6 * experts.hidden * experts.intermediate * rows) / rate;
  const readUs = (busy: number) => (busy * weightBytes(experts, plan)) / (hbmGBps * hbmReached * 1e3);
  const rows = plan.shards.map((shard) => sum(shard.expertRows));
  const times = plan.shards.map(({ expertRows }, rank) => {
    const weights = readUs(expertRows.filter((count) => count > 0).length);
    return Math.max(productUs(rows[rank]!), weights);
  });
  const us = largest(times);
  const rank = Math.max(0, times.indexOf(us));
  const evenRows = sum(rows) / rows.length;
  const evenReads = readUs(plan.spec.placement.instances / rows.length);
  const bound = productUs(rows[rank]!) >= us ? 'products' : 'weights';
  return { us, rank, bound, evenUs: Math.min(us, Math.max(productUs(evenRows), evenReads)) };
}

/** Bytes of a rank, by purpose. */
export interface RankMemory {
  readonly rank: number;
  /** Experts of all layers; 0 without a model. */
  readonly weights: number;
  /** Rows that dispatch writes and that the experts return, of one layer: later layers use them again. */
  readonly receive: number;
  readonly results: number;
  /** Tokens before and after the exchange. */
  readonly tokens: number;
  /** Landing rows of a forwarder. */
  readonly landing: number;
  /** Between the experts' matrices, of one layer: gate, up and their product. 0 without a model. */
  readonly activations: number;
  readonly total: number;
}

/** Memory of each rank. Attention, caches and optimizer states are not included. */
export function memoryPerRank(plan: Plan, experts: Model | undefined): RankMemory[] {
  const { spec, shards } = plan;
  const [there, back] = [dispatchRowBytes(spec), combineRowBytes(spec)];
  return shards.map((shard): RankMemory => {
    const instances = shard.expertRows.length;
    const parts = {
      weights: experts === undefined ? 0 : experts.layers * instances * weightBytes(experts, plan),
      receive: shard.recvRows * there,
      results: shard.recvRows * back,
      tokens: shard.tokens * (there + back),
      landing: shard.stageRows * there,
      activations: experts === undefined ? 0 : 3 * shard.recvRows * experts.intermediate * 2,
    };
    return { rank: shard.rank, ...parts, total: sum(Object.values(parts)) };
  });
}

/** Memory of the rank that needs the most. */
export function rankMemory(plan: Plan, experts: Model | undefined): RankMemory {
  return memoryPerRank(plan, experts).reduce((most, each) => (each.total > most.total ? each : most));
}
