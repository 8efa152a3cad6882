// Plan files in native code: what it accepts, writes and compares. Forged and mutated files are refused as the reader in
// TypeScript refuses them: refusalOf of test/support/honest.ts compares the two.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { encodePlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { markVerified } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { addon, describeNative } from '../support/addon.ts';
import { honestFile, refusalOf } from '../support/honest.ts';
import { ACCEPTED, nativeVerdict } from '../support/nativeFile.ts';
import { pack, sealFile } from '../support/planFile.ts';
import { randomPlan } from '../support/randomPlans.ts';
import { SAMPLE_NAMES, samplePlan } from '../support/samplePlans.ts';

let planner: Planner;
const folder = mkdtempSync(join(tmpdir(), 'fusco-plan-file-'));
beforeAll(async () => {
  planner = await loadPlanner();
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const refused = (code: string, details: object = {}) => expect.objectContaining({ code, ...details });
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

describeNative('plan files in native code', () => {
  it.each(SAMPLE_NAMES)('reads the sample %s, and writes its bytes', async (name) => {
    const plan = samplePlan(planner, name);
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    const file = new addon.PlanFile(bytes);
    expect(hex(file.planId())).toBe(planId);
    plan.shards.forEach((shard, rank) => {
      expect(Buffer.compare(file.shard(rank), shard.bytes)).toBe(0);
    });
    const path = join(folder, `${name}.fusco`);
    file.write(path, plan.decision.reason);
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
    new addon.PlanFile(path).close();
    file.close();
  });

  it('reads and writes the plans of random routings, and knows their routing', async () => {
    for (let number = 0; number < 150; number++) {
      const { options, tables } = randomPlan(number);
      const strategy = number % 4 === 0 ? 'auto' : options.strategy!;
      const plan = planner.planAll(tables, { ...options, strategy });
      const { bytes } = await encodePlan(plan, nodeSha256);
      const file = new addon.PlanFile(bytes);
      const path = join(folder, 'random.fusco');
      file.write(path, plan.decision.reason);
      expect(Buffer.compare(readFileSync(path), bytes), `case ${number}`).toBe(0);
      file.checkRouting(tables);
      file.close();
    }
  });

  it.each([31, 32, 255])('reads and writes a reason of %i bytes', async (length) => {
    const plan = samplePlan(planner, 'plain');
    const decision = { ...plan.decision, reason: 'x'.repeat(length) };
    const { bytes } = await encodePlan(markVerified({ ...plan, decision }), nodeSha256);
    const file = new addon.PlanFile(bytes);
    const path = join(folder, 'reason.fusco');
    file.write(path, decision.reason);
    file.close();
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
  });

  it('says where a plan is not the one of a routing', async () => {
    const options = { experts: 4, ranks: 2 };
    const tables = [
      { ids: Int32Array.of(0, 1, 2, 3), tokens: 2, topk: 2 },
      { ids: Int32Array.of(3, 1, 2, 0), tokens: 2, topk: 2 },
    ];
    const { bytes } = await encodePlan(planner.planAll(tables, options), nodeSha256);
    const file = new addon.PlanFile(bytes);
    file.checkRouting(tables);
    const other = [tables[0]!, { ...tables[1]!, ids: Int32Array.of(3, 1, 0, 2) }];
    expect(() => file.checkRouting(other)).toThrow(refused('E_ENTRY', { path: '/ranks/1/entries/2' }));
    const short = [tables[0]!, { ids: Int32Array.of(3, 1), tokens: 1, topk: 2 }];
    expect(() => file.checkRouting(short)).toThrow(refused('E_ENTRY'));
    expect(() => file.checkRouting([tables[0]!])).toThrow(refused('E_OPTION'));
    const bad = [tables[0]!, { ...tables[1]!, ids: Int32Array.of(3, 1, 2, 4) }];
    expect(() => file.checkRouting(bad)).toThrow(refused('E_ROUTING_ID'));
  });

  it('refuses files that are missing, folders, and what is no plan', () => {
    expect(() => new addon.PlanFile(join(folder, 'none'))).toThrow(refused('E_FILE_NOT_FOUND'));
    expect(() => new addon.PlanFile(folder)).toThrow(refused('E_FILE_READ'));
    writeFileSync(join(folder, 'text'), 'not a plan');
    expect(() => new addon.PlanFile(join(folder, 'text'))).toThrow(refused('E_PLAN_MAGIC'));
    expect(() => new addon.PlanFile(new Uint8Array(0))).toThrow(refused('E_PLAN_MAGIC'));
  });

  it('leaves nothing behind where it cannot write', async () => {
    const file = new addon.PlanFile((await encodePlan(samplePlan(planner, 'plain'), nodeSha256)).bytes);
    expect(() => file.write(join(folder, 'no', 'such', 'folder'), '')).toThrow(refused('E_FILE_WRITE'));
    expect(() => file.write(folder, '')).toThrow(refused('E_FILE_WRITE'));
  });

  it('refuses every byte of a file that is changed, and every end that is cut off', async () => {
    const bytes = sealFile(await honestFile());
    expect(nativeVerdict(bytes)).toBe(ACCEPTED);
    for (let at = 0; at < bytes.length; at++) {
      const changed = bytes.slice();
      changed[at]! ^= 1 << (at % 8);
      expect(nativeVerdict(changed), `byte ${at}`).not.toBe(ACCEPTED);
      expect(nativeVerdict(bytes.subarray(0, at)), `cut at ${at}`).not.toBe(ACCEPTED);
    }
  });
});

it('a core whose keys are out of order is refused', async () => {
  const honest = await honestFile();
  const core = Object.fromEntries(Object.entries(honest.core).reverse());
  const bytes = sealFile({ ...honest, core }, { header: (header) => pack({ ...header, core }) });
  expect(await refusalOf(bytes)).toMatchObject({ code: 'E_PLAN_CANONICAL', details: { path: '/header' } });
});
