// Arrays with one block per rank: routing tables, inputs and weights.
//
//   ROUTING and the like        blocks
//   A.npy [ranks, n, m]         block r is A[r]
//   A.npy [n, m]                routing only: contiguous blocks of nearly equal length
//   A.npz with one array        as .npy
//   A.npz with rank0..rankN-1   member r, [n, m]
//   a directory                 its rank{r}.npy, [n, m]; other files are left alone

import { join } from 'node:path';
import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type DirectorySource, type FileSource, malformed, OpenFile, type Source, wholeOf } from './file.ts';
import { type NdArray, type NdData, parseNpy, shapeText } from './npy.ts';
import { readNpz } from './npz.ts';
import type { RecordedTable } from './origins.ts';
import { isArchive, openSource, sourceOf } from './source.ts';
import { splitTable } from './tables.ts';

/** The contents of a source: one array for all ranks, or one array per rank with the name of its file for errors. */
type Arrays =
  | { readonly kind: 'whole'; readonly array: NdArray; readonly path: string }
  | { readonly kind: 'perRank'; readonly arrays: readonly NdArray[]; readonly paths: readonly string[] };

const RANK_NAME = /^rank([0-9]+)$/;

const NAMES_HINT = 'Files and arrays of ranks must be named rank0, rank1, … without gaps.';

function ranksError(path: string, message: string, hint = NAMES_HINT): FuscoError {
  return new FuscoError('E_RANKS', message, { path, hint });
}

/** Number of ranks behind names rank0..rankN-1, in any order; undefined if no name has this form. */
function countRanks(names: readonly string[], path: string): number | undefined {
  let count = 0;
  let highest = -1;
  for (const name of names) {
    const digits = RANK_NAME.exec(name)?.[1];
    if (digits === undefined) continue;
    const rank = Number(digits);
    if (String(rank) !== digits) throw ranksError(path, `${name} is not named rank${rank}`);
    if (rank >= MAX_RANKS) throw ranksError(path, `${name} exceeds rank${MAX_RANKS - 1}`);
    highest = Math.max(highest, rank);
    count++;
  }
  if (count === 0) return undefined;
  if (highest + 1 !== count) {
    const present = new Set(names);
    let hole = 0;
    while (present.has(`rank${hole}`)) hole++;
    throw ranksError(path, `rank${hole} is missing, the highest is rank${highest}`);
  }
  return count;
}

function directoryArrays({ path, names }: DirectorySource): Arrays {
  const ranks = countRanks(
    names.filter((name) => name.endsWith('.npy')).map((name) => name.slice(0, -4)),
    path,
  );
  if (ranks === undefined) throw ranksError(path, 'the directory holds no rank0.npy, rank1.npy, …');
  const paths = Array.from({ length: ranks }, (_, rank) => join(path, `rank${rank}.npy`));
  const arrays = paths.map((name) => {
    using file = new OpenFile(name);
    return parseNpy(file.whole(), name);
  });
  return { kind: 'perRank', arrays, paths };
}

function archiveArrays({ bytes, path }: FileSource): Arrays {
  const members = readNpz(bytes, path);
  const [first] = members;
  if (first === undefined) malformed(path, 'the archive holds no array');
  const [name, array] = first;
  // A single rank0 of two axes is one rank's block, as in a directory; any other single array is for all ranks.
  if (members.size === 1 && (name !== 'rank0' || array.shape.length === 3)) {
    return { kind: 'whole', array, path: `${path}/${name}.npy` };
  }
  const names = [...members.keys()];
  const ranks = countRanks(names, path);
  if (ranks !== members.size) {
    const other = names.find((candidate) => !RANK_NAME.test(candidate));
    throw ranksError(
      path,
      `${members.size} arrays, ${JSON.stringify(other)} among them, instead of rank0, rank1, …`,
    );
  }
  const paths = Array.from({ length: ranks }, (_, rank) => `${path}/rank${rank}.npy`);
  const arrays = Array.from({ length: ranks }, (_, rank) => members.get(`rank${rank}`)!);
  return { kind: 'perRank', arrays, paths };
}

function arraysOf(source: Source): Arrays {
  return source.kind === 'directory' ? directoryArrays(source) : fileArrays(source);
}

function fileArrays(source: FileSource): Arrays {
  if (isArchive(source)) return archiveArrays(source);
  return { kind: 'whole', array: parseNpy(wholeOf(source), source.path), path: source.path };
}

