import { constants } from 'node:buffer';
import { type FileHandle, open } from 'node:fs/promises';
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

/** What an errno code means, on one line. */
export function ioReason(errno: string): string {
  return REASONS[errno] ?? errno;
}

/** E_FILE_NOT_FOUND or E_FILE_READ with a one-line reason; an error that no system call made is returned as it is. */
export function readError(path: string, cause: unknown): unknown {
  const errno = errnoOf(cause);
  if (errno === undefined) return cause;
  if (errno === 'ENOENT') {
    return new FuscoError('E_FILE_NOT_FOUND', 'no such file or directory', { path, cause });
  }
  return new FuscoError('E_FILE_READ', ioReason(errno), { path, cause });
}

/** A zeroed array of `bytes` bytes; throws E_MEMORY where the machine or the JavaScript engine has no room for it. */
export function allocate(bytes: number, path: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    throw new FuscoError('E_MEMORY', `no memory for ${bytes} bytes`, { path, value: bytes, cause });
  }
}

/** One read call takes at most 2 GiB - 1; smaller pieces keep the thread pool responsive. */
const READ_BYTES = 1 << 28;

/**
 * The whole of one regular file. Node's own readFile stops at 2 GiB; this one at `buffer.constants.MAX_LENGTH`.
 * The result starts at offset 0 of its own buffer, so that 64-byte aligned contents can be viewed in place.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, E_MEMORY
 */
export async function readWhole(path: string): Promise<Uint8Array<ArrayBuffer>> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    return await readAll(file, path);
  } catch (error) {
    throw readError(path, error);
  } finally {
    await file?.close();
  }
}

async function readAll(file: FileHandle, path: string): Promise<Uint8Array<ArrayBuffer>> {
  const stat = await file.stat();
  if (!stat.isFile()) throw new FuscoError('E_FILE_READ', 'is not a regular file', { path });
  if (stat.size > constants.MAX_LENGTH) {
    throw new FuscoError(
      'E_FILE_READ',
      `${stat.size} bytes > ${constants.MAX_LENGTH}: give one file a rank`,
      {
        path,
        value: stat.size,
        limit: constants.MAX_LENGTH,
      },
    );
  }
  const bytes = allocate(stat.size, path);
  let at = 0;
  while (at < bytes.length) {
    const { bytesRead } = await file.read(bytes, at, Math.min(READ_BYTES, bytes.length - at), at);
    if (bytesRead === 0) throw new FuscoError('E_FILE_READ', 'became shorter while it was read', { path });
    at += bytesRead;
  }
  return bytes;
}
