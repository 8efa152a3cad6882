// The contents of a path, determined once: a directory, or a file whose kind is recognized by its first bytes and by the
// names in its archive, never by its extension.

import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Bytes,
  type DirectorySource,
  type FileKind,
  type FileSource,
  OpenFile,
  readError,
  readStdin,
  type Source,
} from './file.ts';
import { gunzip, isGzip } from './gzip.ts';
import { isSafetensors } from './safetensors.ts';
import { isTorchArchive, openTorch } from './torch.ts';
import { isZip } from './zip.ts';

const HEAD_BYTES = 64;

function kindOf(bytes: Bytes, path: string): FileKind {
  const head = bytes.subarray(0, Math.min(HEAD_BYTES, bytes.length));
  if (head[0] === 0x93) return 'npy';
  if (isZip(head)) {
    const { names } = openTorch(bytes, path);
    return isTorchArchive(names) ? 'torch' : 'npz';
  }
  if (isSafetensors(head)) return 'safetensors';
  if (head[0] === 0x80 && head[1]! >= 2 && head[1]! <= 5) return 'pickle';
  return /^\uFEFF?\s*[{[]/.test(new TextDecoder().decode(head)) ? 'json' : 'unknown';
}

/** True for a file that is a zip archive with any contents. */
export function isArchive({ kind }: Source): boolean {
  return kind === 'npz' || kind === 'torch';
}

/** Bytes that are in memory as a source. Runs in a browser. Throws E_FORMAT for a damaged archive. */
export function sourceOf(bytes: Bytes, path: string): FileSource {
  return { kind: kindOf(bytes, path), path, bytes };
}

/**
 * Opens a regular file, and unpacks it if it is compressed with gzip. Dispose of it after the last read.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, and E_FORMAT for a damaged archive
 */
export function openFile(path: string): FileSource & Disposable {
  const file = new OpenFile(path);
  try {
    const isPacked = file.length >= 3 && isGzip(file.subarray(0, 3));
    // Decompressed contents are completely in memory.
    const bytes = isPacked ? gunzip(file.whole(), path) : file;
    return { ...sourceOf(bytes, path), [Symbol.dispose]: () => file[Symbol.dispose]() };
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

/** Opens a directory, a regular file, or standard input for `-`; throws what openFile throws. */
export function openSource(path: string): Source & Disposable {
  const piped = readStdin(path);
  if (piped !== undefined) {
    const bytes = isGzip(piped) ? gunzip(piped, path) : piped;
    return { ...sourceOf(bytes, path), [Symbol.dispose]: () => {} };
  }
  let names: string[];
  try {
    if (!statSync(path).isDirectory()) return openFile(path);
    names = readdirSync(path).sort();
  } catch (error) {
    throw readError(path, error);
  }
  return { kind: 'directory', path, names, [Symbol.dispose]: () => {} };
}

/** The files of a directory whose names match, one open at a time. */
export function* openMatching({ path, names }: DirectorySource, wanted: RegExp): Generator<FileSource> {
  for (const name of names) {
    if (!wanted.test(name)) continue;
    using file = openFile(join(path, name));
    yield file;
  }
}
