// `fusco/files`: what a program reads and writes without knowing about digests and verification.

import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createGroup } from '../../../executor/group.ts';
import { isVerified } from '../../../planner/plan.ts';
import {
  loadPlanner,
  readPlan,
  readRecordedRoutings,
  readRouting,
  writePlan,
} from '../../../tools/files/index.ts';
import { fuscoJson, saveNpy, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

const ROUTING = [
  [[0], [3]],
  [[1], [2]],
];

describe('plan files', () => {
  it('are written as the command line writes them, and read verified', async () => {
    saveRouting('r.npy', ROUTING);
    const planner = await loadPlanner();
    const plan = planner.planAll(await readRouting('r.npy'), { experts: 4, ranks: 2 });
    const written = await writePlan('a.fusco', plan);
    const planned = await fuscoJson('plan', 'r.npy', '--experts', '4', '-o', 'b.fusco');
    expect(written).toEqual({ planId: planned.planId, bytes: planned.bytes });
    expect(readFileSync('a.fusco').equals(readFileSync('b.fusco'))).toBe(true);
    const read = await readPlan('a.fusco');
    expect(isVerified(read)).toBe(true);
    using group = await createGroup({ ranks: 2, backend: 'reference' });
    using exchange = await group.prepare(read);
    expect(exchange.recvRows).toEqual([2, 2]);
  });

  it('that are damaged are refused with their path', async () => {
    saveRouting('r.npy', ROUTING);
    const planner = await loadPlanner();
    await writePlan('a.fusco', planner.planAll(await readRouting('r.npy'), { experts: 4, ranks: 2 }));
    const bytes = readFileSync('a.fusco');
    bytes[bytes.length - 40]! ^= 1;
    writeFileSync('a.fusco', bytes);
    await expect(readPlan('a.fusco')).rejects.toMatchObject({ code: 'E_PLAN_DIGEST' });
    await expect(readPlan('a.fusco')).rejects.toThrow(/^a\.fusco: /);
    await expect(readPlan('gone.fusco')).rejects.toMatchObject({ code: 'E_FILE_NOT_FOUND' });
  });
});

describe('routing files', () => {
  it('give one table per rank; a single table is split between the ranks', async () => {
    saveNpy('flat.npy', 'i32', [4, 1], Int32Array.of(0, 3, 1, 2));
    const tables = await readRouting('flat.npy', { ranks: 2 });
    expect(tables.map(({ ids, tokens, topk }) => [[...ids], tokens, topk])).toEqual([
      [[0, 3], 2, 1],
      [[1, 2], 2, 1],
    ]);
    await expect(readRouting('flat.npy')).rejects.toMatchObject({ code: 'E_RANKS' });
    await expect(readRouting('flat.npy', { ranks: 2, layer: 3 })).rejects.toMatchObject({ code: 'E_OPTION' });
  });

  it('of a recording come step by step, also those that group.record wrote', async () => {
    {
      await using group = await createGroup({ ranks: 2, backend: 'reference' });
      await using recorder = await group.record('recording');
      for (const first of [0, 1]) {
        group.plan(
          [0, 1].map((rank) => ({ ids: Int32Array.of(first, 2 + rank), tokens: 2, topk: 1 })),
          { experts: 4 },
        );
      }
      await recorder.flush();
    }
    const steps: unknown[] = [];
    for await (const { step, tables } of readRecordedRoutings('recording', { steps: { first: 1, last: 9 } }))
      steps.push([step, ...tables.map(({ ids }) => [...ids])]);
    expect(steps).toEqual([[1, [1, 2], [1, 3]]]);
    const none = readRecordedRoutings('recording', { steps: { first: 5, last: 9 } });
    await expect(none.next()).rejects.toMatchObject({ code: 'E_FOREIGN' });
  });
});