/** Elements [start, start + shape product) of an array as a separate array: a view, not a copy. */
function viewOf(array: NdArray, start: number, shape: readonly number[]): NdArray {
  const end = start + shape.reduce((product, n) => product * n, 1);
  return { dtype: array.dtype, shape, data: array.data.subarray(start, end) as NdData } as NdArray;
}

/** The blocks of an array along its first axis, as views. */
export function splitFirstAxis(array: NdArray): NdArray[] {
  const [ranks, ...shape] = array.shape as [number, ...number[]];
  const size = shape.reduce((product, n) => product * n, 1);
  return Array.from({ length: ranks }, (_, rank) => viewOf(array, rank * size, shape));
}

/** Throws E_RANKS unless `have` ranks are possible, and those that are wanted. */
export function checkRanks(have: number, wanted: number | undefined, path: string): void {
  if (have < 1 || have > MAX_RANKS) {
    throw ranksError(
      path,
      `${have} ranks are not in 1..${MAX_RANKS}`,
      `A group has 1 to ${MAX_RANKS} ranks.`,
    );
  }
  if (wanted !== undefined && have !== wanted) {
    throw ranksError(
      path,
      `contains ${have} ${have === 1 ? 'rank' : 'ranks'}, not the ${wanted} requested`,
      'Give an array or a file for every rank of the plan, or leave out --ranks.',
    );
  }
}

function toTable(array: NdArray, path: string): RecordedTable {
  if (array.dtype === 'f16' || array.dtype === 'f32' || array.dtype === 'f64') {
    throw new FuscoError('E_ROUTING_DTYPE', `ids are ${array.dtype}, not integers`, { path });
  }
  const [tokens, topk] = array.shape as [number, number];
  return { ids: array.data, tokens, topk, ...(array.declared === 'bool' ? { isBool: true } : {}) };
}

function routingShape(array: NdArray, wanted: string, path: string): FuscoError {
  return new FuscoError('E_ROUTING_SHAPE', `shape ${shapeText(array.shape)} is not ${wanted}`, { path });
}

/**
 * The routing tables of all ranks, as views of what was read.
 *
 * @param path a .npy or .npz file or a directory of rank{r}.npy; integers [ranks, tokens, topk] or [tokens, topk]. The
 *   kind of a file is taken from its first bytes. One array [tokens, topk] is split into `ranks` contiguous blocks;
 *   the first tokens % ranks of them have one token more
 * @param ranks 1..4096; default: the first axis, or the number of files
 * @throws FuscoError E_RANKS, E_ROUTING_SHAPE, E_ROUTING_DTYPE, E_OPTION, E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT,
 *   E_MEMORY
 */
export async function readRouting(path: string, ranks?: number): Promise<RoutingTable[]> {
  using source = openSource(path);
  return routingOf(source, ranks);
}

/** As readRouting, from a source that is open already. */
export function routingOf(source: Source, ranks?: number): RecordedTable[] {
  return toTables(arraysOf(source), source.path, ranks);
}

