// Rows that identify their token, so that any part of one can be recognized in a dump, and checksums of tables.
//
// A row consists of groups of eight elements; the last group may have fewer. Their values are whole numbers from 0
// to 255, which bf16, f16, f32 and u8 hold exactly:
//
//   +-------+-----------------------------------------------------------------+
//   | 0     | 165, which marks the start of a group                           |
//   | 1, 2  | source rank: low byte, high byte                                |
//   | 3 - 5 | token: low byte, middle byte, high byte                         |
//   | 6     | training step, modulo 256                                       |
//   | 7     | number of the group in its row, modulo 256                      |
//   +-------+-----------------------------------------------------------------+

import { floatToBf16, floatToF16 } from '../../executor/numeric.ts';
import { ARRAY_TYPES, type NdDtype } from '../../executor/training/npy.ts';
import { hex } from '../../planner/format/bytes.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';

/** Elements of a group. */
export const GROUP = 8;
/** First element of every group. */
export const MARK = 165;

/** How elements of each dtype are stored. */
const STORED = {
  f32: { as: 'f32', encode: (value: number) => value },
  f16: { as: 'f16', encode: floatToF16 },
  bf16: { as: 'u16', encode: floatToBf16 },
  fp8: { as: 'u8', encode: (value: number) => value },
} as const;
export type PayloadDtype = keyof typeof STORED;

/** A rank's rows as NumPy stores them: bf16 as u16, bytes (fp8) as u8. */
export interface PayloadRows {
  readonly dtype: NdDtype;
  readonly shape: readonly [tokens: number, hidden: number];
  readonly data: Float32Array | Uint16Array | Uint8Array;
}

/**
 * The rows [tokens, hidden] of a rank.
 *
 * @param rank 0..65535
 * @param tokens 0..2^24
 * @param hidden elements of a row, from 1; at least 6 for every row to be a different one
 */
export function payloadRows(
  rank: number,
  tokens: number,
  hidden: number,
  dtype: PayloadDtype,
  step = 0,
): PayloadRows {
  const { as, encode } = STORED[dtype];
  const codes = Array.from({ length: 256 }, (_, value) => encode(value));
  const data = new ARRAY_TYPES[as](tokens * hidden) as PayloadRows['data'];
  const group = [MARK, rank & 255, rank >> 8, 0, 0, 0, step & 255, 0];
  for (let token = 0, at = 0; token < tokens; token++) {
    group[3] = token & 255;
    group[4] = (token >> 8) & 255;
    group[5] = token >> 16;
    for (let i = 0; i < hidden; i++, at++) {
      if (i % GROUP === 0) group[GROUP - 1] = (i / GROUP) & 255;
      data[at] = codes[group[i % GROUP]!]!;
    }
  }
  return { dtype: as, shape: [tokens, hidden], data };
}

/**
 * SHA-256 of tables in the order of ranks: of each u32 tokens, u32 topk and the ids as i32, all little-endian. The dtype
 * in which the ids are stored does not matter.
 */
export async function checksumOf(tables: readonly RoutingTable[]): Promise<string> {
  const parts = tables.map(({ ids, tokens, topk }) => {
    const words = new Int32Array(2 + ids.length);
    words.set([tokens, topk]);
    for (let i = 0; i < ids.length; i++) words[2 + i] = Number(ids[i]);
    return new Uint8Array(words.buffer);
  });
  return hex(await nodeSha256(parts));
}
