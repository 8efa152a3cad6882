// The host backend: native threads on this process's memory, through the addon.

import type { VerifiedPlan } from '../../../planner/plan.ts';
import type { Addon, NativeContext, NativePlan, NativeStats } from '../../native/addon.ts';
import { fromSteady } from '../../native/clock.ts';
import { attempt, translate } from '../../native/errors.ts';
import { fp8Calls, gateBackwardCalls, gateCalls } from '../../native/rowCalls.ts';
import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  PreparedPlan,
  RowWork,
  WeightGradientCall,
} from '../types.ts';

class HostPlan implements PreparedPlan {
  readonly #native: NativePlan;
  readonly #plan: VerifiedPlan;

  constructor(native: NativePlan, plan: VerifiedPlan) {
    this.#native = native;
    this.#plan = plan;
  }

  async #report(call: () => Promise<NativeStats>): Promise<ExchangeReport> {
    try {
      const { nanoseconds, started, bytesRead, bytesWritten } = await call();
      const { strategy } = this.#plan.spec;
      const startedAt = fromSteady(started);
      return { backend: 'host', strategy, nanoseconds, startedAt, bytesRead, bytesWritten };
    } catch (error) {
      throw translate(error);
    }
  }

  dispatch(call: DispatchCall): Promise<ExchangeReport> {
    return this.#report(() => this.#native.dispatch(call));
  }

  combine(call: CombineCall): Promise<ExchangeReport> {
    return this.#report(() => this.#native.combine(call));
  }

  weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    return this.#report(() => this.#native.weightGradient(call));
  }

  close(): void {
    this.#native.close();
  }
}

/** Rank after rank, each with all threads of the context. */
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
 * @param threads threads of an exchange; 0 for one per processor that the process may use
 * @throws FuscoError E_MEMORY where they cannot be started
 */
export function hostBackend(addon: Addon, threads: number): Backend {
  let context: NativeContext;
  try {
    context = new addon.Context({ threads });
  } catch (error) {
    throw translate(error);
  }
  return {
    name: 'host',
    rowWork: hostRowWork(addon, context),
    prepare: async (plan) => {
      const { ranksPerNode, strategy, partial } = plan.spec;
      const shards = plan.shards.map((shard) => shard.bytes);
      const desc = { ranksPerNode, strategy, shards, ...(partial === 'none' ? {} : { partial }) };
      return attempt(() => new HostPlan(new addon.Plan(context, desc), plan));
    },
    close: () => context.close(),
  };
}
