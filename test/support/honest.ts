// A small plan that everybody can follow, and what becomes of it once it lies.

import { expect } from 'vitest';
import { decodePlan, encodePlan, FuscoError, type VerifiedPlan, verifyPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { type FileParts, openFile } from './planFile.ts';
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

export async function honestFile(): Promise<FileParts> {
  return openFile((await encodePlan(await honestPlan(), nodeSha256)).bytes);
}

/** Decodes and verifies, and returns the refusal. */
export async function refusalOf(bytes: Uint8Array): Promise<FuscoError> {
  try {
    verifyPlan((await decodePlan(bytes, nodeSha256)).plan);
  } catch (error) {
    expect(error).toBeInstanceOf(FuscoError);
    return error as FuscoError;
  }
  throw new Error('the forgery was accepted');
}
