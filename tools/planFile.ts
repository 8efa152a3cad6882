// Plan files by ranges: what is larger than memory is verified in the memory of its largest shard.

import { nodeHashing } from '../planner/node.ts';
import type { Progress } from '../planner/planner.ts';
import { type VerifiedFile, verifyChunked } from '../planner/verify/chunked.ts';
import { OpenFile } from './readers/file.ts';

/**
 * Verifies a plan file shard by shard, reading it twice.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, and what decodePlan and verifyPlan throw
 */
export async function verifyFile(path: string, progress?: Progress): Promise<VerifiedFile> {
  using file = new OpenFile(path);
  const read = async (at: number, into: Uint8Array) => file.readInto(at, into);
  return await verifyChunked({ length: file.length, read }, nodeHashing, progress);
}
