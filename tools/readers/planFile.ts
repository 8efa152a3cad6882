// Reads plan files. Errors contain the name of the file.

import { FuscoError } from '../../planner/errors.ts';
import { type DecodedPlan, decodePlan, type OnDefect } from '../../planner/format/decode.ts';
import { nodeHashing, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Progress } from '../../planner/planner.ts';
import { type VerifiedFile, verifyChunked } from '../../planner/verify/chunked.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { OpenFile, readStdin, readWhole } from './file.ts';
import { isPlan } from './planMagic.ts';
import { openSource } from './source.ts';

/** Runs work on a file; the name of the file is put in front of the text of its errors. */
async function named<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof FuscoError) || error.details.path === path) throw error;
    throw new FuscoError(error.code, error.message, { ...error.details, path, cause: error });
  }
}

/** Reads and decodes a plan file; see decodePlan for what `onDefect` does. */
export async function readPlan(path: string, onDefect?: OnDefect): Promise<DecodedPlan> {
  const bytes = await readWhole(path);
  return named(path, () => decodePlan(bytes, nodeSha256, onDefect));
}

/** Reads and verifies a plan file that is going to be used. */
export async function readVerifiedPlan(path: string): Promise<DecodedPlan & { plan: VerifiedPlan }> {
  const decoded = await readPlan(path);
  return named(path, () => ({ ...decoded, plan: verifyPlan(decoded.plan) }));
}

/**
 * Verifies a plan file shard by shard, in the memory of its largest shard, reading it twice.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, and what decodePlan and verifyPlan throw
 */
export async function verifyFile(path: string, progress?: Progress): Promise<VerifiedFile> {
  const verify = (length: number, readInto: (at: number, into: Uint8Array) => void) => {
    const read = async (at: number, into: Uint8Array) => readInto(at, into);
    return named(path, () => verifyChunked({ length, read }, nodeHashing, progress));
  };
  const piped = readStdin(path);
  if (piped !== undefined)
    return verify(piped.length, (at, into) => into.set(piped.subarray(at, at + into.length)));
  using file = new OpenFile(path);
  return await verify(file.length, (at, into) => file.readInto(at, into));
}

/** Whether a path is a directory, or a file of a kind that contains routings. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
export function isRoutingFile(path: string): boolean {
  using source = openSource(path);
  return source.kind !== 'unknown';
}

/** Whether a path is a plan file. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
export function isPlanFile(path: string): boolean {
  using source = openSource(path);
  return source.kind !== 'directory' && isPlan(source.bytes.subarray(0, 16));
}
