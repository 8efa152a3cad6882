import { spawn } from 'node:child_process';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createGroup, type Group } from '../../../executor/group.ts';
import {
  Recorder,
  readRecordedTables,
  readRecording,
  replayStep,
} from '../../../executor/training/recorder.ts';
import { planId } from '../../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../../planner/node.ts';
import { readRouting } from '../../../tools/readers/numpyRouting.ts';
import { ID_DTYPES, makeRouting, toTables } from '../../support/workloads.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const RANKS = 3;
const OPTIONS = { experts: 8, hidden: 16, align: 4, capacity: 9, strategy: 'hier', ranksPerNode: 1 } as const;

let folder: string;
let group: Group;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fusco-recorder-'));
  group = await createGroup({ ranks: RANKS, backend: 'reference' });
});
afterEach(() => {
  group.close();
  rmSync(folder, { recursive: true });
});

const at = (...names: string[]) => join(folder, 'run', ...names);
const code = (expected: string) => expect.objectContaining({ name: 'FuscoError', code: expected });
const tablesOf = (step: number, dtype: (typeof ID_DTYPES)[number] = 'i32') =>
  toTables(
    makeRouting({ family: 'raggedSources', seed: 3, step, ranks: RANKS, tokens: 11, topk: 2, experts: 8 }),
    2,
    dtype,
  );

async function record(steps: number): Promise<string[]> {
  const ids: string[] = [];
  await using recorder = await group.record(at());
  for (let step = 0; step < steps; step++)
    ids.push(await planId(group.plan(tablesOf(step), OPTIONS), nodeSha256));
  expect(recorder.pending).toBeLessThanOrEqual(steps);
  return ids;
}

describe('a recording', () => {
  it('holds the routing of every plan, and replays to the same plan ids', async () => {
    const ids = await record(4);
    const steps = await readRecording(at());
    expect(steps.map(({ step, planId: id }) => [step, id])).toEqual(ids.map((id, step) => [step, id]));
    const planner = await loadPlanner();
    for (const step of steps) {
      const { plan, tables } = await replayStep(at(), step, planner);
      expect(tables).toEqual(tablesOf(step.step));
      expect(await planId(plan, nodeSha256)).toBe(ids[step.step]);
    }
    expect(readdirSync(at()).sort()).toEqual(['index.jsonl', ...steps.map(({ directory }) => directory)]);
  });

  it('is read by `fusco plan`, one step at a time', async () => {
    const [, id] = await record(2);
    const tables = await readRouting(at('step-000001'));
    expect(tables).toEqual(tablesOf(1));
    const planned = (await loadPlanner()).planAll(tables, { ...OPTIONS, ranks: RANKS });
    expect(await planId(planned, nodeSha256)).toBe(id);
  });

  it.each(ID_DTYPES)('keeps ids of %s as they are', async (dtype) => {
    await using recorder = await group.record(at());
    group.plan(tablesOf(0, dtype), OPTIONS);
    await recorder.flush();
    const [step] = await readRecording(at());
    expect(await readRecordedTables(at(), step!)).toEqual(tablesOf(0, dtype));
  });

  it('copies ids at once: the loop may use its arrays again', async () => {
    await using recorder = await group.record(at());
    const tables = tablesOf(0);
    group.plan(tables, OPTIONS);
    for (const { ids } of tables) ids.fill(0 as never);
    await recorder.flush();
    const [step] = await readRecording(at());
    expect((await replayStep(at(), step!)).tables).toEqual(tablesOf(0));
  });

  it('ends with its recorder; a group has one at a time, and may have another later', async () => {
    const recorder = await group.record(at());
    group.plan(tablesOf(0), OPTIONS);
    await expect(group.record(join(folder, 'other'))).rejects.toThrow(code('E_OPTION'));
    await recorder.close();
    await recorder.close();
    group.plan(tablesOf(1), OPTIONS);
    expect(() => recorder.add(tablesOf(1), group.plan(tablesOf(1), OPTIONS))).toThrow(code('E_CLOSED'));
    expect(await readRecording(at())).toHaveLength(1);
    await using again = await group.record(at());
    group.plan(tablesOf(2), OPTIONS);
    await again.flush();
    expect((await readRecording(at())).map(({ step }) => step)).toEqual([0, 1]);
  });

  it('does not record plans that are refused', async () => {
    await using recorder = await group.record(at());
    expect(() => group.plan(tablesOf(0), { experts: 1 })).toThrow(code('E_ROUTING_ID'));
    await recorder.flush();
    expect(await readRecording(at())).toEqual([]);
  });
});

