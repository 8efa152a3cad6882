// The package, packed and installed in an empty directory as a user does it, with install scripts blocked as package
// managers block those of dependencies: commands, modules, page, types and the prebuilt addon, and what happens where
// the addon is not for this machine.

import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasPrebuilt, type Installed, installPackage, root } from './support.ts';

let home = '';
const inHome = (...parts: string[]) => join(home, ...parts);
const installed = (...parts: string[]) => inHome('node_modules/fusco', ...parts);

let ENV: NodeJS.ProcessEnv = {};
let run: Installed['run'];

/** An ECMAScript module in the directory; gives what it prints. */
function script(source: string): string {
  writeFileSync(inHome('script.mjs'), source);
  const { stdout, stderr, status } = run(process.execPath, 'script.mjs');
  expect([status, stderr]).toEqual([0, '']);
  return stdout;
}

const fusco = (...args: string[]) => run(inHome('node_modules/.bin/fusco'), ...args);

beforeAll(() => {
  ({ home, env: ENV, run } = installPackage());
}, 300_000);

afterAll(() => rmSync(home, { recursive: true, force: true }));

describe('installed with its scripts blocked', () => {
  it.skipIf(!hasPrebuilt)('the prebuilt addon runs', () => {
    const { status, stdout } = fusco('doctor', '--json');
    expect(status).toBe(0);
    const findings = JSON.parse(stdout).findings as { name: string; ok: boolean; found: string }[];
    const host = findings.find(({ name }) => name === 'host')!;
    expect([host.ok, host.found]).toEqual([true, expect.stringMatching(/^native addon \d/)]);
    expect(findings.find(({ name }) => name === 'planner')!.ok).toBe(true);
  });

  it('the demo plans, executes and checks', () => {
    const { status, stdout, stderr } = fusco('demo');
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toContain(hasPrebuilt ? 'host' : 'reference');
  });

  it('plan, verify and run --check work on files', () => {
    copyFileSync(join(root, 'tools/demo/moe256-ep8x512-mixed-l3.idx.npy'), inHome('ids.npy'));
    expect(fusco('plan', 'ids.npy', '--experts', '256', '-o', 'a.fusco').status).toBe(0);
    expect(fusco('verify', 'a.fusco', '--routing', 'ids.npy').status).toBe(0);
    expect(fusco('inspect', 'a.fusco', '--html', 'a.html').status).toBe(0);
    script(`
      import { writeFileSync } from 'node:fs';
      const text = "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 512, 4), }".padEnd(117) + '\\n';
      const rows = Float32Array.from({ length: 8 * 512 * 4 }, (_, i) => i % 97);
      const head = Buffer.from('\\x93NUMPY\\x01\\x00\\x76\\x00' + text, 'latin1');
      writeFileSync('x.npy', Buffer.concat([head, new Uint8Array(rows.buffer)]));
    `);
    const checked = fusco('run', 'a.fusco', '--input', 'x.npy', '--out', 'out', '--check');
    expect(checked.status, checked.stderr).toBe(0);
  });

  it('an exchange through the API gives the rows back', () => {
    const printed = script(`
      import { createGroup } from 'fusco';
      const group = await createGroup({ ranks: 2 });
      const table = (ids) => ({ ids: Int32Array.from(ids), tokens: ids.length / 2, topk: 2 });
      const plan = group.plan([table([0, 3, 1, -1]), table([2, 0])], { experts: 4, hidden: 2, dtype: 'f32' });
      const exchange = await group.prepare(plan);
      const rows = [Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6)];
      const received = exchange.recvRows.map((count) => new Float32Array(2 * count));
      await exchange.dispatch({ payloads: [{ rowBytes: 8, from: rows, to: received }] });
      const to = exchange.tokens.map((count) => new Float32Array(2 * count));
      const weights = [Float32Array.of(0.5, 0.5, 1, 0), Float32Array.of(0.25, 0.75)];
      await exchange.combine({ dtype: 'f32', rowBytes: 8, from: received, to, weights });
      console.log(group.backend, to.join(';'));
      group.close();
    `);
    expect(printed).toBe(`${hasPrebuilt ? 'host' : 'reference'} 1,2,3,4;5,6\n`);
  });

  it('fusco/planner plans with the Wasm of the package', () => {
    const printed = script(`
      import { readFile } from 'node:fs/promises';
      import { createRequire } from 'node:module';
      import { decodePlan, encodePlan, Planner, subtleSha256, verifyPlan } from 'fusco/planner';
      const wasm = await readFile(createRequire(import.meta.url).resolve('fusco/planner.wasm'));
      const planner = await Planner.create(wasm);
      const plan = planner.planAll([{ ids: Int8Array.of(1, 0), tokens: 1, topk: 2 }], { ranks: 1, experts: 2 });
      const { bytes, planId } = await encodePlan(plan, subtleSha256);
      const decoded = await decodePlan(bytes, subtleSha256);
      verifyPlan(decoded.plan);
      console.log(decoded.planId === planId, planId.length);
    `);
    expect(printed).toBe('true 64\n');
  });

  it('fusco/vitest adds its matcher where vitest is', { timeout: 60_000 }, () => {
    symlinkSync(join(root, 'node_modules/vitest'), inHome('node_modules/vitest'));
    writeFileSync(
      inHome('plan.test.mjs'),
      `import { expect, it } from 'vitest';
       import 'fusco/vitest';
       it('has the matcher', () => expect(typeof expect(1).toMatchPlan).toBe('function'));`,
    );
    const { status, stdout, stderr } = run(process.execPath, 'node_modules/vitest/vitest.mjs', 'run');
    expect(status, stdout + stderr).toBe(0);
  });

  it('the viewer serves its page, worker and Wasm', async () => {
    const server = spawn(inHome('node_modules/.bin/fusco'), ['view'], { cwd: home, env: ENV });
    try {
      const url = await new Promise<string>((resolve) =>
        server.stdout.once('data', (text) => resolve(String(text).trim())),
      );
      for (const name of ['', 'viewer.js', 'worker.js', 'viewer.css', 'planner.wasm', 'example.npy']) {
        const answer = await fetch(url + name);
        expect([name, answer.status, (await answer.arrayBuffer()).byteLength > 500]).toEqual([
          name,
          200,
          true,
        ]);
      }
    } finally {
      server.kill('SIGINT');
    }
  });

  it('its types are whole', { timeout: 60_000 }, () => {
    writeFileSync(
      inHome('types.mts'),
      `import { createGroup, type Group } from 'fusco';
       import { Planner } from 'fusco/planner';
       const group: Promise<Group> = createGroup({ ranks: 2, backend: 'reference' });
       const wrong: number = group;
       export { group, Planner, wrong };`,
    );
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node'];
    const types = ['--typeRoots', join(root, 'node_modules/@types'), '--lib', 'es2023,dom,esnext.disposable'];
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const { stdout } = run(process.execPath, tsc, ...options, ...types, 'types.mts');
    // The one mistake of the file, and none in the package.
    expect(stdout.match(/error TS/g), stdout).toHaveLength(1);
    expect(stdout).toMatch(/^types\.mts\(4,/);
  });
});

describe('where no addon is for this machine', () => {
  beforeAll(() => rmSync(installed('prebuilds'), { recursive: true, force: true }));

  it('the reference runs, and doctor says why and what to do', () => {
    const printed = script(`
      import { createGroup } from 'fusco';
      console.log((await createGroup({ ranks: 1 })).backend);
      try {
        await createGroup({ ranks: 1, backend: 'host' });
      } catch (error) {
        console.log(error.code, error.message);
      }
    `);
    const [backend, refusal] = printed.split('\n');
    expect(backend).toBe('reference');
    expect(refusal).toMatch(/^E_BACKEND .*is not built.*`npm run build:native` in .*node_modules\/fusco$/);
    expect(fusco('demo').status).toBe(0);
    expect(fusco('doctor').stdout).toContain('npm run build:native');
  });

  const tools = ['cmake', 'g++'].every(
    (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0,
  );
  it.skipIf(!tools)(
    'what doctor says to do builds it from the source in the package',
    { timeout: 300_000 },
    () => {
      const args = [
        'run',
        '--silent',
        'build:native',
        '--',
        '-DFUSCO_CUDA=OFF',
        '-DCMAKE_CXX_FLAGS_RELEASE=-O1',
      ];
      const built = spawnSync('npm', args, { cwd: installed(), encoding: 'utf8', env: ENV });
      expect(built.status, built.stdout + built.stderr).toBe(0);
      const host = JSON.parse(fusco('doctor', '--json').stdout).findings.find(
        ({ name }: { name: string }) => name === 'host',
      );
      expect(host.ok, host.found).toBe(true);
      expect(
        fusco('run', 'a.fusco', '--input', 'x.npy', '--out', 'out', '--backend', 'host', '--check').status,
      ).toBe(0);
    },
  );
});