/** A file's bytes under its name. */
export interface NamedBytes {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * As readRouting, from bytes that are in memory already: one .npy or .npz, or several files rank{r}.npy, in any
 * order, as a directory would hold them. Runs in a browser.
 *
 * @throws FuscoError E_RANKS, E_ROUTING_SHAPE, E_ROUTING_DTYPE, E_OPTION, E_FORMAT, E_MEMORY
 */
export function parseRouting(files: readonly NamedBytes[], ranks?: number): RoutingTable[] {
  const [first] = files;
  if (first === undefined) throw ranksError('', 'no file');
  if (files.length === 1) return toTables(fileArrays(sourceOf(first.bytes, first.name)), first.name, ranks);
  const byName = new Map(files.map((file) => [file.name.replace(/\.npy$/, ''), file]));
  const found = countRanks([...byName.keys()], first.name);
  if (found !== files.length) {
    throw ranksError(first.name, `${files.length} files that are not all rank0.npy, rank1.npy, …`);
  }
  const sorted = Array.from({ length: found }, (_, rank) => byName.get(`rank${rank}`)!);
  const arrays = sorted.map(({ bytes, name }) => parseNpy(bytes, name));
  return toTables({ kind: 'perRank', arrays, paths: sorted.map(({ name }) => name) }, first.name, ranks);
}

const SPLIT_HINT = 'Give --ranks N to split the tokens into N blocks.';

/** Splits a table that does not state how many ranks share its tokens. Throws E_RANKS, E_OPTION. */
export function splitBetween(table: RoutingTable, path: string, ranks: number | undefined): RoutingTable[] {
  if (ranks === undefined) {
    const shape = shapeText([table.tokens, table.topk]);
    throw ranksError(
      path,
      `shape ${shape} does not say how many ranks share its tokens; give --ranks`,
      SPLIT_HINT,
    );
  }
  checkInteger('ranks', ranks, 1, MAX_RANKS);
  return splitTable(table, ranks);
}

/** Checks the ranks and the shapes, and views every rank's block. */
function toTables(source: Arrays, path: string, ranks: number | undefined): RecordedTable[] {
  if (ranks !== undefined) checkInteger('ranks', ranks, 1, MAX_RANKS);
  if (source.kind === 'perRank') {
    const { arrays, paths } = source;
    checkRanks(arrays.length, ranks, path);
    return arrays.map((array, rank) => {
      if (array.shape.length !== 2) throw routingShape(array, '(tokens, topk)', paths[rank]!);
      return toTable(array, paths[rank]!);
    });
  }
  const { array } = source;
  if (array.shape.length === 3) {
    checkRanks(array.shape[0]!, ranks, source.path);
    return splitFirstAxis(array).map((block) => toTable(block, source.path));
  }
  if (array.shape.length !== 2) {
    throw routingShape(array, '(ranks, tokens, topk) or (tokens, topk)', source.path);
  }
  return splitBetween(toTable(array, source.path), source.path, ranks);
}

/** Throws E_SHAPE unless all ranks have [rows, columns] with rank 0's dtype and columns. */
function checkBlocks(arrays: readonly NdArray[], paths: readonly string[], what: string): void {
  const first = arrays[0]!;
  for (const [rank, { dtype, shape }] of arrays.entries()) {
    const path = paths[rank]!;
    if (shape.length !== 2) {
      throw new FuscoError(
        'E_SHAPE',
        `${what} of rank ${rank}: shape ${shapeText(shape)} does not have two axes`,
        {
          path,
          rank,
        },
      );
    }
    if (dtype !== first.dtype || shape[1] !== first.shape[1]) {
      const found = `${dtype} ${shapeText(shape)}`;
      const wanted = `${first.dtype} ${shapeText(first.shape)}`;
      throw new FuscoError(
        'E_SHAPE',
        `${what} of rank ${rank}: ${found} has another dtype or last axis than rank 0's ${wanted}`,
        { path, rank },
      );
    }
  }
}

/** An array [rows, columns] in blocks of `rows` rows. Throws E_SHAPE unless they add up to it. */
export function splitRows(array: NdArray, rows: readonly number[], what: string, path: string): NdArray[] {
  const [total, columns] = array.shape as [number, number];
  const wanted = rows.reduce((sum, count) => sum + count, 0);
  if (total !== wanted) {
    const text = `${what}: shape ${shapeText(array.shape)} has ${total} rows, the ranks have ${wanted} tokens`;
    throw new FuscoError('E_SHAPE', text, {
      path,
      value: total,
      limit: wanted,
      hint: `Give all ${wanted} rows in one array, rank after rank, or one array per rank.`,
    });
  }
  let start = 0;
  return rows.map((count) => {
    const block = viewOf(array, start * columns, [count, columns]);
    start += count;
    return block;
  });
}

/**
 * One array [rows, columns] per rank, all of one dtype and one number of columns, as views of what was read.
 *
 * @param path a .npy file [ranks, rows, columns], a directory of rank{r}.npy [rows, columns], or a .npz of either; or
 *   [rows, columns] with the rows of all ranks, rank after rank, as `fusco plan` splits a routing [tokens, topk]
 * @param tokens rows of each rank of the plan
 * @param what names the arrays in errors: 'input', 'weights'
 * @throws FuscoError E_RANKS, E_SHAPE, E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT, E_MEMORY
 */
export async function readPerRank(path: string, tokens: readonly number[], what: string): Promise<NdArray[]> {
  using opened = openSource(path);
  const source = arraysOf(opened);
  const { length: ranks } = tokens;
  if (source.kind === 'perRank') {
    checkRanks(source.arrays.length, ranks, path);
    checkBlocks(source.arrays, source.paths, what);
    return [...source.arrays];
  }
  const { array } = source;
  if (array.shape.length === 2) return splitRows(array, tokens, what, source.path);
  if (array.shape.length !== 3) {
    const text = `${what}: shape ${shapeText(array.shape)} is neither (ranks, tokens, columns) nor (tokens, columns)`;
    throw new FuscoError('E_SHAPE', text, { path: source.path });
  }
  checkRanks(array.shape[0]!, ranks, source.path);
  return splitFirstAxis(array);
}