describe('a replay refuses', () => {
  it('ids that changed', async () => {
    await record(1);
    const file = at('step-000000', 'rank1.npy');
    const bytes = readFileSync(file);
    bytes[bytes.length - 4]! ^= 1;
    writeFileSync(file, bytes);
    const [step] = await readRecording(at());
    await expect(replayStep(at(), step!)).rejects.toThrow(code('E_FILE_READ'));
    await expect(replayStep(at(), step!)).rejects.toThrow('rank1.npy: SHA-256');
  });

  it('a plan with another id', async () => {
    await record(1);
    const [step] = await readRecording(at());
    const other = { ...step!, options: { ...step!.options, align: 8 } };
    await expect(replayStep(at(), other)).rejects.toThrow(code('E_PLAN_DIGEST'));
    await expect(replayStep(at(), other)).rejects.toThrow(`it was ${step!.planId}`);
  });

  it('a recording or a file that is not there', async () => {
    await expect(readRecording(at())).rejects.toThrow(code('E_FILE_NOT_FOUND'));
    await record(1);
    rmSync(at('step-000000', 'rank2.npy'));
    const [step] = await readRecording(at());
    await expect(replayStep(at(), step!)).rejects.toThrow(code('E_FILE_NOT_FOUND'));
  });

  it.each([
    ['text', 'hello', 'not JSON'],
    ['null', 'null', 'format version undefined'],
    ['a later version', '{"formatVersion":2}', 'format version 2 is not 1'],
    ['half a step', '{"formatVersion":1,"step":1}', 'not that of a step'],
    [
      'a step outside of the recording',
      '{"formatVersion":1,"step":1,"directory":"../x","planId":"","options":{},"tables":[]}',
      'not that of a step',
    ],
  ])('an index with %s', async (_, line, text) => {
    await record(1);
    appendFileSync(at('index.jsonl'), `${line}\n`);
    await expect(readRecording(at())).rejects.toThrow(code('E_FILE_READ'));
    await expect(readRecording(at())).rejects.toThrow(text);
    await expect(Recorder.open(at())).rejects.toThrow(code('E_FILE_READ'));
  });
});

describe('after a crash', () => {
  it('a torn line is no step; the next recorder removes what no line names and goes on', async () => {
    const ids = await record(3);
    truncateSync(at('index.jsonl'), readFileSync(at('index.jsonl')).length - 7);
    mkdirSync(at('.unfinished-0123456789abcdef'));
    writeFileSync(at('.unfinished-0123456789abcdef', 'rank0.npy'), 'half');
    expect((await readRecording(at())).map(({ planId: id }) => id)).toEqual(ids.slice(0, 2));
    {
      await using _ = await group.record(at());
      expect(readdirSync(at()).sort()).toEqual(['index.jsonl', 'step-000000', 'step-000001']);
      group.plan(tablesOf(7), OPTIONS);
    }
    const steps = await readRecording(at());
    expect(steps.map(({ step }) => step)).toEqual([0, 1, 2]);
    expect((await replayStep(at(), steps[2]!)).tables).toEqual(tablesOf(7));
  });

  it('of the process at any moment, every step that the index names replays', async () => {
    const script = `
      import { createGroup } from ${JSON.stringify(join(ROOT, 'dist/executor/index.js'))};
      const group = await createGroup({ ranks: 2, backend: 'reference' });
      const recorder = await group.record(${JSON.stringify(at())});
      for (let step = 0; ; step++) {
        group.plan([0, 1].map((rank) => ({ ids: Int32Array.of(step % 5, 5 + rank), tokens: 1, topk: 2 })), { experts: 8 });
        await recorder.flush();
        if (step === 9) process.stdout.write('ten steps');
      }`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    const steps = await readRecording(at());
    expect(steps.length).toBeGreaterThanOrEqual(10);
    for (const step of steps) {
      const { tables } = await replayStep(at(), step);
      expect([...tables[1]!.ids]).toEqual([step.step % 5, 6]);
    }
  });
});

describe('a recorder that cannot write', () => {
  it('says so when it is opened, or at the next step', async () => {
    writeFileSync(at(), 'a file');
    await expect(group.record(at())).rejects.toThrow(code('E_FILE_WRITE'));
    rmSync(at());
    const recorder = await group.record(at());
    rmSync(at(), { recursive: true });
    group.plan(tablesOf(0), OPTIONS);
    await expect(recorder.flush()).rejects.toThrow(code('E_FILE_WRITE'));
    expect(() => group.plan(tablesOf(1), OPTIONS)).toThrow(code('E_FILE_WRITE'));
    await expect(recorder.close()).rejects.toThrow(code('E_FILE_WRITE'));
    group.plan(tablesOf(1), OPTIONS);
  });
});
