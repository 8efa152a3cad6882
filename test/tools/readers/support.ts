// The formula of test/fixtures/foreign/make.py, written a second time, and where its files are.

import { fileURLToPath } from 'node:url';
import type { RoutingTable } from '../../../planner/routing.ts';

export const EXPERTS = 6;
const TOPK = 2;

export const foreign = (name: string): string =>
  fileURLToPath(new URL(`../../fixtures/foreign/${name}`, import.meta.url));

/** [tokens][topk] of a seed. */
export function routing(seed: number, tokens: number): number[][] {
  return Array.from({ length: tokens }, (_, token) =>
    Array.from({ length: TOPK }, (_, k) => (seed * 5 + token * 3 + 2 * k) % EXPERTS),
  );
}

/** Rows of a table. */
export function rowsOf({ ids, tokens, topk }: RoutingTable): number[][] {
  return Array.from({ length: tokens }, (_, token) =>
    Array.from(ids.subarray(token * topk, (token + 1) * topk) as ArrayLike<number | bigint>, Number),
  );
}
