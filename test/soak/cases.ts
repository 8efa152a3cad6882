// Random cases of everything that an exchange can be. A case is a pure function of (seed, number).

import type { FloatDtype } from '../../executor/numeric.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import {
  FAMILIES,
  ID_DTYPES,
  type IdDtype,
  placementOf,
  randomFrom,
  type Workload,
} from '../support/workloads.ts';

export interface SoakCase {
  readonly workload: Workload;
  readonly idDtype: IdDtype;
  readonly options: PlanOptions;
  readonly dtype: FloatDtype;
  /** Elements of a row that is exchanged; the plan's own `hidden` only sizes slices. */
  readonly hidden: number;
  /** Bytes of the second payload of a token. */
  readonly scaleBytes: number;
  readonly weighted: boolean;
  /** Threads of the host backend. */
  readonly threads: number;
}

export function soakCase(seed: number, number: number): SoakCase {
  const random = randomFrom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b));
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const upTo = (limit: number) => Math.floor(random() * (limit + 1));
  const ranks = pick([1, 2, 3, 4, 6, 8, 12, 16]);
  const ranksPerNode = pick([1, 2, 3, 4, 6, 8, 12, 16].filter((n) => ranks % n === 0));
  const topk = 1 + upTo(7);
  const experts = Math.max(topk, pick([1, 5, 8, 13, 32, 64]));
  const strategy = pick(['flat', 'hier', 'auto'] as const);
  const placement = placementOf(pick(['blocks', 'scattered', 'replicas']), experts, ranks);
  const workload = {
    family: pick(FAMILIES),
    seed: upTo(1e6),
    step: upTo(20),
    ranks,
    tokens: pick([0, 1, 2, 7, 16, 33, 48]),
    topk,
    experts,
    masked: pick([0, 0, 0.1, 0.6, 1]),
  };
  const options: PlanOptions = {
    ranks,
    experts,
    ranksPerNode,
    strategy,
    balance: pick(['static', 'rotate', 'lpt', 'best']),
    align: pick([1, 1, 2, 16, 128]),
    capacity: pick([0, 0, 1, 3, 17]),
    sliceBytes: pick([1, 96, 4096, 1 << 20]),
    hidden: 1 + upTo(300),
    dtype: pick(['bf16', 'f32']),
    ...(placement.length > 0 ? { placement, replicas: pick(['quota-1', 'local'] as const) } : {}),
    ...(strategy === 'hier' ? { partial: pick(['payload', 'f32'] as const) } : {}),
  };
  return {
    workload,
    // Small types cannot hold every expert, unsigned ones not -1.
    idDtype: pick(ID_DTYPES.filter((dtype) => dtype.startsWith('i'))),
    options,
    dtype: pick(['f32', 'bf16', 'f16']),
    hidden: pick([1, 2, 3, 8, 31, 64, 129, 256]),
    scaleBytes: pick([1, 4, 7, 56]),
    weighted: random() < 0.7,
    threads: 1 + upTo(3),
  };
}
