// The parts of a recording: pieces of ids, where they belong, and the tables that they form.

import type { RecordedTable } from './origins.ts';

/** The contents of a file: one table per rank, or one batch that does not state which rank had which tokens. */
export type Recorded =
  | {
      readonly kind: 'ranks';
      readonly tables: readonly RecordedTable[];
      /** Whether the file states the number of ranks; otherwise the ranks were chosen by the caller. */
      readonly isStated: boolean;
    }
  | { readonly kind: 'batch'; readonly table: RecordedTable };

/** Ids of one piece, row by row. */
export interface Piece {
  readonly ids: ArrayLike<number | bigint>;
  readonly tokens: number;
  readonly topk: number;
  /** Whether the ids come from booleans, which only a map of experts has. */
  readonly isBool?: boolean | undefined;
}

/** Where a piece belongs. */
export interface Place {
  readonly step: number;
  readonly layer: number;
  /** Undefined if the file does not state which rank recorded it. */
  readonly rank: number | undefined;
}

/** What one rank has recorded, independent of the request. */
export interface SeenRank {
  readonly layers: Set<number>;
  /** Whether the end of its file is missing. */
  isCut: boolean;
}

/** Numbers as a list of at most a few: `3, 4, 5, … 61`. */
export function listed(values: Iterable<number>): string {
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length <= 8) return sorted.join(', ');
  return `${sorted.slice(0, 6).join(', ')}, … ${sorted.at(-1)}`;
}
