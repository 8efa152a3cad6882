// What one rank of a group of processes checks: every process makes all ranks' inputs, runs its own part over NCCL, and
// compares it with its part of the reference.

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Cuda } from '../../../executor/backends/cuda/context.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { readRecording } from '../../../executor/training/recorder.ts';
import { FuscoError } from '../../../planner/errors.ts';
import { planId } from '../../../planner/format/digest.ts';
import { nodeSha256 } from '../../../planner/node.ts';
import { pairwise } from '../../support/pairwise.ts';
import { type Family, makeRouting, toTables } from '../../support/workloads.ts';
import { assertSameOutputs, makeInputs, outputsOf, runExchanges } from '../exchanges.ts';
import { checkSums } from '../sums.ts';
import { assertSame, Buffers, planFor, planOf, randomRows } from '../support.ts';

export interface RankCase {
  readonly name: string;
  run(group: Group): Promise<void>;
}

const FACTORS = {
  tokens: [0, 1, 7, 33],
  hidden: [12, 52, 255, 1024],
  topk: [1, 2, 6],
  dtype: ['f32', 'bf16', 'f16'],
  masked: [0, 0.1, 1],
  align: [1, 16],
  strategy: ['flat', 'hier', 'hier f32', 'hier token'],
  family: ['balanced', 'hotExperts', 'raggedSources', 'rankWithoutRows'],
  capacity: [0, 5],
  weighted: [true, false],
  // One row a slice or a few, several, and all.
  sliceBytes: [200, 3000, 1 << 20],
} as const;

const EXPERTS = 16;

/** @param ranksPerNode of hierarchical plans */
export function exchangeCases(ranks: number, ranksPerNode: number): RankCase[] {
  return pairwise(FACTORS).map((f, i) => ({
    name: `exchange ${i}: ${Object.values(f).join(' ')}`,
    async run(group) {
      const workload = {
        family: f.family as Family,
        seed: i,
        ranks,
        tokens: f.tokens,
        topk: f.topk,
        experts: EXPERTS,
      };
      const plan = await planFor(
        { ...workload, masked: f.masked },
        {
          ranksPerNode,
          align: f.align,
          capacity: f.capacity,
          strategy: f.strategy === 'flat' ? 'flat' : 'hier',
          partial: f.strategy === 'hier f32' ? 'f32' : 'payload',
          sum: f.strategy === 'hier token' ? 'token' : 'node',
          hidden: f.hidden,
          sliceBytes: f.sliceBytes,
        },
      );
      const rowBytes = f.hidden * (f.dtype === 'f32' ? 4 : 2);
      const input = makeInputs(plan, f.dtype, rowBytes, 28, f.weighted);
      using reference = await createGroup({ ranks, backend: 'reference' });
      const expected = await runExchanges(reference, plan, input);
      const actual = await runExchanges(group, plan, input);
      assertSameOutputs(actual, outputsOf(expected, group.localRanks[0]!), input);
    },
  }));
}

/** The same tokens give the same bits as on one rank. */
export function sumCases(ranksPerNode: number): RankCase[] {
  return (['flat', 'hier'] as const).map((strategy) => ({
    name: `sums by token: ${strategy}`,
    run: (group) => checkSums(group, strategy === 'flat' ? { strategy } : { strategy, ranksPerNode }),
  }));
}

/** Planning from gathered facts gives the shard that planning with everything gives. */
export function planningCases(ranks: number, ranksPerNode: number): RankCase[] {
  const strategies = ['flat', 'hier', 'auto'] as const;
  return strategies.flatMap((strategy) =>
    [0, 3].map((capacity) => ({
      name: `planLocal ${strategy}, capacity ${capacity}`,
      async run(group: Group) {
        const routing = makeRouting({
          family: 'raggedSources',
          seed: 5,
          ranks,
          tokens: 60,
          topk: 4,
          experts: EXPERTS,
        });
        const options = { experts: EXPERTS, ranksPerNode, strategy, capacity, hidden: 64 };
        const whole = await planOf(routing, 4, options);
        const rank = group.localRanks[0]!;
        const local = await group.planLocal([toTables(routing, 4)[rank]!], options);
        assert.equal(
          Buffer.compare(local.shards[rank]!.bytes, whole.shards[rank]!.bytes),
          0,
          'the local shard',
        );
        assert.deepEqual(local.decision, whole.decision);
        using exchange = await group.prepare(local);
        const input = makeInputs(whole, 'bf16', 128, 16, true);
        const to = [new Uint8Array(exchange.recvRows[0]! * 128)];
        await exchange.dispatch({ payloads: [{ rowBytes: 128, from: [input.rows[rank]!], to }] });
        using reference = await createGroup({ ranks, backend: 'reference' });
        const expected = await runExchanges(reference, whole, input);
        assertSame('received rows', to, [expected.received[rank]!], 128);
      },
    })),
  );
}

