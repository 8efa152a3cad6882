// The host backend: native threads on this process's memory, through the addon.

import { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from '../planner/errors.ts';
import type { VerifiedPlan } from '../planner/plan.ts';
import type { Addon, NativePlan, NativeStats } from './addon.ts';
import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  PreparedPlan,
  WeightGradientCall,
} from './backend.ts';

/** Milliseconds from the clock of performance.now() to the steady clock, on which native code measures. */
const CLOCK_OFFSET = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** An error of the addon as this package's own; anything else as it is. */
export function translate(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof FuscoError) return error;
  const { code, ...rest } = error as Error & { code?: string };
  if (code === undefined || !Object.hasOwn(ERROR_HINTS, code)) return error;
  const details: ErrorDetails = { ...rest, cause: error };
  return new FuscoError(code as ErrorCode, error.message, details);
}

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
      const startedAt = started / 1e6 - CLOCK_OFFSET;
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

/** @param threads threads of an exchange; 0 for one per processor that the process may use */
export function hostBackend(addon: Addon, threads: number): Backend {
  const context = new addon.Context({ threads });
  return {
    name: 'host',
    prepare: async (plan) => {
      const { ranksPerNode, strategy, partial } = plan.spec;
      const shards = plan.shards.map((shard) => shard.bytes);
      try {
        const desc = { ranksPerNode, strategy, shards, ...(partial === 'none' ? {} : { partial }) };
        return new HostPlan(new addon.Plan(context, desc), plan);
      } catch (error) {
        throw translate(error);
      }
    },
    close: () => context.close(),
  };
}
