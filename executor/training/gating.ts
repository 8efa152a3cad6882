// The experts of each token and their weights: top-k of a router's scores. Each operation is rounded to float32
// separately, in the order given here, so that all machines and backends make the same choice. Tests compare the native
// versions with this one bit for bit.
//
//   scores   softmax: e^(x - max) / sum, the sum in 32 lanes (lane j adds experts j, j + 32, …, then lanes are added at
//            distance 16, 8, 4, 2, 1); sigmoid: 1 / (1 + e^-x)
//   choice   scores + bias; a NaN counts as -infinity; ties go to the lower id, for expert groups and for experts
//   groups   the best groupTopk of `groups` equal expert groups are kept, by their best expert or the sum of their two best
//   weights  the scores of the chosen experts, without the bias; normalized: divided by (their sum in the order of k,
//            from +0, plus 1e-20); times `scale`
//
// This covers DeepSeek-V3 (sigmoid, bias, groups by two best, normalized), DeepSeek-V2 (softmax, groups by the best),
// Mixtral and Qwen (softmax, normalized).

import { checkChoice, checkInteger, checkKeys, FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_ROWS, MAX_TOPK } from '../../planner/format/layout.ts';
import { viewOf } from '../memory.ts';
import { bitsFromFloat, floatFromBits, laneSum } from '../numeric.ts';

export interface GateOptions {
  /** 1..65535. */
  experts: number;
  /** Experts of a token, 1..256. */
  topk: number;
  /** Default softmax. */
  score?: 'softmax' | 'sigmoid';
  /** Number of equal expert groups, of consecutive experts; divides `experts`. Default 1. */
  groups?: number;
  /** Expert groups that a token may choose from, 1..groups; they must hold topk experts. Default: all. */
  groupTopk?: number;
  /** Score of an expert group: its best expert, or the sum of its two best, the default. */
  groupScore?: 'max' | 'top2';
  /** Whether the weights of a token add up to `scale`. Default false. */
  normalize?: boolean;
  /** Factor of the weights, finite; rounded to float32. Default 1. */
  scale?: number;
}

/** Options with every default filled in. */
export type GateSpec = Readonly<Required<GateOptions>>;

/** Added to the divisor, as the models that normalize do, so that scores that are all zero are not divided by zero. */
const NORMALIZE_FLOOR = Math.fround(1e-20);

/** Every option; the compiler keeps the list complete. */
const GATE_OPTIONS = Object.keys({
  experts: true,
  topk: true,
  score: true,
  groups: true,
  groupTopk: true,
  groupScore: true,
  normalize: true,
  scale: true,
} satisfies Record<keyof GateOptions, true>);

/** Fills in the defaults and checks every range. Throws E_OPTION. */
export function resolveGate(options: GateOptions): GateSpec {
  checkKeys('the gate', options, GATE_OPTIONS);
  const experts = checkInteger('experts', options.experts, 1, MAX_INSTANCES);
  const topk = checkInteger('topk', options.topk, 1, Math.min(MAX_TOPK, experts));
  const groups = checkInteger('groups', options.groups ?? 1, 1, experts);
  const groupTopk = checkInteger('groupTopk', options.groupTopk ?? groups, 1, groups);
  const { normalize = false, scale = 1 } = options;
  if (experts % groups !== 0) {
    throw new FuscoError('E_OPTION', `${groups} groups do not divide ${experts} experts`, {
      hint: 'Give a number of groups that divides the experts.',
    });
  }
  const reach = (experts / groups) * groupTopk;
  if (topk > reach) {
    const text = `topk ${topk} is more than the ${reach} experts of ${groupTopk} groups`;
    throw new FuscoError('E_OPTION', text, {
      value: topk,
      limit: reach,
      hint: 'Give a smaller topk, or a larger groupTopk.',
    });
  }
  const score = checkChoice('score', options.score ?? 'softmax', ['softmax', 'sigmoid']);
  const groupScore = checkChoice('groupScore', options.groupScore ?? 'top2', ['max', 'top2']);
  if (!Number.isFinite(Math.fround(scale))) {
    throw new FuscoError('E_OPTION', `scale is ${String(scale)}`, { hint: 'Give a finite scale.' });
  }
  return { experts, topk, score, groups, groupTopk, groupScore, normalize, scale: Math.fround(scale) };
}

