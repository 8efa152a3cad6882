// Recordings whose ranks are processes: here one recorder for each rank, as each process opens one.

import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  Recorder,
  readRecordedTables,
  readRecording,
  replayStep,
} from '../../../executor/training/recorder.ts';
import { planId } from '../../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../../planner/node.ts';
import { listRoutings } from '../../../tools/readers/recording.ts';
import { makeRouting, toTables } from '../../support/workloads.ts';

const RANKS = 4;
const HIER = { experts: 8, hidden: 16, align: 4, strategy: 'hier', ranksPerNode: 2, ranks: RANKS } as const;
const FLAT = { experts: 8, hidden: 16, capacity: 9, strategy: 'flat', ranks: RANKS } as const;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-ranks-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const at = (...names: string[]) => join(folder, 'run', ...names);
const tablesOf = (step: number) =>
  toTables(
    makeRouting({ family: 'raggedSources', seed: 3, step, ranks: RANKS, tokens: 11, topk: 2, experts: 8 }),
    2,
  );

/** One recorder for each rank, which agree on the next step as processes do. */
function openRanks(): Promise<Recorder[]> {
  const told: number[] = [];
  const waiting: (() => void)[] = [];
  const firstStep = async (own: number) => {
    told.push(own);
    if (told.length === RANKS) for (const go of waiting) go();
    else await new Promise<void>((resolve) => waiting.push(resolve));
    return Math.min(...told) < 0 ? -1 : Math.max(...told);
  };
  return Promise.all(Array.from({ length: RANKS }, (_, rank) => Recorder.openRank(at(), rank, firstStep)));
}

/** Records steps; the ranks of `missing` leave out the last one. */
async function record(first: number, steps: number, missing: readonly number[] = []): Promise<string[]> {
  const planner = await loadPlanner();
  const recorders = await openRanks();
  const ids: string[] = [];
  for (let step = first; step < first + steps; step++) {
    const plan = planner.planAll(tablesOf(step), step % 2 === 0 ? HIER : FLAT);
    ids.push(await planId(plan, nodeSha256));
    for (const [rank, recorder] of recorders.entries()) {
      if (step === first + steps - 1 && missing.includes(rank)) continue;
      recorder.add([tablesOf(step)[rank]!], plan);
    }
  }
  await Promise.all(recorders.map((recorder) => recorder.close()));
  return ids;
}

describe('a recording of ranks in several processes', () => {
  it('replays to the plan ids of the whole plans', async () => {
    const ids = await record(0, 4);
    const steps = await readRecording(at());
    expect(steps.map(({ step, planId: id }) => [step, id])).toEqual(ids.map((id, step) => [step, id]));
    for (const step of steps) {
      expect(await readRecordedTables(at(), step)).toEqual(tablesOf(step.step));
      const { plan } = await replayStep(at(), step);
      expect(await planId(plan, nodeSha256)).toBe(ids[step.step]);
    }
    expect(readdirSync(at('step-000000')).sort()).toEqual([0, 1, 2, 3].map((rank) => `rank${rank}.npy`));
  });

  it('is listed with its steps, as `fusco plan` reads it', async () => {
    await record(0, 2);
    const listed = await listRoutings(at());
    expect(listed.map(({ step }) => step)).toEqual([0, 1]);
    expect(await listed[1]!.tables()).toEqual(tablesOf(1));
  });

  it('has the steps that all ranks have, and goes on after the last of any rank', async () => {
    const [first] = await record(0, 2, [1]);
    expect((await readRecording(at())).map(({ planId: id }) => id)).toEqual([first]);
    const more = await record(2, 1);
    expect((await readRecording(at())).map(({ step, planId: id }) => [step, id])).toEqual([
      [0, first],
      [2, more[0]],
    ]);
  });

  it('loses no more than the line that a crash left incomplete', async () => {
    const ids = await record(0, 2);
    appendFileSync(at('index-rank2.jsonl'), '{"formatVersion": 1, "step"');
    writeFileSync(at('.unfinished-rank2-00'), 'half');
    expect(await readRecording(at())).toHaveLength(2);
    await record(2, 1);
    expect((await readRecording(at())).slice(0, 2).map(({ planId: id }) => id)).toEqual(ids);
    expect(readdirSync(at()).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('refuses a directory of the other kind, and a line that is not of its rank', async () => {
    await record(0, 1);
    await expect(Recorder.open(at())).rejects.toMatchObject({ code: 'E_FILE_READ' });
    await (await Recorder.open(join(folder, 'whole'))).close();
    const other = Recorder.openRank(join(folder, 'whole'), 0, async (own) => own);
    await expect(other).rejects.toMatchObject({ code: 'E_FILE_READ' });
    appendFileSync(at('index-rank1.jsonl'), '{"formatVersion": 1, "step": 1, "rank": 2}\n');
    await expect(readRecording(at())).rejects.toMatchObject({ code: 'E_FILE_READ' });
  });

  it('says on every rank that one of them cannot record', async () => {
    const failed = Recorder.openRank(at(), 0, async () => -1);
    await expect(failed).rejects.toMatchObject({ code: 'E_FILE_WRITE' });
  });
});
