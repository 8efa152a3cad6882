// Plan files by ranges: what is larger than memory is verified in the memory of its largest shard.

import { type FileHandle, open } from 'node:fs/promises';
import type { Progress } from '../planner/planner.ts';
import { FuscoError } from '../planner/errors.ts';
import { nodeHashing } from '../planner/node.ts';
import { type VerifiedFile, verifyChunked } from '../planner/verify/chunked.ts';
import { readError } from './readers/file.ts';

/** One read call takes at most 2 GiB - 1; smaller pieces keep the thread pool responsive. */
const READ_BYTES = 1 << 26;

async function readRange(file: FileHandle, at: number, into: Uint8Array): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, Math.min(READ_BYTES, into.length - done), at + done);
    if (bytesRead === 0) throw new FuscoError('E_FILE_READ', 'became shorter while it was read');
    done += bytesRead;
  }
}

/**
 * Verifies a plan file shard by shard, reading it twice.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, and what decodePlan and verifyPlan throw
 */
export async function verifyFile(path: string, progress?: Progress): Promise<VerifiedFile> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const opened = file;
    const stat = await opened.stat();
    if (!stat.isFile()) throw new FuscoError('E_FILE_READ', 'is not a regular file', { path });
    const read = (at: number, into: Uint8Array) => readRange(opened, at, into);
    return await verifyChunked({ length: stat.size, read }, nodeHashing, progress);
  } catch (error) {
    throw readError(path, error);
  } finally {
    await file?.close();
  }
}
