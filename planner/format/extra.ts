// The header's `extra`: a map with keys in ASCII order whose values are integers from 0 to 2^32 - 1, strings and byte
// arrays of at most 255 bytes, and other such maps, nested at most MAX_DEPTH deep.

import { FuscoError } from '../errors.ts';
import type { Extra } from '../plan.ts';
import { sorted } from './digest.ts';

const MAX_DEPTH = 4;
const MAX_BYTES = 255;
/** Starts with a letter, so that no key looks like an array index: JavaScript orders such keys differently. */
const KEY = /^[A-Za-z][A-Za-z0-9._-]{0,63}$/;

export function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Throws E_PLAN_HEADER unless `value` is a map that `extra` may contain. */
export function checkExtra(value: unknown, path = '/header/extra', depth = 1): asserts value is Extra {
  const refuse = (text: string): never => {
    throw new FuscoError('E_PLAN_HEADER', text, { path });
  };
  if (!isMap(value) || Object.keys(value).length === 0) return refuse('not a map with at least one key');
  if (depth > MAX_DEPTH) refuse(`more than ${MAX_DEPTH} maps in one another`);
  for (const [key, item] of Object.entries(value)) {
    if (!KEY.test(key))
      refuse(`key ${JSON.stringify(key)} is not 1 to 64 of A-Z a-z 0-9 . _ - after a letter`);
    if (isMap(item)) checkExtra(item, `${path}/${key}`, depth + 1);
    else if (!isScalar(item)) refuse(`${key} is not an integer of 32 bits, or at most ${MAX_BYTES} bytes`);
  }
}

function isScalar(value: unknown): boolean {
  if (typeof value === 'number') return Number.isInteger(value) && value >= 0 && value < 2 ** 32;
  if (typeof value === 'string') return new TextEncoder().encode(value).length <= MAX_BYTES;
  return value instanceof Uint8Array && value.length <= MAX_BYTES;
}

/** The canonical order of keys, also in nested maps. */
export function sortedExtra(extra: Extra): Extra {
  const entries = Object.entries(extra);
  return sorted(
    Object.fromEntries(entries.map(([key, item]) => [key, isMap(item) ? sortedExtra(item as Extra) : item])),
  );
}
