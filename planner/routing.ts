import { FuscoError } from './errors.ts';
import { MAX_ROWS, MAX_TOPK } from './format/layout.ts';
import { type PlanOptions, type PlanSpec, resolveOptions } from './spec.ts';

/** Typed arrays that hold expert ids. */
export type IdArray =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/** One rank's routing: which experts each of its tokens chose. */
export interface RoutingTable {
  /**
   * [tokens, topk], row by row: `ids[token * topk + k]` is the k-th expert of a token, in [0, experts), or -1 for none. A
   * token chooses an expert at most once. Any integer type; the memory is only read.
   */
  readonly ids: IdArray;
  /** Tokens of this rank; 0 is allowed, and ranks may have different numbers. */
  readonly tokens: number;
  /** Experts per token, 1..256; the same on all ranks. */
  readonly topk: number;
}

/** One rank's routing after validation: where its entries go, and the counts that the other ranks need. */
export interface RoutedRank {
  readonly rank: number;
  readonly tokens: number;
  /**
   * u16[tokens, topk]: destination instance, or `instances` if masked. Under the replica rule `quota-1`, which needs the
   * facts to choose an instance: the expert, or `experts` if masked.
   */
  readonly targets: Uint16Array;
  /** u32[countsPerRank]: entries of each target, this rank's contribution to the facts. */
  readonly counts: Uint32Array;
  readonly masked: number;
  /** u32[nodes], rows per node; if they follow from this routing alone: not for a flat strategy, a capacity or quotas. */
  readonly nodeRows?: Uint32Array;
  /** u32[ranks], rows per rank; likewise, if `auto` may choose once per rank. */
  readonly rankRows?: Uint32Array;
}

/** Types of ids; the planner's Wasm identifies them by their index in this list. */
const ID_ARRAYS: readonly (new (buffer: ArrayBuffer) => IdArray)[] = [
  Int8Array,
  Uint8Array,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  BigInt64Array,
  BigUint64Array,
];
const ID_TYPES = new Map(ID_ARRAYS.map(({ name }, type) => [name, type]));

/** The number of the id type in the Wasm interface; throws E_ROUTING_DTYPE unless ids are integers. */
export function idType(ids: IdArray, rank: number): number {
  const name = Object.prototype.toString.call(ids).slice(8, -1);
  const type = ID_TYPES.get(name);
  if (type === undefined) {
    throw new FuscoError('E_ROUTING_DTYPE', `rank ${rank}: ids are ${name}, not integers`, { rank });
  }
  return type;
}

/** A copy of the ids, also for a Buffer, whose slice() would be a view. Throws E_ROUTING_DTYPE. */
export function copyIds(ids: IdArray, rank: number): IdArray {
  const Ids = ID_ARRAYS[idType(ids, rank)]!;
  const bytes = new Uint8Array(ids.byteLength);
  bytes.set(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
  return new Ids(bytes.buffer);
}

/** Throws E_ROUTING_SHAPE unless the table's sizes agree with its ids and with `topk`. */
export function checkTable(table: RoutingTable, rank: number, topk: number): void {
  idType(table.ids, rank);
  const { tokens, ids } = table;
  const refuse = (text: string): never => {
    throw new FuscoError('E_ROUTING_SHAPE', `rank ${rank}: ${text}`, { rank });
  };
  if (!Number.isInteger(table.topk) || table.topk < 1 || table.topk > MAX_TOPK) {
    refuse(`topk ${table.topk} is not in 1..${MAX_TOPK}`);
  }
  if (table.topk !== topk) refuse(`topk ${table.topk} differs from rank 0's topk ${topk}`);
  if (!Number.isInteger(tokens) || tokens < 0 || tokens * topk > MAX_ROWS) {
    const text = `rank ${rank}: ${tokens} tokens x topk ${topk} is outside 0..${MAX_ROWS} entries`;
    throw new FuscoError('E_LIMIT', text, { rank, limit: MAX_ROWS });
  }
  if (ids.length !== tokens * topk) refuse(`${ids.length} ids for ${tokens} tokens x topk ${topk}`);
}

/** The options of a plan of these tables with every default filled in. Throws E_RANKS, E_ROUTING_*, E_OPTION, E_PLACEMENT. */
export function specOfGroup(tables: readonly RoutingTable[], options: PlanOptions): PlanSpec {
  const first = tables[0];
  if (first === undefined || tables.length !== options.ranks) {
    throw new FuscoError('E_RANKS', `routing of ${tables.length} ranks for a plan of ${options.ranks}`, {
      value: tables.length,
      limit: options.ranks,
    });
  }
  checkTable(first, 0, first.topk);
  return resolveOptions(options, first.topk);
}