const LOG2E = Math.fround(Math.LOG2E);
/** ln 2 in two parts: products of the high one with whole numbers are exact. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = Math.fround(-2.1219444e-4);
/** Coefficients of Cephes' expf, from r^7 down to r^2. */
const EXP_COEFFICIENTS = [
  1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5,
].map(Math.fround);
/** 1.5 * 2^23: adding it leaves whole numbers, rounded to nearest even. */
const TO_WHOLE = 12582912;

/** 2^exponent, -126..127. */
function powerOf2(exponent: number): number {
  return floatFromBits((exponent + 127) << 23);
}

/**
 * e^x of a float32, as a float32: at most 0.98 ulp from the true value (0.75 of a subnormal result), over all
 * arguments. The operations are in the order of native/core/math.hpp; each is rounded on its own.
 */
export function expFloat(x: number): number {
  if (!(x >= -104 && x <= 88.72283935546875)) {
    if (Number.isNaN(x)) return Number.NaN;
    return x < 0 ? 0 : Number.POSITIVE_INFINITY;
  }
  const n = Math.fround(Math.fround(Math.fround(x * LOG2E) + TO_WHOLE) - TO_WHOLE);
  const high = Math.fround(x - Math.fround(n * LN2_HIGH));
  const r = Math.fround(high - Math.fround(n * LN2_LOW));
  let p = EXP_COEFFICIENTS[0]!;
  for (let i = 1; i < EXP_COEFFICIENTS.length; i++) {
    p = Math.fround(Math.fround(p * r) + EXP_COEFFICIENTS[i]!);
  }
  const y = Math.fround(Math.fround(Math.fround(p * Math.fround(r * r)) + r) + 1);
  // Two factors, because 2^n itself may be out of range; a subnormal result is rounded once more at the end.
  const half = n >> 1;
  return Math.fround(Math.fround(y * powerOf2(half)) * powerOf2(n - half));
}

/** Reads and writes float32 and int32 words of a buffer; NaNs are written as the canonical one. */
class Words {
  readonly #view: DataView;

  constructor(name: string, memory: ArrayBufferView, words: number, type: 'f32' | 'i32' = 'f32') {
    this.#view = viewOf(name, memory, 4 * words, type);
  }

  float(index: number): number {
    return this.#view.getFloat32(4 * index, true);
  }

  int(index: number): number {
    return this.#view.getInt32(4 * index, true);
  }

  setFloat(index: number, value: number): void {
    this.#view.setUint32(4 * index, bitsFromFloat(value), true);
  }

  setInt(index: number, value: number): void {
    this.#view.setInt32(4 * index, value, true);
  }
}

/** Replaces logits by scores. */
function toScores(score: GateSpec['score'], values: Float32Array): void {
  if (score === 'sigmoid') {
    for (let e = 0; e < values.length; e++) {
      values[e] = Math.fround(1 / Math.fround(1 + expFloat(-values[e]!)));
    }
    return;
  }
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) if (value > max) max = value;
  for (let e = 0; e < values.length; e++) values[e] = expFloat(Math.fround(values[e]! - max));
  const sum = laneSum(values);
  for (let e = 0; e < values.length; e++) values[e] = Math.fround(values[e]! / sum);
}

/** Index of the best value in [begin, end) that is not marked; of equal values the lowest index. */
function best(values: Float32Array, marked: Uint8Array, begin: number, end: number): number {
  let found = -1;
  for (let i = begin; i < end; i++) {
    if (marked[i] === 0 && (found < 0 || values[i]! > values[found]!)) found = i;
  }
  return found;
}

