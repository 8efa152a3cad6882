// Files as readers see them: opened once, read by ranges, and refused with one line.

import { constants } from 'node:buffer';
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { FuscoError } from '../../planner/errors.ts';

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EDQUOT: 'disk quota exceeded',
  EISDIR: 'is a directory',
  ELOOP: 'too many symbolic links',
  EMFILE: 'too many open files',
  ENAMETOOLONG: 'file name too long',
  ENFILE: 'too many open files',
  ENOSPC: 'no space left on the device',
  ENOTDIR: 'a part of the path is not a directory',
  EPERM: 'permission denied',
  EROFS: 'read-only file system',
};

/** The errno code of a failed system call, or undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** The meaning of an errno code, on one line. */
export function ioReason(errno: string): string {
  return REASONS[errno] ?? errno;
}

/**
 * E_FILE_NOT_FOUND or E_FILE_READ with a one-line reason; an error that is not from a system call is returned unchanged.
 */
export function readError(path: string, cause: unknown): unknown {
  const errno = errnoOf(cause);
  if (errno === undefined) return cause;
  if (errno === 'ENOENT') {
    return new FuscoError('E_FILE_NOT_FOUND', 'no such file or directory', { path, cause });
  }
  return new FuscoError('E_FILE_READ', ioReason(errno), { path, cause });
}

/** What to do with a file that only counts how often experts were chosen. */
export const COUNTS_HINT = 'draw a routing from it with `fusco workload --from-counts`, or record per token';

/** Throws E_FOREIGN: a file of another program is damaged, or contains something that its reader does not support. */
export function refuse(path: string, text: string, cause?: unknown): never {
  throw new FuscoError('E_FOREIGN', text, { path, ...(cause === undefined ? {} : { cause }) });
}

/** Throws E_FORMAT: a file is damaged, or does not have the expected format. */
export function malformed(path: string, text: string, hint?: string): never {
  throw new FuscoError('E_FORMAT', text, { path, ...(hint === undefined ? {} : { hint }) });
}

/** A zeroed array of `bytes` bytes; throws E_MEMORY if the machine or the JavaScript engine has no room for it. */
export function allocate(bytes: number, path: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    throw new FuscoError('E_MEMORY', `no memory for ${bytes} bytes`, {
      path,
      value: bytes,
      cause,
      hint: 'Read a smaller file, one per rank, or use a machine with more memory.',
    });
  }
}

/** Bytes that are read by ranges: a Uint8Array, or a file of which only the requested ranges are read. */
export interface Bytes {
  readonly length: number;
  /** The bytes [begin, end); both must lie within the length. Valid as long as the caller holds them. */
  subarray(begin: number, end: number): Uint8Array;
  /** All bytes in one buffer; a Uint8Array is returned as it is. */
  whole?(): Uint8Array;
}

/** One read call takes at most 2 GiB - 1. */
const READ_BYTES = 1 << 28;
/** Small reads are served from a window of the file, because the fields of a zip directory have only a few bytes each. */
const WINDOW_BYTES = 1 << 16;

/** A regular file that is opened once and read by ranges. Reads block. */
export class OpenFile implements Bytes {
  readonly path: string;
  readonly length: number;
  readonly #fd: number;
  #window = new Uint8Array(0);
  #windowAt = 0;

  /** @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ for anything but a regular file */
  constructor(path: string) {
    this.path = path;
    try {
      this.#fd = openSync(path, 'r');
    } catch (error) {
      throw readError(path, error);
    }
    const stat = fstatSync(this.#fd);
    this.length = stat.size;
    if (stat.isFile()) return;
    closeSync(this.#fd);
    throw new FuscoError('E_FILE_READ', 'is not a regular file', { path });
  }

  /** Fills `into` from byte `at`. Throws E_FILE_READ if the file ends before. */
  readInto(at: number, into: Uint8Array): void {
    const { path } = this;
    try {
      for (let done = 0; done < into.length; ) {
        const read = readSync(this.#fd, into, done, Math.min(READ_BYTES, into.length - done), at + done);
        if (read === 0) throw new FuscoError('E_FILE_READ', 'became shorter while it was read', { path });
        done += read;
      }
    } catch (error) {
      throw readError(path, error);
    }
  }

  /**
   * The bytes [begin, end). Ranges larger than a window are returned in a separate buffer, from its offset 0.
   *
   * @throws FuscoError E_FILE_READ, E_MEMORY
   */
  subarray(begin: number, end: number): Uint8Array<ArrayBuffer> {
    if (end - begin > WINDOW_BYTES) {
      const bytes = allocate(end - begin, this.path);
      this.readInto(begin, bytes);
      return bytes;
    }
    if (begin < this.#windowAt || end > this.#windowAt + this.#window.length) {
      this.#windowAt = begin - (begin % WINDOW_BYTES);
      // A new window each time, because callers may still use parts of the last one.
      this.#window = new Uint8Array(Math.min(2 * WINDOW_BYTES, this.length - this.#windowAt));
      this.readInto(this.#windowAt, this.#window);
    }
    return this.#window.subarray(begin - this.#windowAt, end - this.#windowAt);
  }

  /**
   * The whole file, up to `buffer.constants.MAX_LENGTH`, while readFile of Node stops at 2 GiB. It starts at offset 0 of
   * a separate buffer, so that 64-byte aligned contents can be viewed in place.
   *
   * @throws FuscoError E_FILE_READ, E_MEMORY
   */
  whole(): Uint8Array<ArrayBuffer> {
    const { path, length } = this;
    const limit = constants.MAX_LENGTH;
    if (length > limit) {
      const text = `${length} bytes > ${limit}: give one file a rank`;
      throw new FuscoError('E_FILE_READ', text, { path, value: length, limit });
    }
    const bytes = allocate(length, path);
    this.readInto(0, bytes);
    return bytes;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** `json` is one value or one a line; `pickle` is not in an archive. */
export type FileKind = 'npy' | 'npz' | 'torch' | 'safetensors' | 'json' | 'pickle' | 'unknown';

/** One file. Only the ranges that a reader requests are read. */
export interface FileSource {
  readonly kind: FileKind;
  readonly path: string;
  readonly bytes: Bytes;
}

export interface DirectorySource {
  readonly kind: 'directory';
  readonly path: string;
  /** Sorted. */
  readonly names: readonly string[];
}

export type Source = FileSource | DirectorySource;

/** All bytes of a source, in one buffer. Throws E_FILE_READ, E_MEMORY. */
export function wholeOf({ bytes }: FileSource): Uint8Array {
  return bytes.whole?.() ?? bytes.subarray(0, bytes.length);
}

/** Paths of standard input. */
const STDIN: readonly string[] = ['-', '/dev/stdin', '/dev/fd/0'];

let stdin: Uint8Array<ArrayBuffer> | undefined;

/** All of standard input if the path stands for it; it is read once. Throws E_FILE_READ. */
export function readStdin(path: string): Uint8Array<ArrayBuffer> | undefined {
  if (!STDIN.includes(path)) return undefined;
  try {
    // A copy at offset 0 of its buffer, whose 64-byte aligned contents can be viewed in place.
    stdin ??= new Uint8Array(readFileSync(0));
  } catch (error) {
    throw readError(path, error);
  }
  return stdin;
}

/** The whole of one regular file, or of standard input for `-`. Throws E_FILE_NOT_FOUND, E_FILE_READ, E_MEMORY. */
export async function readWhole(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const piped = readStdin(path);
  if (piped !== undefined) return piped;
  using file = new OpenFile(path);
  return file.whole();
}
