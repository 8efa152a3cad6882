// Rows without a routing: ids that mean no expert, rows that a recorder left at one value, and maps of 0 and 1 instead of
// ids.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_TOPK } from '../../planner/format/layout.ts';
import type { Range, ReadChoice } from './choice.ts';
import { isRepeatedRow, type RecordedTable } from './origins.ts';
import type { Piece } from './piece.ts';

function isIn(ranges: readonly Range[], id: number): boolean {
  return ranges.some(({ first, last }) => id >= first && id <= last);
}

/** The piece with -1 in place of ids that mean no expert according to the choice; the same piece if nothing is masked. */
export function maskPiece(piece: Piece, { maskIds = [], maskRepeatedRows = false }: ReadChoice): Piece {
  if (maskIds.length === 0 && !maskRepeatedRows) return piece;
  const { ids, tokens, topk } = piece;
  // Not 32-bit integers, so that invalid ids are still recognized where pieces are joined.
  const masked = new Float64Array(tokens * topk);
  for (let token = 0; token < tokens; token++) {
    const [start, end] = [token * topk, (token + 1) * topk];
    const isEmpty = maskRepeatedRows && isRepeatedRow(ids, start, end);
    for (let at = start; at < end; at++) {
      const id = Number(ids[at]);
      masked[at] = isEmpty || isIn(maskIds, id) ? -1 : id;
    }
  }
  return { ...piece, ids: masked };
}

/** Whether every value is 0 or 1. */
function isBinary({ ids }: RecordedTable): boolean {
  for (let i = 0; i < ids.length; i++) if (Number(ids[i]) !== 0 && Number(ids[i]) !== 1) return false;
  return true;
}

/**
 * Whether tables are maps [tokens, experts] of 0 and 1. Without a choice, a table is a map only if it cannot be ids: with
 * three experts or more, every row of three columns of 0 and 1 would repeat an id.
 */
function isMultiHot(tables: readonly RecordedTable[], path: string, choice: ReadChoice): boolean {
  if (choice.multiHot !== undefined) return choice.multiHot;
  const { topk } = tables[0]!;
  const isBool = tables.some((table) => table.isBool);
  const isWide = topk === choice.experts && topk > 1;
  if (!isBool && !(isWide && tables.some(({ tokens }) => tokens > 0) && tables.every(isBinary))) return false;
  const columns = `${topk} columns of ${isBool ? 'booleans' : '0 and 1'}`;
  if (isBool && topk !== choice.experts) {
    throw new FuscoError('E_ROUTING_DTYPE', `${columns} are not ids`, {
      path,
      hint: 'A map of experts has a column for each: --multi-hot reads it, with --experts the number of columns.',
    });
  }
  if (topk === 2 && !isBool) {
    throw new FuscoError('E_ROUTING_SHAPE', `${columns} may be ids or a map of two experts`, {
      path,
      hint: 'Give --multi-hot for a map [tokens, experts], or --no-multi-hot for ids.',
    });
  }
  choice.notice?.(`${columns} read as a map [tokens, experts] (--multi-hot states this)`);
  return true;
}

/** Throws E_ROUTING_SHAPE for the first value of a map that is neither 0 nor 1. */
function refuseValue({ ids, topk }: RecordedTable, at: number, path: string): never {
  const text = `token ${Math.floor(at / topk)}, expert ${at % topk}: ${ids[at]} in a map of 0 and 1`;
  throw new FuscoError('E_ROUTING_SHAPE', text, { path, hint: 'Leave out --multi-hot: these are ids.' });
}

/** Experts of every token of a map, in ascending order. Throws E_ROUTING_SHAPE. */
function chosenOf(table: RecordedTable, path: string): number[][] {
  const { ids, tokens, topk } = table;
  return Array.from({ length: tokens }, (_, token) => {
    const chosen: number[] = [];
    for (let expert = 0; expert < topk; expert++) {
      const value = Number(ids[token * topk + expert]);
      if (value === 1) chosen.push(expert);
      else if (value !== 0) refuseValue(table, token * topk + expert, path);
    }
    return chosen;
  });
}

/**
 * Tables of ids from maps [tokens, experts] of 0 and 1: experts in ascending order, followed by -1 for tokens that chose
 * fewer. Other tables are returned unchanged.
 *
 * @throws FuscoError E_ROUTING_SHAPE for other values, and if the columns of 0 and 1 can be read both ways;
 *   E_ROUTING_DTYPE for booleans that are no map
 */
export function readMultiHot(
  tables: readonly RecordedTable[],
  path: string,
  choice: ReadChoice,
): readonly RecordedTable[] {
  if (tables.length === 0 || !isMultiHot(tables, path, choice)) return tables;
  const chosen = tables.map((table) => chosenOf(table, path));
  const topk = chosen.flat().reduce((most, experts) => Math.max(most, experts.length), 1);
  if (topk > MAX_TOPK) {
    throw new FuscoError('E_ROUTING_SHAPE', `a token chose ${topk} experts > ${MAX_TOPK}`, { path });
  }
  return tables.map(({ tokens, origins }, rank) => {
    const ids = new Int32Array(tokens * topk).fill(-1);
    chosen[rank]!.forEach((experts, token) => {
      ids.set(experts, token * topk);
    });
    return { ids, tokens, topk, origins };
  });
}
