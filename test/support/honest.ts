// Small plans that everybody can follow, and what becomes of them once they lie.

import { expect } from 'vitest';
import {
  decodePlan,
  encodePlan,
  FuscoError,
  type PlanOptions,
  type VerifiedPlan,
  verifyPlan,
} from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { nativeVerdict, verdict } from './nativeFile.ts';
import type { PlainRouting } from './obviousPlan.ts';
import { type FileParts, openFile, sealFile } from './planFile.ts';
import { buildShard, parseShard, type ShardParts } from './shardParts.ts';
import { toTables } from './workloads.ts';

/**
 * 4 ranks, 8 experts, top-2, align 4: token t of rank r goes to experts r + t and r + t + 1, but for rank 3's last
 * entry, which is masked. Expert 2's block at rank 1: run rows 0 | 1 2 | 3 of source ranks 0, 1, 2.
 */
async function honestPlan(): Promise<VerifiedPlan> {
  const planner = await loadPlanner();
  const routing = Array.from({ length: 4 }, (_, r) => [
    [r, r + 1],
    [r + 1, r === 3 ? -1 : r + 2],
  ]);
  return planner.planAll(toTables(routing, 2), { ranks: 4, experts: 8, align: 4 });
}

/**
 * 2 nodes of 2 ranks, 8 experts in blocks of two a rank, top-2, align 4, capacity 3. test/planner/hier.test.ts has
 * every number that follows.
 */
export const TWO_BY_TWO: { routing: PlainRouting; options: PlanOptions } = {
  routing: [
    [
      [4, 0],
      [6, 7],
      [5, 6],
      [-1, 2],
    ],
    [
      [6, 4],
      [3, -1],
    ],
    [
      [0, 2],
      [5, 4],
      [1, 0],
    ],
    [
      [2, 3],
      [0, 7],
      [1, 7],
    ],
  ],
  options: { ranks: 4, experts: 8, ranksPerNode: 2, align: 4, capacity: 3, strategy: 'hier' },
};

/** The plan file of TWO_BY_TWO; ranks 0 and 2 forward for each other, and ranks 1 and 3. */
export async function honestHierFile(): Promise<FileParts> {
  const { routing, options } = TWO_BY_TWO;
  const plan = (await loadPlanner()).planAll(toTables(routing, 2), { ...options, balance: 'static' });
  return openFile((await encodePlan(plan, nodeSha256)).bytes);
}

export async function honestFile(): Promise<FileParts> {
  return openFile((await encodePlan(await honestPlan(), nodeSha256)).bytes);
}

/** Changes shards, seals the file again, and returns the refusal. */
export async function refusalOfShards(
  file: FileParts,
  forge: (shards: ShardParts[]) => void,
): Promise<FuscoError> {
  const shards = file.shards.map(parseShard);
  forge(shards);
  return refusalOf(sealFile({ ...file, shards: shards.map(buildShard) }));
}

/** Decodes and verifies, and returns the refusal. Native code must refuse the same at the same place. */
export async function refusalOf(bytes: Uint8Array): Promise<FuscoError> {
  try {
    verifyPlan((await decodePlan(bytes, nodeSha256)).plan);
  } catch (error) {
    expect(error).toBeInstanceOf(FuscoError);
    const { code, details } = error as FuscoError;
    expect(nativeVerdict(bytes) ?? verdict(code, details.path)).toBe(verdict(code, details.path));
    return error as FuscoError;
  }
  throw new Error('the forgery was accepted');
}
