// The host backend: native threads on this process's memory, through the addon.

import type { Strategy } from '../../../planner/spec.ts';
import type { Addon, NativeContext, NativePlan } from '../../native/addon.ts';
import { fromSteady } from '../../native/clock.ts';
import { attempt, translate } from '../../native/errors.ts';
import { nativeOptions } from '../../native/planOptions.ts';
import { fp8Calls, gateBackwardCalls, gateCalls } from '../../native/rowCalls.ts';
import type { Backend, PreparedPlan, RowWork } from '../types.ts';

function hostPlan(native: NativePlan, strategy: Strategy): PreparedPlan {
  return {
    run: async (kind, call) => {
      try {
        const { nanoseconds, started, bytesRead, bytesWritten } = await native[kind](call as never);
        const startedAt = fromSteady(started);
        return { backend: 'host', strategy, nanoseconds, startedAt, bytesRead, bytesWritten };
      } catch (error) {
        throw translate(error);
      }
    },
    close: () => native.close(),
  };
}

/** Processes one rank after the other, each with all threads of the context. */
function hostRowWork(addon: Addon, context: NativeContext): RowWork {
  const rankByRank = <Call, Native>(
    callsOf: (call: Call) => Native[],
    run: (context: NativeContext, call: Native) => void,
  ) => {
    return async (call: Call) =>
      attempt(() => {
        for (const one of callsOf(call)) run(context, one);
      });
  };
  return {
    quantize: rankByRank(fp8Calls, addon.fp8Quantize),
    dequantize: rankByRank(fp8Calls, addon.fp8Dequantize),
    gate: rankByRank(gateCalls, addon.gate),
    gateBackward: rankByRank(gateBackwardCalls, addon.gateBackward),
  };
}

/**
 * @param threads threads of an exchange; 0: one per processor that the process may use
 * @throws FuscoError E_MEMORY if they cannot be started
 */
export function hostBackend(addon: Addon, threads: number): Backend {
  const context = attempt(() => new addon.Context({ threads }));
  return {
    name: 'host',
    rowWork: hostRowWork(addon, context),
    prepare: async (plan) => {
      const desc = { ...nativeOptions(plan.spec), shards: plan.shards.map((shard) => shard.bytes) };
      return hostPlan(
        attempt(() => new addon.Plan(context, desc)),
        plan.spec.strategy,
      );
    },
    close: () => context.close(),
  };
}
