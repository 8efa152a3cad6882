// The host backend: native threads on this process's memory, through the addon.

import { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from '../planner/errors.ts';
import type { VerifiedPlan } from '../planner/plan.ts';
import type { Addon, NativeContext, NativePlan, NativeStats } from './addon.ts';
import type {
  Backend,
  CombineCall,
  DispatchCall,
  ExchangeReport,
  PreparedPlan,
  RowWork,
  WeightGradientCall,
} from './backend.ts';
import { resolveGate } from './gating.ts';

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

/** Rank after rank, each with all threads of the context. */
function hostRowWork(addon: Addon, context: NativeContext): RowWork {
  const each = async (ranks: readonly number[], work: (size: number, rank: number) => void) => {
    try {
      ranks.forEach(work);
    } catch (error) {
      throw translate(error);
    }
  };
  const fp8 =
    (run: Addon['fp8Quantize']): RowWork['quantize'] =>
    ({ dtype, hidden, rows, values, codes, scales }) =>
      each(rows, (count, i) => {
        const memories = { values: values[i]!, codes: codes[i]!, scales: scales[i]! };
        run(context, { dtype, hidden, rows: count, ...memories });
      });
  return {
    quantize: fp8(addon.fp8Quantize),
    dequantize: fp8(addon.fp8Dequantize),
    gate: ({ options, tokens, logits, bias, ids, weights, scores }) =>
      each(tokens, (count, i) => {
        addon.gate(context, {
          ...resolveGate(options),
          tokens: count,
          logits: logits[i]!,
          ...(bias === undefined ? {} : { bias: bias[i]! }),
          ids: ids[i]!,
          weights: weights[i]!,
          scores: scores[i]!,
        });
      }),
    gateBackward: ({ options, tokens, ids, scores, weightsGradient, logitsGradient }) =>
      each(tokens, (count, i) => {
        addon.gateBackward(context, {
          ...resolveGate(options),
          tokens: count,
          ids: ids[i]!,
          scores: scores[i]!,
          weightsGradient: weightsGradient[i]!,
          logitsGradient: logitsGradient[i]!,
        });
      }),
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
