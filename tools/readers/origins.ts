// The origin of the tokens of a table: file, line, request and layer. The planner knows only ranks and tokens; this
// module adds the place in the file and the likely cause to its errors about ids.

import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';

/** Consecutive tokens of a table that come from one place of one file. */
export interface Origin {
  readonly path: string;
  /** Place inside the file, for example `line 2, choice 0`; empty for a whole file. */
  readonly where: string;
  /** Number of the first of these tokens there. */
  readonly first: number;
  readonly tokens: number;
}

/** A table that knows where its tokens come from. */
export interface RecordedTable extends RoutingTable {
  readonly origins?: readonly Origin[] | undefined;
  /** Whether the ids come from booleans, which only a map of experts has. */
  readonly isBool?: boolean | undefined;
}

/** The origins of the tokens [begin, begin + count). */
export function sliceOrigins(
  origins: readonly Origin[] | undefined,
  begin: number,
  count: number,
): readonly Origin[] | undefined {
  if (origins === undefined) return undefined;
  const found: Origin[] = [];
  let at = 0;
  for (const { path, where, first, tokens } of origins) {
    const from = Math.max(begin, at);
    const to = Math.min(begin + count, at + tokens);
    if (from < to) found.push({ path, where, first: first + from - at, tokens: to - from });
    at += tokens;
  }
  return found;
}

/** The place of a token and its number there. */
function findOrigin(
  { origins = [] }: RecordedTable,
  token: number,
): { origin: Origin; token: number } | undefined {
  let at = 0;
  for (const origin of origins) {
    if (token < at + origin.tokens) return { origin, token: origin.first + token - at };
    at += origin.tokens;
  }
  return undefined;
}

/** Whether all ids [start, end) of a row, two or more, are one id; columns of -1 are unused. */
export function isRepeatedRow(ids: ArrayLike<number | bigint>, start: number, end: number): boolean {
  let first: number | undefined;
  let used = 0;
  for (let at = start; at < end; at++) {
    const id = Number(ids[at]);
    if (id === -1) continue;
    first ??= id;
    if (id !== first) return false;
    used++;
  }
  return used > 1;
}

/** Values that -1 becomes in unsigned integers. */
const UNSIGNED_NONE = new Set([0xff, 0xffff, 0xffffffff, Number(2n ** 64n - 1n)]);

/** Why an id is not an expert, and what to do. */
function idHint(id: number, experts: number): string {
  const mask = `--mask-ids ${id} masks it`;
  if (UNSIGNED_NONE.has(id)) return `${id} is -1 in an unsigned integer: ${mask}.`;
  if (id === experts) return `Some recorders write the number of experts for "no expert": ${mask}.`;
  if (id < -1) return `Only -1 means no expert: ${mask.replace('ids ', 'ids=')}.`;
  return (
    `Ids from ${experts} on may be zero-computation experts (--mask-ids ${experts}..LAST masks them), ` +
    'physical experts, or of a model with more experts: check --experts.'
  );
}

/** Why a token chose an expert twice, and what to do. */
function duplicateHint(row: readonly number[], experts: number): string {
  if (isRepeatedRow(row, 0, row.length)) {
    return 'Recorders leave one repeated id in rows that they did not record: --mask-repeated-rows masks such rows.';
  }
  if (row.every((id) => id === 0 || id === 1) && row.length > 2) {
    return `Rows of 0 and 1 may be a map of experts: with ${experts} columns, --multi-hot reads it.`;
  }
  return 'A token may choose an expert once: check how the axes are read (--axes), or mask the second choice with -1.';
}

/**
 * Adds the place in the file, the row and the likely cause to an error about a routing; returns any other error
 * unchanged.
 *
 * @param error the error that the planner threw for `tables`
 */
function explainEntry(error: unknown, tables: readonly RecordedTable[], experts: number): unknown {
  if (!(error instanceof FuscoError)) return error;
  const { rank, token, value } = error.details;
  const isDuplicate = error.code === 'E_ROUTING_DUPLICATE';
  if (!isDuplicate && error.code !== 'E_ROUTING_ID') return error;
  const table = rank === undefined ? undefined : tables[rank];
  if (table === undefined || token === undefined) return error;
  const { ids, topk } = table;
  const row = Array.from(
    ids.subarray(token * topk, (token + 1) * topk) as ArrayLike<number | bigint>,
    Number,
  );
  const shown = `ids ${row.slice(0, 8).join(', ')}${topk > 8 ? ', …' : ''}`;
  const place = findOrigin(table, token);
  const where = place === undefined ? [] : [place.origin.where, `token ${place.token}`];
  const text = [...where.filter((part) => part !== ''), shown].join(', ');
  return new FuscoError(error.code, `${text}: ${error.message}`, {
    ...error.details,
    ...(place === undefined ? {} : { path: place.origin.path }),
    hint: isDuplicate ? duplicateHint(row, experts) : idHint(Number(value), experts),
    cause: error,
  });
}

/** Runs a step that plans or counts `tables`, and explains its errors. */
export async function explaining<T>(
  tables: readonly RecordedTable[],
  experts: number,
  step: () => T | Promise<T>,
): Promise<T> {
  try {
    return await step();
  } catch (error) {
    throw explainEntry(error, tables, experts);
  }
}
