// The network, less what moves rows between ranks:
//
//   hidden = relu(image embed + bias)            every rank, for its own images
//   scores = softmax(hidden router)              top-2 of 8 experts, weights normalized: group.gate
//   mixed  = sum of weight * expert(hidden)      expert(x) = relu(x inner + bias) outer, where the expert lives
//   logits = (hidden + mixed) head + bias        softmax and cross entropy
//
// Every rank keeps the shared weights (embed, router, head) and those of its local experts.

import { type ExpertBlocks, expFloat } from 'fusco';
import { PIXELS, randomFrom } from './digits.ts';
import { inputGradient, product, productGradient, type Rows, relu, reluGradient } from './matrix.ts';
import { Parameters } from './parameters.ts';

export const WIDTH = 64;
export const INNER = 64;
export const EXPERTS = 8;
export const TOPK = 2;
export const CLASSES = 10;

const SHARED = {
  embed: PIXELS * WIDTH,
  embedBias: WIDTH,
  router: WIDTH * EXPERTS,
  head: WIDTH * CLASSES,
  headBias: CLASSES,
};
export type Shared = Parameters<keyof typeof SHARED>;

const EXPERT = { inner: WIDTH * INNER, innerBias: INNER, outer: INNER * WIDTH };
export type Expert = Parameters<keyof typeof EXPERT>;

const SEED = 7;

/** The shared weights at the start: the same on every rank. */
export function makeShared(): Shared {
  const shared: Shared = new Parameters(SHARED);
  const random = randomFrom(SEED);
  shared.fill('embed', PIXELS, random);
  shared.fill('router', WIDTH, random);
  shared.fill('head', WIDTH, random);
  return shared;
}

/** An expert's weights at the start: the same wherever it lives. */
export function makeExpert(expert: number): Expert {
  const parameters: Expert = new Parameters(EXPERT);
  const random = randomFrom(SEED + 1 + expert);
  parameters.fill('inner', WIDTH, random);
  parameters.fill('outer', INNER, random);
  return parameters;
}

/** What one rank computes on, by row: images and tokens up to `tokens`, received rows up to `received`. */
export class Activations {
  readonly hidden: Float32Array;
  readonly routerLogits: Float32Array;
  readonly scores: Float32Array;
  readonly ids: Int32Array;
  readonly weights: Float32Array;
  readonly mixed: Float32Array;
  readonly logits: Float32Array;
  readonly rows: Float32Array;
  readonly inner: Float32Array;
  readonly outer: Float32Array;

  constructor(tokens: number, received: number) {
    this.hidden = new Float32Array(tokens * WIDTH);
    this.routerLogits = new Float32Array(tokens * EXPERTS);
    this.scores = new Float32Array(tokens * EXPERTS);
    this.ids = new Int32Array(tokens * TOPK);
    this.weights = new Float32Array(tokens * TOPK);
    this.mixed = new Float32Array(tokens * WIDTH);
    this.logits = new Float32Array(tokens * CLASSES);
    this.rows = new Float32Array(received * WIDTH);
    this.inner = new Float32Array(received * INNER);
    this.outer = new Float32Array(received * WIDTH);
  }
}

/** hidden and routerLogits of some tokens. */
export function embedAndRoute(rows: Rows, images: Float32Array, shared: Shared, a: Activations): void {
  product(rows, PIXELS, WIDTH, images, shared.at('embed'), a.hidden, shared.at('embedBias'));
  relu(rows, WIDTH, a.hidden);
  product(rows, WIDTH, EXPERTS, a.hidden, shared.at('router'), a.routerLogits);
}

/** Rows of each block of a rank's experts. */
function blockRows({ expertOffsets, expertCounts }: ExpertBlocks, block: number): Rows {
  const begin = expertOffsets[block]!;
  return { begin, end: begin + expertCounts[block]! };
}

/** outer = what the rank's experts make of the rows that they received. */
export function runExperts(blocks: ExpertBlocks, experts: readonly Expert[], a: Activations): void {
  experts.forEach((expert, block) => {
    const rows = blockRows(blocks, block);
    product(rows, WIDTH, INNER, a.rows, expert.at('inner'), a.inner, expert.at('innerBias'));
    relu(rows, INNER, a.inner);
    product(rows, INNER, WIDTH, a.inner, expert.at('outer'), a.outer);
  });
}