/** Marks the experts of the expert groups that a token may not choose from. */
function limitGroups(spec: GateSpec, choice: Float32Array, marked: Uint8Array): void {
  const { experts, groups, groupTopk, groupScore } = spec;
  const size = experts / groups;
  const values = new Float32Array(groups);
  for (let group = 0; group < groups; group++) {
    const begin = group * size;
    const first = best(choice, marked, begin, begin + size);
    values[group] = choice[first]!;
    if (groupScore === 'max' || size === 1) continue;
    marked[first] = 1;
    const sum = Math.fround(choice[first]! + choice[best(choice, marked, begin, begin + size)]!);
    // Infinities of both signs add up to a NaN.
    values[group] = Number.isNaN(sum) ? Number.NEGATIVE_INFINITY : sum;
    marked[first] = 0;
  }
  const kept = new Uint8Array(groups);
  for (let i = 0; i < groupTopk; i++) kept[best(values, kept, 0, groups)] = 1;
  for (let expert = 0; expert < experts; expert++) marked[expert] = 1 - kept[Math.floor(expert / size)]!;
}

/** The divisor of a token's weights. */
function divisorOf(spec: GateSpec, chosen: Float32Array): number {
  if (!spec.normalize) return 1;
  let sum = 0;
  for (const score of chosen) sum = Math.fround(sum + score);
  return Math.fround(sum + NORMALIZE_FLOOR);
}

/** The buffers of a gate: those of one rank, or a list with one per rank. */
export interface GateBuffers<Buffer = ArrayBufferView> {
  /** f32 [tokens, experts]: the router's output. */
  readonly logits: Buffer;
  /** f32 [experts], added to the scores for choosing, not for weighting. */
  readonly bias?: Buffer;
  /** i32 [tokens, topk], written. */
  readonly ids: Buffer;
  /** f32 [tokens, topk], written. */
  readonly weights: Buffer;
  /** f32 [tokens, experts], written: scores of all experts, which the gradient needs. */
  readonly scores: Buffer;
}

/** Top-k of one rank's tokens. Throws E_OPTION, E_BUFFER, E_DTYPE. */
export function gateTokens(spec: GateSpec, tokens: number, buffers: GateBuffers): void {
  const { experts, topk } = spec;
  checkInteger('tokens', tokens, 0, MAX_ROWS);
  const logits = new Words('logits', buffers.logits, tokens * experts);
  const scoresOut = new Words('scores', buffers.scores, tokens * experts);
  const ids = new Words('ids', buffers.ids, tokens * topk, 'i32');
  const weights = new Words('weights', buffers.weights, tokens * topk);
  const bias = buffers.bias === undefined ? undefined : new Words('bias', buffers.bias, experts);
  const scores = new Float32Array(experts);
  const choice = new Float32Array(experts);
  const marked = new Uint8Array(experts);
  const chosen = new Float32Array(topk);
  for (let token = 0; token < tokens; token++) {
    for (let e = 0; e < experts; e++) scores[e] = logits.float(token * experts + e);
    toScores(spec.score, scores);
    for (let e = 0; e < experts; e++) {
      scoresOut.setFloat(token * experts + e, scores[e]!);
      const value = bias === undefined ? scores[e]! : Math.fround(scores[e]! + bias.float(e));
      choice[e] = Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
    }
    marked.fill(0);
    if (spec.groupTopk < spec.groups) limitGroups(spec, choice, marked);
    for (let k = 0; k < topk; k++) {
      const expert = best(choice, marked, 0, experts);
      marked[expert] = 1;
      chosen[k] = scores[expert]!;
      ids.setInt(token * topk + k, expert);
    }
    const divisor = divisorOf(spec, chosen);
    for (let k = 0; k < topk; k++) {
      weights.setFloat(token * topk + k, Math.fround(Math.fround(chosen[k]! / divisor) * spec.scale));
    }
  }
}

