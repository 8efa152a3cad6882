// A Mixture-of-Experts layer over an exchange: forward and backward in terms of tokens and rows, and each rank's expert
// blocks for a grouped matrix product. Every call is a call of the exchange, so the results have the same bits on every
// backend.
//
//   forward    rows   = dispatch(tokens)               tokens' = combine(rows', weights)
//   backward   tokens = unweighted combine of rows     rows'   = dispatch of tokens', scaled by the weights
//                                                      weights = dot products of tokens' and rows'

import { checkChoice, checkInteger, checkKeys, FuscoError } from '../../planner/errors.ts';
import { MAX_ROW_BYTES } from '../../planner/format/layout.ts';
import { DTYPE_BYTES } from '../../planner/spec.ts';
import { addReports, bothSettled } from '../backends/combineGradient.ts';
import type { DispatchCall, ExchangeReport, Memory, Payload } from '../backends/types.ts';
import type { FloatDtype } from '../numeric.ts';
import type { PlanExchange } from '../planExchange.ts';
import type { StepClock } from './clock.ts';
import type { ExpertBlocks } from './expertBlocks.ts';
import { scaleBlocks } from './fp8.ts';
import { LAYER_STAGES, type LayerStage, noTimes, type StageTimes } from './stages.ts';

export { type ExpertBlocks, rowBlocks } from './expertBlocks.ts';

export interface LayerOptions {
  /** Elements of one row. */
  hidden: number;
  /** Dtype of combine and of all gradients, and of dispatch unless `fp8` is set. */
  dtype: FloatDtype;
  /** Dispatch e4m3 codes with a float32 scale for every 128 elements; combine stays in `dtype`. Default false. */
  fp8?: boolean;
  /** The clock of the training step, to which the times of the exchanges are added as well. */
  clock?: StepClock;
}

/** Buffers are one per local rank, owned by the caller, at least of the size stated, and overlap no output. */
export interface LayerDispatch {
  /** [tokens, hidden] in the layer's dtype; with fp8 e4m3 codes. */
  readonly tokens: readonly Memory[];
  /** [recvRows, hidden], in the same form; padding becomes zero. */
  readonly rows: readonly Memory[];
  /** With fp8: f32 [tokens, ceil(hidden / 128)]. */
  readonly scales?: readonly Memory[];
  /** With fp8: f32 [recvRows, ceil(hidden / 128)]. */
  readonly rowScales?: readonly Memory[];
  /** f32 [tokens, topk], for experts that need the weight of each row. */
  readonly weights?: readonly Memory[];
  /** f32 [recvRows], with `weights`. */
  readonly rowWeights?: readonly Memory[];
  /** i32 [recvRows, 3]: (source rank, token, k) of every row; -1 in padding. */
  readonly origins?: readonly Memory[];
}

export interface LayerCombine {
  /** [recvRows, hidden]: the outputs of the experts. */
  readonly rows: readonly Memory[];
  /** [tokens, hidden]: the sums; +0 for a token without entries. */
  readonly tokens: readonly Memory[];
  /** f32 [tokens, topk]; without them rows are added unweighted. */
  readonly weights?: readonly Memory[];
}

export interface LayerDispatchBackward {
  /** [recvRows, hidden]: gradient of what dispatch received. */
  readonly rowsGradient: readonly Memory[];
  /** [tokens, hidden]: gradient of what dispatch sent. */
  readonly tokensGradient: readonly Memory[];
}

export interface LayerCombineBackward {
  /** [tokens, hidden]: gradient of what combine returned. */
  readonly tokensGradient: readonly Memory[];
  /** [recvRows, hidden]: gradient of the rows that combine read; padding becomes zero. */
  readonly rowsGradient: readonly Memory[];
  /** f32 [tokens, topk]: the weights of combine, if it had any. */
  readonly weights?: readonly Memory[];
  /** [recvRows, hidden]: the rows that combine read; needed for `weightsGradient`. */
  readonly rows?: readonly Memory[];
  /** f32 [tokens, topk]: gradient of the weights; 0 for masked and dropped entries. */
  readonly weightsGradient?: readonly Memory[];
}

const F32_BYTES = 4;

const LAYER_OPTIONS = Object.keys({
  hidden: true,
  dtype: true,
  fp8: true,
  clock: true,
} satisfies Record<keyof LayerOptions, true>);
/** Every property of each call. */
const CALL_KEYS = {
  dispatch: ['tokens', 'rows', 'scales', 'rowScales', 'weights', 'rowWeights', 'origins'],
  combine: ['rows', 'tokens', 'weights'],
  dispatchBackward: ['rowsGradient', 'tokensGradient'],
  combineBackward: ['tokensGradient', 'rowsGradient', 'weights', 'rows', 'weightsGradient'],
};

/** Both of two optional fields, or neither. */
function checkPair(a: string, hasA: boolean, b: string, hasB: boolean): void {
  if (hasA === hasB) return;
  throw new FuscoError('E_OPTION', `${hasA ? a : b} needs ${hasA ? b : a}`, {
    hint: `Give both ${a} and ${b}, or neither.`,
  });
}

/** A layer over one exchange. Make one for each plan; this is cheap. */
export class ExpertLayer {
  readonly exchange: PlanExchange;
  readonly hidden: number;
  readonly dtype: FloatDtype;
  readonly fp8: boolean;
  /** Bytes of one row of the layer's dtype. */
  readonly rowBytes: number;
  readonly #clock: StepClock | undefined;
  #times: StageTimes = noTimes(LAYER_STAGES);