/** Every rank writes its own files, into one directory; together they are the steps. */
export function recordCases(ranks: number): RankCase[] {
  return [
    {
      name: 'record: the steps of all ranks have the ids of the whole plans',
      async run(group) {
        const rank = group.localRanks[0]!;
        const path = join(tmpdir(), `fusco-record-${process.env.MASTER_PORT}`);
        const options = { experts: EXPERTS, strategy: 'hier', ranksPerNode: 1, hidden: 64 } as const;
        const routingOf = (seed: number) =>
          makeRouting({ family: 'raggedSources', seed, ranks, tokens: 20, topk: 4, experts: EXPERTS });
        const recorder = await group.record(path);
        for (const seed of [1, 2, 3]) await group.planLocal([toTables(routingOf(seed), 4)[rank]!], options);
        await recorder.close();
        // A gather of all ranks: every file is complete after it.
        await group.planLocal([toTables(routingOf(0), 4)[rank]!], options);
        if (rank !== 0) return;
        const steps = await readRecording(path);
        const expected = await Promise.all(
          [1, 2, 3].map(async (seed) => planId(await planOf(routingOf(seed), 4, options), nodeSha256)),
        );
        rmSync(path, { recursive: true });
        assert.deepEqual(
          steps.map((step) => step.planId),
          expected,
        );
      },
    },
  ];
}

/** Device buffers of the group's context, reused; larger rows; a plan that runs several times. */
export function deviceCases(ranks: number, ranksPerNode: number, cuda: Cuda): RankCase[] {
  return (['flat', 'hier'] as const).map((strategy) => ({
    name: `device buffers ${strategy}`,
    async run(group) {
      const rank = group.localRanks[0]!;
      const rowBytes = 4096;
      // 40 tokens, then 1: nothing of the first plan may show in the second.
      for (const tokens of [40, 1, 200]) {
        const workload = {
          family: 'balanced',
          seed: tokens,
          ranks,
          tokens,
          topk: 4,
          experts: EXPERTS,
        } as const;
        const plan = await planFor(workload, { ranksPerNode, strategy, hidden: 2048, align: 8 });
        const input = makeInputs(plan, 'bf16', rowBytes, 28, true);
        using reference = await createGroup({ ranks, backend: 'host' });
        const expected = await runExchanges(reference, plan, input);
        using buffers = new Buffers(cuda);
        const rows = buffers.up([input.rows[rank]!]);
        const weights = buffers.up([input.weights[rank]!]);
        using exchange = await group.prepare(plan);
        const received = buffers.poisoned([exchange.recvRows[0]! * rowBytes]);
        const combined = buffers.poisoned([exchange.tokens[0]! * rowBytes]);
        for (let again = 0; again < 3; again++) {
          await exchange.dispatch({ payloads: [{ rowBytes, from: rows, to: received }] });
          await exchange.combine({ dtype: 'bf16', rowBytes, from: received, to: combined, weights });
        }
        assertSame('received rows', buffers.down(received), [expected.received[rank]!], rowBytes);
        assertSame('combined rows', buffers.down(combined), [expected.combined[rank]!], rowBytes);
        const { dispatch, combine, tables } = exchange.bufferBytes(rowBytes);
        assert.ok(dispatch >= 0 && combine >= 0 && tables > 0);
      }
    },
  }));
}

/** Misuse on one rank is refused before the call is numbered, and the group goes on. */
export function refusalCases(ranks: number): RankCase[] {
  return [
    {
      name: 'a buffer that is too small is refused and the group goes on',
      async run(group) {
        const workload = {
          family: 'balanced',
          seed: 1,
          ranks,
          tokens: 16,
          topk: 2,
          experts: EXPERTS,
        } as const;
        const plan = await planFor(workload, { hidden: 8 });
        const rank = group.localRanks[0]!;
        const from = [randomRows(rank, 16 * 16, 'bytes')];
        using exchange = await group.prepare(plan);
        const to = [new Uint8Array(exchange.recvRows[0]! * 16)];
        await assert.rejects(
          exchange.dispatch({ payloads: [{ rowBytes: 16, from, to: [new Uint8Array(1)] }] }),
          {
            code: 'E_BUFFER',
          },
        );
        await exchange.dispatch({ payloads: [{ rowBytes: 16, from, to }] });
      },
    },
    {
      name: 'group.plan says to use planLocal',
      async run(group) {
        assert.throws(
          () => group.plan([], { experts: 1 }),
          (error) => error instanceof FuscoError && error.code === 'E_BACKEND',
        );
      },
    },
  ];
}
