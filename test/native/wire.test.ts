// What crosses the wire between processes and in which order, over real plans, simulated by native/test/test_wire.cc: rows
// arrive in their slots, sums are in their order, and no step can wait in a circle.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { pairwise } from '../support/pairwise.ts';
import { makeRouting, placementOf, toTables } from '../support/workloads.ts';

const program = fileURLToPath(new URL('../../build/native/test/test_wire', import.meta.url));
const EXPERTS = 24;

const FACTORS = {
  // ranks, ranks a node, ranks a host
  shape: ['1 1 1', '2 1 1', '3 1 1', '4 2 2', '4 2 4', '8 2 4', '8 4 4', '12 2 2', '16 1 1', '16 4 8'],
  tokens: [0, 1, 7, 40],
  topk: [1, 2, 6],
  strategy: ['flat', 'hier', 'hier token'],
  family: ['balanced', 'hotExperts', 'raggedSources', 'rankWithoutRows', 'burst'],
  masked: [0, 0.2, 1],
  capacity: [0, 4],
  align: [1, 8],
  placement: ['blocks', 'scattered', 'replicated'],
  // Bytes of a slice of rows of 8 bytes.
  sliceBytes: [8, 56, 4096],
  peersPerRound: [1, 3, 8],
  balance: ['static', 'rotate', 'lpt'],
  // Rows of receive buffers, between machines; 0: as many as the plan has.
  bound: [0, 0, 1, 9, 30],
} as const;

let planner: Planner;
let folder: string;
beforeAll(async () => {
  planner = await loadPlanner();
  folder = mkdtempSync(join(tmpdir(), 'fusco-wire-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function writePlan(plan: VerifiedPlan, ranksPerMachine: number, peersPerRound: number, bound = 0): void {
  const { ranks, ranksPerNode, strategy, sum, sliceRows, placement } = plan.spec;
  const machines = Array.from({ length: ranks }, (_, rank) => Math.floor(rank / ranksPerMachine));
  const lines = [
    [
      ranks,
      ranksPerNode,
      strategy === 'hier' ? 1 : 0,
      sum === 'token' ? 1 : 0,
      sliceRows,
      peersPerRound,
      bound,
    ],
    machines,
    [...placement.rankFirst],
    [...plan.decision.groups],
  ];
  writeFileSync(join(folder, 'plan.txt'), lines.map((line) => line.join(' ')).join('\n'));
  for (const [rank, shard] of plan.shards.entries())
    writeFileSync(join(folder, `rank${rank}.shard`), shard.bytes);
}

function simulate(): string {
  const run = spawnSync(program, [folder], { encoding: 'utf8', timeout: 60_000 });
  return run.stdout + run.stderr;
}

describe.skipIf(!existsSync(program))('rows between processes', () => {
  it.each(pairwise(FACTORS).map((f) => [Object.values(f).join(', '), f] as const))(
    'are right: %s',
    (_, f) => {
      const [ranks, ranksPerNode, ranksPerMachine] = f.shape.split(' ').map(Number) as [
        number,
        number,
        number,
      ];
      const { family, tokens, topk, masked, capacity, align, strategy, balance } = f;
      const routing = makeRouting({
        family,
        seed: tokens + ranks,
        ranks,
        tokens,
        topk,
        experts: EXPERTS,
        masked,
      });
      const plan = planner.planAll(toTables(routing, topk), {
        ranks,
        experts: EXPERTS,
        ranksPerNode,
        capacity,
        align,
        strategy: strategy === 'flat' ? 'flat' : 'hier',
        sum: strategy === 'hier token' ? 'token' : 'node',
        balance,
        placement: placementOf(f.placement, EXPERTS, ranks),
        hidden: 4,
        sliceBytes: f.sliceBytes,
      });
      writePlan(plan, ranksPerMachine, f.peersPerRound, ranksPerMachine < ranks ? f.bound : 0);
      expect(simulate()).toBe('right\n');
    },
  );

  it('refuse a shard that sends an entry to another row', () => {
    const routing = makeRouting({
      family: 'balanced',
      seed: 1,
      ranks: 2,
      tokens: 8,
      topk: 2,
      experts: EXPERTS,
    });
    const plan = planner.planAll(toTables(routing, 2), { ranks: 2, experts: EXPERTS, hidden: 4 });
    writePlan(plan, 1, 8);
    const [first] = plan.shards;
    const forged = first!.bytes.slice();
    const slots = first!.entrySlot;
    const at = slots.byteOffset - first!.bytes.byteOffset;
    new DataView(forged.buffer).setInt32(at, slots[0]! + 1, true);
    writeFileSync(join(folder, 'rank0.shard'), forged);
    expect(simulate()).toContain(
      'E_SEGMENT_BOUNDS: entry 0 of rank 0, instance 4 slot 6, is not the next row of its run',
    );
  });

  it('refuse a node of the plan whose ranks are on several machines', () => {
    const routing = makeRouting({
      family: 'balanced',
      seed: 1,
      ranks: 4,
      tokens: 8,
      topk: 2,
      experts: EXPERTS,
    });
    const options = { ranks: 4, ranksPerNode: 2, experts: EXPERTS, hidden: 4, strategy: 'hier' } as const;
    writePlan(planner.planAll(toTables(routing, 2), options), 1, 8);
    expect(simulate()).toContain('E_BACKEND: ranks 0 and 1 are one node of the plan');
  });
});