  /** Throws E_OPTION. The caller closes the exchange. */
  constructor(exchange: PlanExchange, options: LayerOptions) {
    checkKeys('the layer', options, LAYER_OPTIONS);
    const { fp8 = false } = options;
    const dtype = checkChoice('dtype', options.dtype, ['f32', 'f16', 'bf16']);
    const size = DTYPE_BYTES[dtype];
    this.exchange = exchange;
    this.hidden = checkInteger('hidden', options.hidden, 1, MAX_ROW_BYTES / size);
    this.dtype = dtype;
    this.fp8 = fp8;
    this.#clock = options.clock;
    this.rowBytes = this.hidden * size;
  }

  /**
   * Expert blocks of every local rank, in the order of the group's local ranks.
   *
   * @throws FuscoError E_OPTION for an exchange that was planned on the device with maxRecvRows
   */
  get blocks(): readonly ExpertBlocks[] {
    return this.exchange.expertBlocks();
  }

  /** Nanoseconds of each stage since the last call of takeTimes; a stage that ran twice is added up. */
  get times(): Readonly<StageTimes> {
    return this.#times;
  }

  /** The times since the last call of takeTimes, which starts the next training step. */
  takeTimes(): StageTimes {
    const times = this.#times;
    this.#times = noTimes(LAYER_STAGES);
    return times;
  }

  #count(stage: LayerStage, report: ExchangeReport): ExchangeReport {
    this.#times[stage] += report.nanoseconds;
    this.#clock?.add(stage, report.nanoseconds);
    return report;
  }

  /** Sends every token to its experts' blocks. Throws E_OPTION, E_BUFFER, E_DTYPE, E_CLOSED. */
  async dispatch(call: LayerDispatch): Promise<ExchangeReport> {
    checkKeys('dispatch', call, CALL_KEYS.dispatch);
    const { tokens, rows, scales, rowScales, weights, rowWeights, origins } = call;
    checkPair('weights', weights !== undefined, 'rowWeights', rowWeights !== undefined);
    checkPair('fp8', this.fp8, 'scales', scales !== undefined);
    checkPair('scales', scales !== undefined, 'rowScales', rowScales !== undefined);
    const rowBytes = this.fp8 ? this.hidden : this.rowBytes;
    const dtype = this.fp8 ? 'fp8' : this.dtype;
    const payloads: Payload[] = [{ rowBytes, dtype, from: tokens, to: rows }];
    if (scales !== undefined && rowScales !== undefined) {
      const scaleBytes = F32_BYTES * scaleBlocks(this.hidden);
      payloads.push({ rowBytes: scaleBytes, dtype: 'f32', from: scales, to: rowScales });
    }
    if (weights !== undefined && rowWeights !== undefined) {
      payloads.push({ rowBytes: F32_BYTES, dtype: 'f32', per: 'entry', from: weights, to: rowWeights });
    }
    const dispatch: DispatchCall = origins === undefined ? { payloads } : { payloads, origins };
    return this.#count('dispatch', await this.exchange.dispatch(dispatch));
  }

  /** Returns the experts' rows to their tokens, weighted and added. Throws E_BUFFER, E_CLOSED. */
  async combine(layerCall: LayerCombine): Promise<ExchangeReport> {
    checkKeys('combine', layerCall, CALL_KEYS.combine);
    const { rows, tokens, weights } = layerCall;
    const { dtype, rowBytes } = this;
    const call = { dtype, rowBytes, from: rows, to: tokens, ...(weights === undefined ? {} : { weights }) };
    return this.#count('combine', await this.exchange.combine(call));
  }

  /** The gradient of dispatch: the rows of every token, added unweighted. Throws E_BUFFER, E_CLOSED. */
  async dispatchBackward(call: LayerDispatchBackward): Promise<ExchangeReport> {
    checkKeys('dispatchBackward', call, CALL_KEYS.dispatchBackward);
    const { dtype, rowBytes } = this;
    const { rowsGradient: from, tokensGradient: to } = call;
    return this.#count('dispatchBackward', await this.exchange.combine({ dtype, rowBytes, from, to }));
  }

  /**
   * The gradients of combine: of its rows, and of its weights if `weightsGradient` is given. The report covers both. With
   * weights both are one exchange, whose time is that of the stage `combineBackward`.
   *
   * @throws FuscoError E_OPTION, E_BUFFER, E_CLOSED
   */
  async combineBackward(call: LayerCombineBackward): Promise<ExchangeReport> {
    checkKeys('combineBackward', call, CALL_KEYS.combineBackward);
    const { dtype, rowBytes } = this;
    const { tokensGradient, rowsGradient, weights, rows, weightsGradient } = call;
    checkPair('rows', rows !== undefined, 'weightsGradient', weightsGradient !== undefined);
    const wanted = { dtype, rowBytes, outputGradient: tokensGradient };
    if (rows !== undefined && weightsGradient !== undefined && weights !== undefined) {
      const both = { ...wanted, from: rows, weights, to: rowsGradient, weightsGradient };
      return this.#count('combineBackward', await this.exchange.combineGradient(both));
    }
    const payloads: Payload[] = [{ rowBytes, dtype, from: tokensGradient, to: rowsGradient }];
    const dispatch = weights === undefined ? { payloads } : { payloads, scale: weights };
    const scattered = this.exchange.dispatch(dispatch);
    if (rows === undefined || weightsGradient === undefined) {
      return this.#count('combineBackward', await scattered);
    }
    // Both are queued at once; neither reads what the other writes.
    const gradient = this.exchange.weightGradient({ ...wanted, from: rows, to: weightsGradient });
    const [first, second] = await bothSettled(scattered, gradient);
    this.#count('combineBackward', first);
    this.#count('weightGradient', second);
    return addReports(first, second);
  }
}
