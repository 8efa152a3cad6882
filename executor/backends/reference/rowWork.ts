// fp8 and gating of the reference backend: the functions of fp8.ts and gating.ts, rank by rank.

import { dequantizeRows, quantizeRows } from '../../training/fp8.ts';
import { gateTokens, gateTokensBackward, resolveGate } from '../../training/gating.ts';
import type { Memory, RowWork } from '../types.ts';
import { bytesOf } from './rows.ts';

function views<T extends Record<string, readonly Memory[]>>(lists: T, i: number) {
  return Object.fromEntries(Object.entries(lists).map(([name, list]) => [name, bytesOf(list[i]!)])) as {
    [K in keyof T]: Uint8Array;
  };
}

export const referenceRowWork: RowWork = {
  quantize: async ({ rows: counts, dtype, hidden, ...lists }) => {
    counts.forEach((rows, i) => {
      const { values, codes, scales } = views(lists, i);
      quantizeRows({ dtype, rows, hidden }, values, codes, scales);
    });
  },
  dequantize: async ({ rows: counts, dtype, hidden, ...lists }) => {
    counts.forEach((rows, i) => {
      const { values, codes, scales } = views(lists, i);
      dequantizeRows({ dtype, rows, hidden }, codes, scales, values);
    });
  },
  gate: async ({ options, tokens, bias, ...lists }) => {
    const spec = resolveGate(options);
    tokens.forEach((count, i) => {
      const added = bias === undefined ? {} : { bias: bytesOf(bias[i]!) };
      gateTokens(spec, count, { ...views(lists, i), ...added });
    });
  },
  gateBackward: async ({ options, tokens, ...lists }) => {
    const spec = resolveGate(options);
    tokens.forEach((count, i) => {
      gateTokensBackward(spec, count, views(lists, i));
    });
  },
};
