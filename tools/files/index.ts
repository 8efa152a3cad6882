// The package's `fusco/files`: plan files and routing files, for programs in Node.

import { encodePlanChunks } from '../../planner/format/encode.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { Plan, VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type RoutingFormat, readAnyRouting } from '../readers/anyRouting.ts';
import { readVerifiedPlan } from '../readers/planFile.ts';
import { type RecordedRouting, readRoutings } from '../readers/recording.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';

export { loadPlanner } from '../../planner/node.ts';
export type { VerifiedPlan } from '../../planner/plan.ts';
export type { RoutingTable } from '../../planner/routing.ts';
export type { RoutingFormat } from '../readers/anyRouting.ts';
export type { RecordedRouting } from '../readers/recording.ts';

/**
 * Reads a plan file, checks its digests and verifies all that it states. `group.prepare` takes the result.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, and what decodePlan and verifyPlan throw, with the path
 */
export async function readPlan(path: string): Promise<VerifiedPlan> {
  return (await readVerifiedPlan(path)).plan;
}

/** What was written. */
export interface WrittenPlan {
  /** SHA-256 of the plan's content, 64 hex digits. */
  readonly planId: string;
  /** Size of the file. */
  readonly bytes: number;
}

/**
 * Writes a plan file under a temporary name and renames it, so that no reader sees a part of it.
 *
 * @throws FuscoError E_FILE_WRITE
 */
export async function writePlan(path: string, plan: Plan): Promise<WrittenPlan> {
  const { chunks, planId, length } = await encodePlanChunks(plan, nodeSha256);
  await writeFileAtomic(path, chunks);
  return { planId, bytes: length };
}

/** What to read of a routing file. */
export interface ReadRoutingOptions {
  /** Number of ranks that share the tokens of a table without ranks; for other files, it must match the file. 1..4096. */
  readonly ranks?: number;
  /** Program that wrote the file, if its first bytes do not identify it. Default auto. */
  readonly format?: RoutingFormat;
  /** Layer of a recording, as the file numbers it. */
  readonly layer?: number;
  /** Step, forward pass, iteration or request of a recording, as the file numbers it. */
  readonly step?: number;
}

/**
 * Reads a routing as `fusco plan` does: NumPy's .npy and .npz, a directory of rank{r}.npy, or a recording of SGLang,
 * vLLM, Megatron-Core or TensorRT-LLM (docs/foreign-files.md).
 *
 * @returns one table per rank, for `planner.planAll` and `group.plan`
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ, E_FORMAT, E_FOREIGN, E_RANKS, E_ROUTING_SHAPE, E_ROUTING_DTYPE,
 *   E_OPTION, E_MEMORY
 */
export async function readRouting(path: string, options: ReadRoutingOptions = {}): Promise<RoutingTable[]> {
  const { ranks, format, layer, step } = options;
  return readAnyRouting(path, { ranks, format, layer, step });
}

/** Which routings of a recording to read. */
export interface ReadRecordingOptions extends Pick<ReadRoutingOptions, 'ranks' | 'format'> {
  /** First and last layer, both included. Default: all. */
  readonly layers?: { readonly first: number; readonly last: number };
  /** First and last step, both included. Default: all. */
  readonly steps?: { readonly first: number; readonly last: number };
}

/**
 * Reads the routings of a recording one after the other, in the order of steps and layers; also one that
 * `group.record` wrote.
 *
 * @throws FuscoError what readRouting throws
 */
export function readRecordedRoutings(
  path: string,
  options: ReadRecordingOptions = {},
): AsyncGenerator<RecordedRouting> {
  return readRoutings(path, options);
}
