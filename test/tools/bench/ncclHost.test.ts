// The measurement of steps that are planned on the host, on the reference backend: its stages use the plan that the stage
// before has made, and every step of the recorded half is in the recording.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { createGroup } from '../../../executor/group.ts';
import { readRecording } from '../../../executor/training/recorder.ts';
import { measureHostSteps } from '../../../tools/bench/ncclHost.ts';
import { planOf } from '../../support/buffers.ts';
import { makeRouting, toTables } from '../../support/workloads.ts';

it('times every stage, and records the steps of the recorded half only', async () => {
  const routing = makeRouting({ family: 'balanced', seed: 1, ranks: 2, tokens: 8, topk: 2, experts: 4 });
  const options = { experts: 4, hidden: 4, dtype: 'f32' } as const;
  const { shards } = await planOf(routing, 2, options);
  const recording = mkdtempSync(join(tmpdir(), 'fusco-test-'));
  onTestFinished(() => rmSync(recording, { recursive: true }));
  using group = await createGroup({ ranks: 2, backend: 'reference' });
  const to = shards.map(({ recvRows }) => new Uint8Array(16 * recvRows));
  const from = shards.map(({ tokens }) => new Uint8Array(16 * tokens).fill(7));
  let meetings = 0;
  let finished = 0;
  const times = await measureHostSteps(
    {
      ...{ group, tables: toTables(routing, 2), options, recording },
      dispatch: { payloads: [{ rowBytes: 16, from, to }] },
      meet: async () => void meetings++,
      finish: () => void finished++,
    },
    { rounds: 2, warmUps: 1 },
  );
  for (const [name, ms] of Object.entries(times)) expect(ms, name).toBeGreaterThan(0);
  expect(Object.keys(times)).toHaveLength(6);
  // A warm-up and two rounds: four stages and two halves of eight steps.
  expect(meetings).toBe(3 * 6);
  expect(finished).toBe(3 * (2 + 16));
  expect(await readRecording(recording)).toHaveLength(3 * 8);
  for (const rows of to) expect(rows.every((byte) => byte === 7)).toBe(true);
});
