// Writes files that are complete or absent: they are written under a temporary name in the same directory, synced and
// renamed.

import { randomBytes } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { type FileHandle, mkdir, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import { errnoOf, ioReason } from '../readers/file.ts';

/** The contents of a file, in order; large files consist of several chunks. */
export type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** One write call takes at most 2 GiB - 1; smaller pieces keep the process responsive to signals. */
const WRITE_BYTES = 1 << 26;

/** Exit codes of a process that a signal ends: 128 and its number. */
export const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;
export type EndSignal = keyof typeof EXIT_CODES;
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** Temporaries of the writes in flight; the signal handlers are installed while there are any. */
const inFlight = new Set<string>();

function onSignal(signal: EndSignal): void {
  for (const temporary of inFlight) {
    try {
      unlinkSync(temporary);
    } catch {
      // Not yet created, or already renamed; the process ends in both cases.
    }
  }
  process.exit(EXIT_CODES[signal]);
}

function beginWrite(temporary: string): void {
  if (inFlight.size === 0) for (const signal of SIGNALS) process.on(signal, onSignal);
  inFlight.add(temporary);
}

function endWrite(temporary: string): void {
  inFlight.delete(temporary);
  if (inFlight.size === 0) for (const signal of SIGNALS) process.off(signal, onSignal);
}

/** E_FILE_WRITE with a one-line reason; an error that is not from a system call is returned unchanged. */
function writeError(path: string, cause: unknown): unknown {
  const errno = errnoOf(cause);
  if (errno === undefined) return cause;
  const reason = errno === 'ENOENT' ? 'no such directory' : ioReason(errno);
  return new FuscoError('E_FILE_WRITE', reason, { path, cause });
}

async function writeChunks(file: FileHandle, chunks: Chunks): Promise<void> {
  for await (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      at += (await file.write(chunk, at, Math.min(WRITE_BYTES, chunk.length - at))).bytesWritten;
    }
  }
}

async function writeAndRename(target: string, chunks: Chunks): Promise<void> {
  // Its length does not depend on that of the target, which may be the longest that the file system allows.
  const temporary = join(dirname(target), `.fusco-${randomBytes(8).toString('hex')}.tmp`);
  beginWrite(temporary);
  try {
    const file = await open(temporary, 'wx');
    try {
      await writeChunks(file, chunks);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  } finally {
    endWrite(temporary);
  }
}

/** Devices and pipes cannot be left half written, and a rename would replace them by a file. */
async function writeThrough(target: string, chunks: Chunks): Promise<void> {
  const file = await open(target, 'w');
  try {
    await writeChunks(file, chunks);
  } finally {
    await file.close();
  }
}

/** The file to which a path leads through symbolic links, and whether it exists. */
async function findTarget(path: string): Promise<{ target: string; kind: 'absent' | 'file' | 'other' }> {
  try {
    const target = await realpath(path);
    const found = await stat(target);
    if (found.isDirectory()) throw new FuscoError('E_FILE_WRITE', ioReason('EISDIR'), { path });
    return { target, kind: found.isFile() ? 'file' : 'other' };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { target: path, kind: 'absent' };
    throw error;
  }
}

/**
 * Writes a file so that `path` holds its old contents or all of the new ones, never a part. The directory of `path` must
 * exist. A symbolic link keeps its target; a device or pipe is written directly. On SIGINT or SIGTERM the temporary is
 * removed and the process exits with 130 or 143.
 *
 * @throws FuscoError E_FILE_WRITE with a one-line reason; errors of `chunks` are rethrown, unless a system call failed
 */
export async function writeFileAtomic(path: string, chunks: Chunks): Promise<void> {
  try {
    const { target, kind } = await findTarget(path);
    await (kind === 'other' ? writeThrough(target, chunks) : writeAndRename(target, chunks));
  } catch (error) {
    throw writeError(path, error);
  }
}

/** A directory of `--out`: created with its parents; each file in it is written atomically. */
export class OutputDirectory {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** Creates the directory unless it exists. Throws E_FILE_WRITE with a one-line reason. */
  static async create(path: string): Promise<OutputDirectory> {
    try {
      await mkdir(path, { recursive: true });
    } catch (cause) {
      if (errnoOf(cause) !== 'EEXIST') throw writeError(path, cause);
      throw new FuscoError('E_FILE_WRITE', 'a file with this name already exists', { path, cause });
    }
    return new OutputDirectory(path);
  }

  /** Writes one file by its plain name and gives its path. Throws E_FILE_WRITE. */
  async write(name: string, chunks: Chunks): Promise<string> {
    if (name !== basename(name) || name === '' || name === '.' || name === '..') {
      throw new FuscoError('E_FILE_WRITE', `${JSON.stringify(name)} is not a plain file name`, {
        path: this.path,
      });
    }
    const path = join(this.path, name);
    await writeFileAtomic(path, chunks);
    return path;
  }
}

/** Writes a file as writeFileAtomic does, or to standard output if the path is `-`. */
export async function writeOutput(path: string, chunks: Chunks): Promise<void> {
  await (path === '-' ? writeStdout(chunks) : writeFileAtomic(path, chunks));
}

/** Writes bytes to standard output, one chunk after the other. */
async function writeStdout(chunks: Chunks): Promise<void> {
  for await (const chunk of chunks) {
    if (process.stdout.write(chunk)) continue;
    await new Promise((resolve) => process.stdout.once('drain', resolve));
  }
}
