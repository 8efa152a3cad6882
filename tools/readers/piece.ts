// The parts of a recording: pieces of ids, where they belong, and what becomes of them.

import type { RecordedTable } from './origins.ts';

/** What a file holds: one table per rank, or one batch that does not say which rank had which tokens. */
export type Recorded =
  | {
      readonly kind: 'ranks';
      readonly tables: readonly RecordedTable[];
      /** Whether the file states how many ranks there are; else the choice of ranks has been made. */
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
  /** Undefined where the file does not say which rank recorded it. */
  readonly rank: number | undefined;
}

/** What one rank has recorded, whatever was asked for. */
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
