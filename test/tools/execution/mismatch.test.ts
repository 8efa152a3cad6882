// What `run --check` does when something is wrong: every single corrupted byte must be found where it is.

import { describe, expect, it } from 'vitest';
import type { VerifiedPlan } from '../../../planner/plan.ts';
import {
  type Execution,
  type ExecutionInput,
  execute,
  findMismatch,
} from '../../../tools/execution/execute.ts';
import { findCombineMismatch, findReceiveMismatch } from '../../../tools/execution/mismatch.ts';
import { planOf } from '../../support/buffers.ts';
import { makeRouting, randomFrom } from '../../support/workloads.ts';

const ELEMENTS = 3;
const ROW_BYTES = 4 * ELEMENTS;

interface Run {
  plan: VerifiedPlan;
  input: ExecutionInput;
  result: Execution;
}

/** A run with masked and dropped entries, padding and a rank without tokens. */
async function runOf(weighted: boolean, strategy: 'flat' | 'hier' = 'flat'): Promise<Run> {
  const workload = { family: 'rankWithoutRows', seed: 6, ranks: 3, tokens: 8, topk: 2, experts: 6 } as const;
  const routing = makeRouting({ ...workload, masked: 0.2 });
  const plan = await planOf(routing, 2, { experts: 6, align: 4, capacity: 3, strategy, ranksPerNode: 1 });
  expect(
    plan.shards.some((shard) => shard.dropped > 0) && plan.shards.some((shard) => shard.masked > 0),
  ).toBe(true);
  const random = randomFrom(3);
  const floats = (length: number) => Float32Array.from({ length }, () => random() + 1);
  const input: ExecutionInput = {
    dtype: 'f32',
    rowBytes: ROW_BYTES,
    rows: plan.shards.map(({ tokens }) => new Uint8Array(floats(tokens * ELEMENTS).buffer)),
    weights: weighted ? plan.shards.map(({ entries }) => floats(entries)) : undefined,
  };
  return { plan, input, result: await execute(plan, input, 'reference') };
}

const mismatchOf = ({ plan, input, result }: Run) => findMismatch(plan, input, result);

describe.each([
  [true, 'flat'],
  [false, 'flat'],
  [true, 'hier'],
  [false, 'hier'],
] as const)('weighted: %s, %s plan', (weighted, strategy) => {
  it('a right execution has no mismatch', async () => {
    expect(await mismatchOf(await runOf(weighted, strategy))).toBeUndefined();
  });

  it.each(['received', 'combined'] as const)('every changed byte of %s is found in its row', async (what) => {
    const run = await runOf(weighted, strategy);
    for (const [rank, bytes] of run.result[what].entries()) {
      for (let at = 0; at < bytes.length; at++) {
        bytes[at]! ^= 0x01;
        expect(await mismatchOf(run)).toEqual({ what, rank, row: Math.floor(at / ROW_BYTES) });
        bytes[at]! ^= 0x01;
      }
    }
    expect(await mismatchOf(run)).toBeUndefined();
  });
});

describe('mistakes that an executor could make', () => {
  it("two rows of one expert in each other's place", async () => {
    const { plan, input, result } = await runOf(false);
    const [received] = result.received;
    const first = received!.slice(0, ROW_BYTES);
    received!.copyWithin(0, ROW_BYTES, 2 * ROW_BYTES);
    received!.set(first, ROW_BYTES);
    expect(findReceiveMismatch(plan, input.rows, result.received, ROW_BYTES)).toEqual({
      what: 'received',
      rank: 0,
      row: 0,
    });
  });

  it('weights left out, or a dropped row counted', async () => {
    const { plan, input, result } = await runOf(true);
    const { rows, weights } = input;
    const unweighted = await execute(plan, { ...input, weights: undefined }, 'reference');
    expect(findCombineMismatch(plan, rows, unweighted.combined, 'f32', ROW_BYTES, weights)).toMatchObject({
      what: 'combined',
    });
    expect(findCombineMismatch(plan, rows, result.combined, 'f32', ROW_BYTES, undefined)).toMatchObject({
      what: 'combined',
    });
    // The plan without a capacity keeps what this one drops.
    const roomy = await planOf(
      makeRouting({
        family: 'rankWithoutRows',
        seed: 6,
        ranks: 3,
        tokens: 8,
        topk: 2,
        experts: 6,
        masked: 0.2,
      }),
      2,
      { experts: 6, align: 4 },
    );
    const kept = await execute(roomy, input, 'reference');
    expect(findCombineMismatch(plan, rows, kept.combined, 'f32', ROW_BYTES, weights)).toBeDefined();
  });
});
