// The matcher as a user's suite meets it: a suite of its own in a temporary directory, run by vitest itself.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import '../../../tools/vitest/index.ts';
import { planOf } from '../../support/buffers.ts';
import { node, ROOT } from '../../support/programs.ts';

let folder = '';

beforeAll(() => {
  // Below the repository, so that imports resolve; a name that no other test looks at.
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  folder = mkdtempSync(join(ROOT, 'build/vitest-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/fusco'));
  symlinkSync(join(ROOT, 'node_modules/vitest'), join(folder, 'node_modules/vitest'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A suite that plans `ids` and matches the plan; `names` are the hints, one assertion each. */
function writeSuite(ids: string, names: readonly string[]): void {
  const matches = names.map((name) => `  await expect(plan).toMatchPlan('${name}');`).join('\n');
  writeFileSync(
    join(folder, 'plan.test.mjs'),
    `import { expect, it } from 'vitest';
import { Planner } from 'fusco/planner';
import 'fusco/vitest';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

it('plans', async () => {
  const wasm = createRequire(import.meta.url).resolve('fusco/planner.wasm');
  const planner = await Planner.create(readFileSync(wasm));
  const ids = Int32Array.from(${ids});
  const plan = planner.planAll([{ ids, tokens: ids.length, topk: 1 }], { experts: 4, ranks: 1 });
${matches}
});
`,
  );
}

async function run(args: readonly string[], ci: boolean): Promise<{ code: number; output: string }> {
  // Nothing else of the environment: several of its variables would say that this is CI.
  const { PATH = '', HOME = '' } = process.env;
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
  const all = [vitest, 'run', '--root', folder, '--config', join(folder, 'none.config.mjs'), ...args];
  writeFileSync(join(folder, 'none.config.mjs'), 'export default {};\n');
  const env = { PATH, HOME, NO_COLOR: '1', ...(ci ? { CI: '1' } : {}) };
  const { code, stdout, stderr } = await node(all, { cwd: folder, env });
  return { code, output: stdout + stderr };
}

it('writes, compares, refuses to write in CI, updates, and names what is obsolete', async () => {
  writeSuite('[0, 1, 2]', ['a']);
  const missing = await run([], true);
  expect(missing.code).toBe(1);
  expect(missing.output).toMatch(/mismatched/);

  expect(await run([], false)).toMatchObject({ code: 0 });
  const file = join(folder, '__snapshots__/plan.test.mjs.snap');
  const written = readFileSync(file, 'utf8');
  expect(written).toMatch(/exports\[`plans > plan a 1`\]/);
  expect(written).toMatch(/"planId": "[0-9a-f]{64}"/);
  expect(written).toMatch(/"rows": 3/);
  expect(await run([], true)).toMatchObject({ code: 0 });

  writeSuite('[0, 1, 2, 2]', ['a']);
  const changed = await run([], true);
  expect(changed.code).toBe(1);
  expect(changed.output).toMatch(/-\s+"rows": 3/);
  expect(changed.output).toMatch(/\+\s+"rows": 4/);
  expect(changed.output).toContain('If the change is meant, run: npx vitest run plan.test.mjs -u');
  expect(readFileSync(file, 'utf8')).toBe(written);

  expect(await run(['-u'], false)).toMatchObject({ code: 0 });
  expect(readFileSync(file, 'utf8')).toMatch(/"rows": 4/);
  writeSuite('[0, 1, 2, 2]', ['b']);
  expect((await run([], false)).output).toMatch(/1 obsolete/);
}, 120_000);

it('takes nothing but a plan', async () => {
  await expect(expect({ planId: 'x' }).toMatchPlan()).rejects.toThrow('takes a plan');
  const plan = await planOf([[[0]]], 1, { experts: 1 });
  await expect(expect({ ...plan }).toMatchPlan()).rejects.toThrow('takes a plan');
});