/** rows' gradient from outer's gradient; adds the experts' own to `gradients`. */
export function runExpertsBackward(
  blocks: ExpertBlocks,
  experts: readonly Expert[],
  gradients: readonly Float32Array[],
  a: Activations,
  d: Activations,
): void {
  experts.forEach((expert, block) => {
    const rows = blockRows(blocks, block);
    const into = (name: keyof typeof EXPERT) => expert.part(gradients[block]!, name);
    productGradient(rows, INNER, WIDTH, a.inner, d.outer, into('outer'));
    d.inner.fill(0, rows.begin * INNER, rows.end * INNER);
    inputGradient(rows, INNER, WIDTH, d.outer, expert.at('outer'), d.inner);
    reluGradient(rows, INNER, a.inner, d.inner);
    productGradient(rows, WIDTH, INNER, a.rows, d.inner, into('inner'), into('innerBias'));
    d.rows.fill(0, rows.begin * WIDTH, rows.end * WIDTH);
    inputGradient(rows, WIDTH, INNER, d.inner, expert.at('inner'), d.rows);
  });
}

/** What the head says of some tokens. */
export interface Judged {
  /** Sum of the tokens' cross entropies, float32. */
  readonly loss: number;
  /** Tokens whose best class is right. */
  readonly correct: number;
}

/** The head on hidden + mixed, which replaces mixed; leaves the softmax in logits. */
export function judge(rows: Rows, labels: Uint8Array, shared: Shared, a: Activations): Judged {
  for (let i = rows.begin * WIDTH; i < rows.end * WIDTH; i++) a.mixed[i]! += a.hidden[i]!;
  product(rows, WIDTH, CLASSES, a.mixed, shared.at('head'), a.logits, shared.at('headBias'));
  let loss = 0;
  let correct = 0;
  for (let r = rows.begin; r < rows.end; r++) {
    const values = a.logits.subarray(r * CLASSES, (r + 1) * CLASSES);
    const max = Math.max(...values);
    if (values.indexOf(max) === labels[r]) correct++;
    let sum = 0;
    for (let c = 0; c < CLASSES; c++) {
      values[c] = expFloat(Math.fround(values[c]! - max));
      sum = Math.fround(sum + values[c]!);
    }
    for (let c = 0; c < CLASSES; c++) values[c] = values[c]! / sum;
    loss = Math.fround(loss - Math.fround(Math.log(values[labels[r]!]!)));
  }
  return { loss, correct };
}

/** The gradient of the mean loss of `count` tokens: adds the head's, and sets that of hidden + mixed, d.mixed. */
export function judgeBackward(
  rows: Rows,
  labels: Uint8Array,
  count: number,
  shared: Shared,
  gradient: Float32Array,
  a: Activations,
  d: Activations,
): void {
  for (let r = rows.begin; r < rows.end; r++) {
    for (let c = 0; c < CLASSES; c++) {
      const at = r * CLASSES + c;
      d.logits[at] = (a.logits[at]! - (c === labels[r] ? 1 : 0)) / count;
    }
  }
  const into = (name: 'head' | 'headBias') => shared.part(gradient, name);
  productGradient(rows, WIDTH, CLASSES, a.mixed, d.logits, into('head'), into('headBias'));
  d.mixed.fill(0, rows.begin * WIDTH, rows.end * WIDTH);
  inputGradient(rows, WIDTH, CLASSES, d.logits, shared.at('head'), d.mixed);
}

/**
 * Adds the gradients of embed and router. d.hidden holds what came back from the experts; the head's part, past them,
 * and the router's are added to it.
 */
export function embedAndRouteBackward(
  rows: Rows,
  images: Float32Array,
  shared: Shared,
  gradient: Float32Array,
  a: Activations,
  d: Activations,
): void {
  const into = (name: 'embed' | 'embedBias' | 'router') => shared.part(gradient, name);
  productGradient(rows, WIDTH, EXPERTS, a.hidden, d.routerLogits, into('router'));
  for (let i = rows.begin * WIDTH; i < rows.end * WIDTH; i++) d.hidden[i]! += d.mixed[i]!;
  inputGradient(rows, WIDTH, EXPERTS, d.routerLogits, shared.at('router'), d.hidden);
  reluGradient(rows, WIDTH, a.hidden, d.hidden);
  productGradient(rows, PIXELS, WIDTH, images, d.hidden, into('embed'), into('embedBias'));
}
