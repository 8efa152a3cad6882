// The planner runs in a browser: nothing that it imports may need Node.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { encodePlan, Planner, subtleSha256 } from '../../planner/index.ts';
import { importsOf } from '../support/imports.ts';
import { toTables } from '../support/workloads.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** msgpackr has a build for browsers; nothing else may be imported from outside. */
const ALLOWED_PACKAGES = new Set(['msgpackr']);

/** Every file that planner/index.ts reaches, and every import that leaves the folder. */
function reach(): { files: string[]; foreign: string[] } {
  const open = [join(ROOT, 'planner/index.ts')];
  const seen = new Set(open);
  const foreign: string[] = [];
  for (const file of open) {
    for (const target of importsOf(readFileSync(file, 'utf8'))) {
      if (!target.startsWith('.')) {
        foreign.push(target);
        continue;
      }
      const path = join(dirname(file), target);
      if (!seen.has(path)) open.push(path);
      seen.add(path);
    }
  }
  return { files: open.map((file) => relative(ROOT, file)), foreign };
}

describe('planner/index.ts', () => {
  it('reaches its own folder and msgpackr only', () => {
    const { files, foreign } = reach();
    expect(files.length).toBeGreaterThan(10);
    expect(files).toContain('planner/verify/verify.ts');
    expect(files).not.toContain('planner/node.ts');
    expect(files.filter((file) => !file.startsWith('planner/'))).toEqual([]);
    expect(foreign.filter((name) => !ALLOWED_PACKAGES.has(name))).toEqual([]);
  });

  it('uses neither Buffer nor process nor require', () => {
    for (const file of reach().files) {
      const code = readFileSync(join(ROOT, file), 'utf8')
        .replace(/\/\*[\s\S]*?\*\//g, '')
        .replace(/\/\/.*$/gm, '');
      expect(code, file).not.toMatch(
        /(?<![\w-])(Buffer\.|Buffer\(|process\.|require\(|__dirname|globalThis\.process)/,
      );
    }
  });
});

describe('the Wasm', () => {
  const bytes = readFileSync(createRequire(import.meta.url).resolve('#planner.wasm'));

  it('needs no imports, and starts from its bytes alone', async () => {
    const module = await WebAssembly.compile(bytes);
    expect(WebAssembly.Module.imports(module)).toEqual([]);
    const tables = toTables([[[0, 1]], [[1, -1]]], 2);
    const options = { ranks: 2, experts: 2 };
    const ids = new Set<string>();
    for (const wasm of [bytes, new Uint8Array(bytes).buffer, module]) {
      const plan = (await Planner.create(wasm)).planAll(tables, options);
      ids.add((await encodePlan(plan, subtleSha256)).planId);
    }
    expect(ids.size).toBe(1);
  });

  it('is small enough to be loaded without a thought', () => {
    expect(bytes.length).toBeLessThan(65536);
  });
});
