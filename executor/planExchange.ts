// The calls of an exchange, whatever made its plan.

import { FuscoError } from '../planner/errors.ts';
import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  ExchangeCalls,
  ExchangeKind,
  ExchangeReport,
  PreparedPlan,
  WeightGradientCall,
} from './backends/types.ts';
import { checkExchange, type Sizes } from './callChecks.ts';
import type { ExpertBlocks } from './training/expertBlocks.ts';

/** Plan once, exchange many times into buffers that the caller owns. */
export abstract class PlanExchange implements Disposable {
  /** Rows of each local rank's receive buffer, padding included. */
  readonly recvRows: readonly number[];
  /** Tokens of each local rank. */
  readonly tokens: readonly number[];
  /** Ranks of the group that live in this process. */
  readonly localRanks: readonly number[];
  protected readonly prepared: PreparedPlan;
  readonly #sizes: Sizes;
  readonly #onClose: () => void;
  #closed = false;

  protected constructor(
    localRanks: readonly number[],
    sizes: Sizes,
    prepared: PreparedPlan,
    onClose: () => void,
  ) {
    this.recvRows = sizes.recvRows;
    this.tokens = sizes.tokens;
    this.localRanks = localRanks;
    this.prepared = prepared;
    this.#sizes = sizes;
    this.#onClose = onClose;
  }

  /** Expert blocks of every local rank, in the order of `localRanks`. */
  abstract expertBlocks(): readonly ExpertBlocks[];

  /** Sends every token's row to its slots. Throws E_BUFFER, E_DTYPE, E_CLOSED before anything is moved. */
  async dispatch(call: DispatchCall): Promise<ExchangeReport> {
    return this.#run('dispatch', call);
  }

  /** Returns the rows to their tokens and adds them: out[t] = sum over ascending k of w[t, k] * y[slot(t, k)], float32, rounded once. */
  async combine(call: CombineCall): Promise<ExchangeReport> {
    return this.#run('combine', call);
  }

  /** The gradient of combine's weights, in a fixed order of additions. */
  async weightGradient(call: WeightGradientCall): Promise<ExchangeReport> {
    return this.#run('weightGradient', call);
  }

  /**
   * Both gradients of a weighted combine: to[slot(t, k)] = w[t, k] * dOut[t], and the gradient of w. The bits are those of
   * `dispatch` with `scale` and of `weightGradient`; in one call each row of dOut is read once, and between GPUs of one
   * process it crosses a link once per rank.
   *
   * @throws FuscoError E_BUFFER, E_DTYPE, E_CLOSED before anything is moved
   */
  async combineGradient(call: CombineGradientCall): Promise<ExchangeReport> {
    return this.#run('combineGradient', call);
  }

  async #run<Kind extends ExchangeKind>(kind: Kind, call: ExchangeCalls[Kind]): Promise<ExchangeReport> {
    this.refuseClosed();
    checkExchange(this.#sizes, kind, call);
    return this.prepared.run(kind, call);
  }

  protected refuseClosed(): void {
    if (this.#closed) throw new FuscoError('E_CLOSED', 'the exchange is closed');
  }

  /** Frees what the backend keeps for this plan. Calls in flight finish first. Closing twice is harmless. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.prepared.close();
    this.#onClose();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
