// Nested lists of integers: what placements of other tools are made of.

import type { NdArray } from '../readers/npy.ts';

export type Nested = readonly (number | Nested)[];

/** Layers of [logical][replicas], or of [ranks][experts], have three. */
const MAX_AXES = 3;

/** Whether a value is lists of integers, no deeper than `axes`. */
export function isNested(value: unknown, axes = MAX_AXES): value is Nested {
  if (axes === 0 || !Array.isArray(value)) return false;
  return value.every((item) => Number.isSafeInteger(item) || isNested(item, axes - 1));
}

/** Axes of nested lists; 0 where numbers and lists, or lists of other depths, stand side by side. */
export function axesOf(value: Nested): number {
  let inner: number | undefined;
  for (const item of value) {
    const axes = typeof item === 'number' ? 0 : axesOf(item);
    if (typeof item !== 'number' && axes === 0) return 0;
    inner ??= axes;
    if (axes !== inner) return 0;
  }
  return 1 + (inner ?? 0);
}

/** Nested lists of an array. */
export function nest({ data, shape }: NdArray): Nested {
  let items: Nested = Array.from(data as ArrayLike<number | bigint>, Number);
  for (const size of shape.slice(1).reverse()) {
    const count = size === 0 ? 0 : items.length / size;
    const whole = items;
    items = Array.from({ length: count }, (_, i) => whole.slice(i * size, (i + 1) * size));
  }
  return items;
}
