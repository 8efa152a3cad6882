// The reference backend: DESIGN's semantics in the plainest TypeScript, and the oracle of every other backend.

import type { Plan, VerifiedPlan } from '../../../planner/plan.ts';
import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  Memory,
  PreparedPlan,
  WeightGradientCall,
} from '../types.ts';
import { combineRank, weightGradientRank } from './combine.ts';
import { dispatch } from './dispatch.ts';
import { refuseExternal } from './rows.ts';
import { referenceRowWork } from './rowWork.ts';

/** Bytes of an exchange: each source row read once, each slot written once. */
export function movedBytes(plan: Plan, rowBytes: number): { rows: number; slots: number } {
  let rows = 0;
  let slots = 0;
  for (const shard of plan.shards) {
    rows += shard.tokens * rowBytes;
    slots += shard.kept * rowBytes;
  }
  return { rows, slots };
}

class ReferencePlan implements PreparedPlan {
  readonly #plan: VerifiedPlan;

  constructor(plan: VerifiedPlan) {
    this.#plan = plan;
  }

  async #timed(
    buffers: readonly (readonly Memory[] | undefined)[],
    bytesRead: number,
    bytesWritten: number,
    work: () => void,
  ): Promise<ExchangeReport> {
    refuseExternal(buffers);
    const start = performance.now();
    work();
    return {
      backend: 'reference',
      strategy: this.#plan.spec.strategy,
      nanoseconds: Math.round((performance.now() - start) * 1e6),
      startedAt: start,
      bytesRead,
      bytesWritten,
    };
  }

  dispatch(call: DispatchCall): Promise<ExchangeReport> {
    const rowBytes = call.payloads.reduce((sum, payload) => sum + payload.rowBytes, 0);
    const { rows, slots } = movedBytes(this.#plan, rowBytes);
    const buffers = [...call.payloads.flatMap(({ from, to }) => [from, to]), call.origins, call.scale];
    return this.#timed(buffers, rows, slots, () => {
      dispatch(this.#plan, call);
    });
  }

  combine(call: CombineCall): Promise<ExchangeReport> {
    const { rows, slots } = movedBytes(this.#plan, call.rowBytes);
    return this.#timed([call.from, call.to, call.weights], slots, rows, () => {
      for (const shard of this.#plan.shards) combineRank(this.#plan, shard, call);
    });
  }

  weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    const { rows, slots } = movedBytes(this.#plan, call.rowBytes);
    const written = this.#plan.shards.reduce((sum, shard) => sum + 4 * shard.entries, 0);
    return this.#timed([call.outputGradient, call.from, call.to], rows + slots, written, () => {
      for (const shard of this.#plan.shards) weightGradientRank(this.#plan, shard, call);
    });
  }

  close(): void {}
}

/** All ranks of the group in this process, in plain TypeScript. */
export function referenceBackend(): Backend {
  return {
    name: 'reference',
    rowWork: referenceRowWork,
    prepare: async (plan) => new ReferencePlan(plan),
    close: () => {},
  };
}