/** The buffers of a gate's gradient: those of one rank, or a list with one per rank. */
export interface GateBackwardBuffers<Buffer = ArrayBufferView> {
  /** i32 [tokens, topk], as gate wrote them. Others are E_OPTION; in device memory they count as a gradient of 0. */
  readonly ids: Buffer;
  /** f32 [tokens, experts], as gate wrote them. */
  readonly scores: Buffer;
  /** f32 [tokens, topk]. */
  readonly weightsGradient: Buffer;
  /** f32 [tokens, experts], written. */
  readonly logitsGradient: Buffer;
}

/** Replaces the gradient of a token's weights by that of its chosen scores. */
function scoreGradient(spec: GateSpec, chosen: Float32Array, gradient: Float32Array): void {
  if (!spec.normalize) return;
  const divisor = divisorOf(spec, chosen);
  let dot = 0;
  for (let k = 0; k < spec.topk; k++) {
    dot = Math.fround(dot + Math.fround(gradient[k]! * Math.fround(chosen[k]! / divisor)));
  }
  for (let k = 0; k < spec.topk; k++) gradient[k] = Math.fround(Math.fround(gradient[k]! - dot) / divisor);
}

function checkIds({ experts, topk }: GateSpec, tokens: number, ids: Words): void {
  for (let entry = 0; entry < tokens * topk; entry++) {
    const id = ids.int(entry);
    if (id >= 0 && id < experts) continue;
    throw new FuscoError('E_OPTION', `id ${id} of entry ${entry} is not in 0..${experts - 1}`, {
      value: id,
      limit: experts - 1,
      hint: 'Give the ids that gate wrote.',
    });
  }
}

/** Throws E_OPTION if one of a gate's ids, i32 [tokens, topk], is not in 0..experts - 1; E_BUFFER. */
export function checkGateIds(spec: GateSpec, tokens: number, ids: ArrayBufferView): void {
  checkInteger('tokens', tokens, 0, MAX_ROWS);
  checkIds(spec, tokens, new Words('ids', ids, tokens * spec.topk, 'i32'));
}

/**
 * The gradient of one rank's logits; the choice of experts has none.
 *
 * @throws FuscoError E_OPTION if an id is not in 0..experts - 1; E_BUFFER
 */
export function gateTokensBackward(spec: GateSpec, tokens: number, buffers: GateBackwardBuffers): void {
  const { experts, topk, score } = spec;
  checkInteger('tokens', tokens, 0, MAX_ROWS);
  const scores = new Words('scores', buffers.scores, tokens * experts);
  const to = new Words('logits gradient', buffers.logitsGradient, tokens * experts);
  const ids = new Words('ids', buffers.ids, tokens * topk, 'i32');
  const upstream = new Words('weights gradient', buffers.weightsGradient, tokens * topk);
  checkIds(spec, tokens, ids);
  const chosen = new Float32Array(topk);
  const gradient = new Float32Array(topk);
  const byExpert = new Float32Array(experts);
  for (let token = 0; token < tokens; token++) {
    for (let k = 0; k < topk; k++) {
      chosen[k] = scores.float(token * experts + ids.int(token * topk + k));
      gradient[k] = Math.fround(upstream.float(token * topk + k) * spec.scale);
    }
    scoreGradient(spec, chosen, gradient);
    let shared = 0;
    if (score === 'softmax') {
      for (let k = 0; k < topk; k++) shared = Math.fround(shared + Math.fround(gradient[k]! * chosen[k]!));
    }
    byExpert.fill(0);
    for (let k = 0; k < topk; k++) byExpert[ids.int(token * topk + k)] = gradient[k]!;
    for (let e = 0; e < experts; e++) {
      const value = scores.float(token * experts + e);
      const slope = score === 'softmax' ? value : Math.fround(value * Math.fround(1 - value));
      to.setFloat(token * experts + e, Math.fround(slope * Math.fround(byExpert[e]! - shared)));
    }
  }
}
