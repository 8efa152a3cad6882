// Nested lists out of JSON: arrays whose shape nobody has checked yet.

import { refuse } from './file.ts';
import type { Piece } from './trace.ts';

function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

/** Lists [tokens][topk] of integers as a piece; all rows have one length. Throws E_FOREIGN. */
export function pieceOfLists(value: unknown, where: string, path: string): Piece {
  if (!Array.isArray(value)) refuse(path, `${where}: it is not a list of tokens`);
  const topk = Array.isArray(value[0]) ? value[0].length : 0;
  const ids: number[] = [];
  for (const [token, row] of value.entries()) {
    if (!Array.isArray(row) || row.length !== topk || !row.every(isInteger)) {
      refuse(path, `${where}: token ${token} is not ${topk} integers, as token 0 is`);
    }
    for (const id of row) ids.push(id);
  }
  return { ids, tokens: value.length, topk };
}

/** Layers in lists [tokens][layers][topk]; 0 if there is no token. Throws E_FOREIGN. */
export function layersOfLists(value: unknown, where: string, path: string): number {
  if (!Array.isArray(value)) refuse(path, `${where}: it is not a list of tokens`);
  if (value.length === 0) return 0;
  if (!Array.isArray(value[0]) || value[0].length === 0) refuse(path, `${where}: token 0 has no layers`);
  return value[0].length;
}

/** One layer of lists [tokens][layers][topk] as a piece. Throws E_FOREIGN. */
export function layerOfLists(value: unknown, layer: number, where: string, path: string): Piece {
  const layers = layersOfLists(value, where, path);
  const rows = (value as unknown[]).map((token, i) => {
    if (Array.isArray(token) && token.length === layers) return token[layer];
    return refuse(path, `${where}: token ${i} has not the ${layers} layers that token 0 has`);
  });
  return pieceOfLists(rows, `${where}, layer ${layer}`, path);
}
