// The reference backend: plain TypeScript that every other backend is compared with, bit for bit.

import type { Plan, VerifiedPlan } from '../../../planner/plan.ts';
import type { Backend, ExchangeCalls, ExchangeKind, ExchangeReport, Memory, PreparedPlan } from '../types.ts';
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

/** What an exchange does: the buffers that it uses, the bytes that it moves, and its work. */
interface ReferenceWork {
  readonly buffers: readonly (readonly Memory[] | undefined)[];
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly work: () => void;
}

const EXCHANGES: {
  readonly [Kind in ExchangeKind]: (plan: VerifiedPlan, call: ExchangeCalls[Kind]) => ReferenceWork;
} = {
  dispatch: (plan, call) => {
    const { rows, slots } = movedBytes(
      plan,
      call.payloads.reduce((sum, payload) => sum + payload.rowBytes, 0),
    );
    return {
      buffers: [...call.payloads.flatMap(({ from, to }) => [from, to]), call.origins, call.scale],
      bytesRead: rows,
      bytesWritten: slots,
      work: () => dispatch(plan, call),
    };
  },
  combine: (plan, call) => {
    const { rows, slots } = movedBytes(plan, call.rowBytes);
    return {
      buffers: [call.from, call.to, call.weights],
      bytesRead: slots,
      bytesWritten: rows,
      work: () => {
        for (const shard of plan.shards) combineRank(plan, shard, call);
      },
    };
  },
  weightGradient: (plan, call) => {
    const { rows, slots } = movedBytes(plan, call.rowBytes);
    return {
      buffers: [call.outputGradient, call.from, call.to],
      bytesRead: rows + slots,
      bytesWritten: plan.shards.reduce((sum, shard) => sum + 4 * shard.entries, 0),
      work: () => {
        for (const shard of plan.shards) weightGradientRank(plan, shard, call);
      },
    };
  },
};

class ReferencePlan implements PreparedPlan {
  readonly #plan: VerifiedPlan;

  constructor(plan: VerifiedPlan) {
    this.#plan = plan;
  }

  async run<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): Promise<ExchangeReport> {
    const { buffers, work, bytesRead, bytesWritten } = EXCHANGES[kind](this.#plan, call);
    refuseExternal(buffers);
    const startedAt = performance.now();
    work();
    const nanoseconds = Math.round((performance.now() - startedAt) * 1e6);
    const { strategy } = this.#plan.spec;
    return { backend: 'reference', strategy, nanoseconds, startedAt, bytesRead, bytesWritten };
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
