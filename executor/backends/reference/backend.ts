// The reference backend: plain TypeScript that every other backend is compared with, bit for bit.

import type { VerifiedPlan } from '../../../planner/plan.ts';
import { sum } from '../../../planner/totals.ts';
import { combineGradientParts } from '../combineGradient.ts';
import type { Backend, ExchangeCalls, ExchangeKind, Memory, PreparedPlan } from '../types.ts';
import { combineRank, weightGradientRank } from './combine.ts';
import { dispatch } from './dispatch.ts';
import { refuseExternal } from './rows.ts';
import { referenceRowWork } from './rowWork.ts';

/** What an exchange does: the buffers that it uses, the bytes that it moves, and its work. */
interface ReferenceWork {
  readonly buffers: readonly (readonly Memory[] | undefined)[];
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly work: () => void;
}

type Exchanges = {
  readonly [Kind in ExchangeKind]: (call: ExchangeCalls[Kind]) => ReferenceWork;
};

/** The exchanges of a plan. Bytes count each source row once and each slot once. */
function exchangesOf(plan: VerifiedPlan): Exchanges {
  const { shards } = plan;
  const tokens = sum(shards.map((shard) => shard.tokens));
  const slots = sum(shards.map((shard) => shard.kept));
  return {
    dispatch: (call) => {
      const rowBytes = sum(call.payloads.map((payload) => payload.rowBytes));
      return {
        buffers: [...call.payloads.flatMap(({ from, to }) => [from, to]), call.origins, call.scale],
        bytesRead: tokens * rowBytes,
        bytesWritten: slots * rowBytes,
        work: () => dispatch(plan, call),
      };
    },
    combine: (call) => ({
      buffers: [call.from, call.to, call.weights],
      bytesRead: slots * call.rowBytes,
      bytesWritten: tokens * call.rowBytes,
      work: () => {
        for (const shard of shards) combineRank(plan, shard, call);
      },
    }),
    weightGradient: (call) => ({
      buffers: [call.outputGradient, call.from, call.to],
      bytesRead: (tokens + slots) * call.rowBytes,
      bytesWritten: 4 * sum(shards.map((shard) => shard.entries)),
      work: () => {
        for (const shard of shards) weightGradientRank(plan, shard, call);
      },
    }),
    combineGradient: (call) => {
      const parts = combineGradientParts(call);
      return {
        buffers: [call.outputGradient, call.from, call.weights, call.to, call.weightsGradient, call.origins],
        bytesRead: (tokens + slots) * call.rowBytes,
        bytesWritten: slots * call.rowBytes + 4 * sum(shards.map((shard) => shard.entries)),
        work: () => {
          dispatch(plan, parts.dispatch);
          for (const shard of shards) weightGradientRank(plan, shard, parts.weightGradient);
        },
      };
    },
  };
}

function referencePlan(plan: VerifiedPlan): PreparedPlan {
  const exchanges = exchangesOf(plan);
  const { strategy } = plan.spec;
  return {
    run: async (kind, call) => {
      const { buffers, work, bytesRead, bytesWritten } = exchanges[kind](call);
      refuseExternal(buffers);
      const startedAt = performance.now();
      work();
      const nanoseconds = Math.round((performance.now() - startedAt) * 1e6);
      return { backend: 'reference', strategy, nanoseconds, startedAt, bytesRead, bytesWritten };
    },
    close: () => {},
  };
}

/** All ranks of the group in this process, in plain TypeScript. */
export function referenceBackend(): Backend {
  return {
    name: 'reference',
    rowWork: referenceRowWork,
    prepare: async (plan) => referencePlan(plan),
    close: () => {},
  };
}
