// Arrays of rows, one per rank, in any of these files. Each array is read when it is requested, so that those of one rank
// are in memory at a time.
//
//   a directory      rank{r}.npy, .pt or .safetensors, of one array each; rank{r}.PART.npy if PART is given
//   .npz, .pt,       arrays rank0, rank1, … (rank0.PART), or the items of a list; or one array as below
//   .safetensors
//   .npy             [ranks, …, columns]; [rows, columns] with the rows of all ranks if their numbers are known

import { join } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import { type NamedArray, namedArrays } from './arrays.ts';
import { type DirectorySource, type FileSource, refuse, wholeOf } from './file.ts';
import { type NdArray, parseNpy, shapeText } from './npy.ts';
import { MAX_MEMBERS } from './npz.ts';
import { checkRanks, splitFirstAxis, splitRows } from './numpyRouting.ts';
import { readSafetensors } from './safetensors.ts';
import { openFile, openSource } from './source.ts';
import { readTorch } from './torch.ts';
import { tensorsOf } from './torchArrays.ts';
import { MAX_TOTAL_BYTES, ZipArchive } from './zip.ts';

/** What is known about the arrays before they are read. */
export interface RankArraysContext {
  /** Names the arrays in errors: `input`, `received`. */
  readonly what: string;
  /** Ranks of the plan. */
  readonly ranks: number;
  /** What may stand between the rank and the end of a name: `rank0.recv.npy`. */
  readonly part?: string;
  /** Rows of each rank, if they are known: then one array may contain the rows of all ranks. */
  readonly rows?: readonly number[];
}

/** Arrays [rows, columns] of all ranks. */
export interface RankArrays extends Disposable {
  /** One rank's array; axes in front of the last one are joined. Throws E_SHAPE, E_FORMAT, E_FOREIGN, E_MEMORY. */
  read(rank: number): NdArray;
}

/** [rows, columns]; an array of one axis is a column. */
function flattened(array: NdArray, rank: number, { what }: RankArraysContext, path: string): NdArray {
  const { shape } = array;
  if (shape.length < 2) {
    throw new FuscoError('E_SHAPE', `${what} of rank ${rank}: shape ${shapeText(shape)} has no two axes`, {
      path,
      rank,
    });
  }
  const rows = shape.slice(0, -1).reduce((product, n) => product * n, 1);
  return { ...array, shape: [rows, shape.at(-1)!] };
}

/** The arrays of a file, of which a .npz and a .pt read only the requested ones. */
function arraysOf(file: FileSource): NamedArray[] {
  const { path, bytes, kind } = file;
  if (kind === 'torch') return tensorsOf(readTorch(bytes, path), path);
  if (kind === 'safetensors') return namedArrays(readSafetensors(wholeOf(file), path));
  if (kind !== 'npz') return namedArrays(new Map([['', parseNpy(wholeOf(file), path)]]));
  const zip = new ZipArchive(bytes, path, {
    maxMembers: MAX_MEMBERS,
    maxTotalBytes: MAX_TOTAL_BYTES,
    nameOf: (name) => name.replace(/\.npy$/, ''),
  });
  return zip.names.map((name) => ({
    name,
    dtype: 'u8',
    shape: [],
    read: () => parseNpy(zip.read(name)!, `${path}/${name}.npy`),
  }));
}

/** The rank in a name; undefined for any other name. */
function rankOf(name: string, { part }: RankArraysContext): number | undefined {
  const [, digits, found] = /^(?:rank)?([0-9]{1,4})(?:\.([a-z_]+))?$/.exec(name) ?? [];
  return digits !== undefined && (found === undefined || found === part) ? Number(digits) : undefined;
}

/** The items of each rank. Throws E_RANKS for a rank without one. */
function byRank<T>(items: readonly (readonly [string, T])[], context: RankArraysContext, path: string): T[] {
  const found = new Map<number, T>();
  for (const [name, item] of items) {
    const rank = rankOf(name, context);
    // A name with the part is more specific than one without.
    if (rank !== undefined && (!found.has(rank) || name.includes('.'))) found.set(rank, item);
  }
  if (found.size === 0) {
    const part = context.part === undefined ? '' : `, or rank0.${context.part}`;
    throw new FuscoError('E_RANKS', `contains no ${context.what} named rank0, rank1, …${part}`, { path });
  }
  checkRanks(Math.max(...found.keys()) + 1, context.ranks, path);
  return Array.from({ length: context.ranks }, (_, rank) => {
    const item = found.get(rank);
    if (item !== undefined) return item;
    throw new FuscoError('E_RANKS', `${context.what} of rank ${rank} is missing`, { path, rank });
  });
}

/** One array for all ranks, in blocks. */
function blocksOf(array: NdArray, context: RankArraysContext, path: string): NdArray[] {
  const { what, ranks, rows } = context;
  if (array.shape.length === 2 && rows !== undefined) return splitRows(array, rows, what, path);
  if (array.shape.length === 2 && ranks === 1) return [array];
  if (array.shape.length < 3) {
    throw new FuscoError('E_SHAPE', `${what}: shape ${shapeText(array.shape)} has no axis of ranks`, {
      path,
      hint: 'Give [ranks, rows, columns], or one array per rank named rank0, rank1, ….',
    });
  }
  checkRanks(array.shape[0]!, ranks, path);
  return splitFirstAxis(array);
}

function inFile(file: FileSource & Disposable, context: RankArraysContext): RankArrays {
  const { path } = file;
  const arrays = arraysOf(file);
  const close = { [Symbol.dispose]: () => file[Symbol.dispose]() };
  const [first] = arrays;
  if (first === undefined) refuse(path, 'it contains no arrays');
  if (arrays.length === 1 && (context.ranks === 1 || rankOf(first.name, context) === undefined)) {
    const array = first.read();
    const isRanks = context.ranks === 1 && rankOf(first.name, context) === 0;
    const blocks = isRanks ? [array] : blocksOf(array, context, path);
    return { read: (rank) => flattened(blocks[rank]!, rank, context, path), ...close };
  }
  const each = byRank(
    arrays.map((array) => [array.name, array] as const),
    context,
    path,
  );
  return { read: (rank) => flattened(each[rank]!.read(), rank, context, path), ...close };
}

const FILE = /^(.+)\.(npy|npz|pt|safetensors)$/;

function inDirectory({ path, names }: DirectorySource, context: RankArraysContext): RankArrays {
  const files = names.flatMap((name) => {
    const stem = FILE.exec(name)?.[1];
    return stem === undefined ? [] : [[stem, name] as const];
  });
  const each = byRank(files, context, path);
  const read = (rank: number): NdArray => {
    const name = join(path, each[rank]!);
    using file = openFile(name);
    const [only, ...more] = arraysOf(file);
    if (only === undefined || more.length > 0)
      return refuse(name, 'the file of one rank must contain exactly one array');
    return flattened(only.read(), rank, context, name);
  };
  return { read, [Symbol.dispose]: () => {} };
}

/**
 * Opens the arrays of all ranks. Dispose of them after the last read.
 *
 * @throws FuscoError E_RANKS, E_SHAPE, E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT, E_FOREIGN, E_MEMORY
 */
export function openRankArrays(path: string, context: RankArraysContext): RankArrays {
  const source = openSource(path);
  if (source.kind === 'directory') return inDirectory(source, context);
  try {
    return inFile({ ...source, [Symbol.dispose]: () => source[Symbol.dispose]() }, context);
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
}
