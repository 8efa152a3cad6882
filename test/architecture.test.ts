// The rules of the tree that a machine can check: who may import and include what, and what no committed file may say.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ERROR_HINTS } from '../planner/errors.ts';
import { importCycles } from './support/importCycles.ts';
import { importsOf } from './support/imports.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** What .gitignore keeps out of the repository, and the repository's own data. */
const SKIPPED = new Set(['.git', 'node_modules', 'build', 'dist', 'coverage', '.carry', '.device-out']);

function filesUnder(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (SKIPPED.has(entry.name)) return [];
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesUnder(path) : entry.isFile() ? [path] : [];
  });
}

const name = (path: string) => relative(ROOT, path).split(sep).join('/');
const sources = (folder: string) =>
  filesUnder(join(ROOT, folder)).filter(
    (file) => file.endsWith('.ts') && !name(file).startsWith('planner/assembly/'),
  );

/** `file -> import` of every import of a folder that leads into one of the others. */
function importsInto(folder: string, forbidden: readonly string[]): string[] {
  return sources(folder).flatMap((file) =>
    importsOf(readFileSync(file, 'utf8'))
      .filter((target) => target.startsWith('.'))
      .filter((target) => forbidden.includes(name(resolve(dirname(file), target)).split('/')[0]!))
      .map((target) => `${name(file)} -> ${target}`),
  );
}

describe('dependencies run one way', () => {
  it.each([
    ['planner', ['executor', 'tools', 'test', 'native', 'examples']],
    ['executor', ['tools', 'test', 'examples']],
    ['tools', ['test', 'native', 'examples']],
    // By its name, as users do, and not by its files.
    ['examples', ['planner', 'executor', 'tools', 'test', 'native']],
  ])('%s imports nothing of %o', (folder, forbidden) => {
    expect(sources(folder).length).toBeGreaterThan(0);
    expect(importsInto(folder, forbidden)).toEqual([]);
  });

  it('notices an import that runs the other way', () => {
    expect(importsInto('executor', ['planner']).length).toBeGreaterThan(0);
    expect(importsOf("import type { A } from './a.ts';\nexport * from \"b\";\nawait import('c');")).toEqual([
      './a.ts',
      'b',
      'c',
    ]);
  });

  it('planner/node.ts is the one file of planner/ that imports node:', () => {
    const importers = sources('planner').filter((file) =>
      importsOf(readFileSync(file, 'utf8')).some((target) => target.startsWith('node:')),
    );
    expect(importers.map(name)).toEqual(['planner/node.ts']);
  });
});

describe('native code', () => {
  const isNative = /\.(c|cc|cu|cuh|h|hpp)$/;
  const includes = filesUnder(join(ROOT, 'native'))
    .filter((file) => isNative.test(file))
    .flatMap((file) =>
      [...readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm)].map((match) => ({
        folder: name(dirname(file)).split('/').slice(0, 2).join('/'),
        header: match[1]!,
      })),
    );
  const foldersThatInclude = (header: RegExp) =>
    [...new Set(includes.filter((each) => header.test(each.header)).map(({ folder }) => folder))].sort();

  it.each([
    ['the headers of Node', /^(napi|node_api|js_native_api)\.h$/, ['native/node']],
    // cuda.h, cuda_runtime_api.h, cuda_bf16.h, cub/…; not cuda_context.hpp, which is this project's.
    [
      'the headers of CUDA',
      /^(cu(da\w*|blas\w*)\.h|(cub|cuda|cooperative_groups)\/.*)$/,
      ['native/cuda', 'native/nccl'],
    ],
    ['the header of NCCL', /^nccl\.h$/, ['native/nccl']],
  ])('%s are included nowhere else', (_, header, folders) => {
    expect(foldersThatInclude(header)).toEqual(folders);
  });

  it('is reached from tools/ only through executor/', () => {
    const direct = sources('tools').filter((file) =>
      /['"`]#(addon|bench)|\bdlopen\b|\.node['"`]/.test(
        readFileSync(file, 'utf8').replace(/^\s*(\/\/|\*).*$/gm, ''),
      ),
    );
    expect(direct.map(name)).toEqual([]);
  });
});

describe('import cycles', () => {
  const folders = ['planner', 'executor', 'tools', 'examples'];

  it.each(folders)('%s has none', (folder) => {
    const files = filesUnder(join(ROOT, folder)).filter((file) => file.endsWith('.ts'));
    const cycles = importCycles(new Map(files.map((file) => [file, readFileSync(file, 'utf8')])));
    expect(cycles.map((cycle) => cycle.map(name))).toEqual([]);
  });

  it('are found, through any number of files and through types alone', () => {
    const planted = {
      '/a.ts': "import { b } from './b.ts';\nimport { d } from './folder/d.ts';",
      '/b.ts': "export * from './folder/c.ts';",
      '/folder/c.ts': "import type { A } from '../a.ts';\nimport { d } from './d.ts';",
      '/folder/d.ts': "import { readFileSync } from 'node:fs';",
      '/e.ts': "import { a } from './a.ts';\nimport { e } from './e.ts';",
    };
    const at = (path: string) => resolve(ROOT, `.${path}`);
    const files = new Map(Object.entries(planted).map(([path, text]) => [at(path), text]));
    expect(importCycles(files)).toEqual([['/a.ts', '/b.ts', '/folder/c.ts'].map(at), [at('/e.ts')]]);
  });
});

describe('the plan format', () => {
  it('depends on errors, options and the type of a plan, not on the algorithm', () => {
    const outside = sources('planner/format').flatMap((file) =>
      importsOf(readFileSync(file, 'utf8')).filter((target) => target.startsWith('../')),
    );
    expect([...new Set(outside)].sort()).toEqual(['../errors.ts', '../plan.ts', '../spec.ts']);
    const model = ['errors.ts', 'plan.ts', 'spec.ts', 'placement.ts'].map((file) => `planner/${file}`);
    for (const file of model) {
      const targets = importsOf(readFileSync(join(ROOT, file), 'utf8'));
      for (const target of targets.filter((path) => !path.startsWith('./format/'))) {
        expect(model, file).toContain(name(resolve(ROOT, 'planner', target)));
      }
    }
  });
});

describe('committed files', () => {
  /** Folders of one machine; written in pieces, so that this file does not name them. */
  const machines = ['work', 'home', 'root', 'Users'].map((folder) => ['', folder, ''].join('/'));

  it('name no absolute path of the machine they were written on', () => {
    const found: string[] = [];
    for (const file of filesUnder(ROOT)) {
      const bytes = readFileSync(file);
      if (bytes.subarray(0, 8000).includes(0)) continue;
      const text = bytes.toString('utf8');
      for (const machine of machines) {
        // A path starts where no other path goes on.
        const at = text.search(new RegExp(`(^|[^\\w.\\-/*])${machine}\\w`, 'm'));
        if (at >= 0) found.push(`${name(file)}: ${text.slice(at, at + 40)}`);
      }
    }
    expect(found).toEqual([]);
  });
});

describe('docs/errors.md', () => {
  it('lists every code once, in the order of ERROR_HINTS, with its hint', () => {
    const rows = readFileSync(join(ROOT, 'docs/errors.md'), 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('| `E_'))
      .map((line) => line.split(' | ').map((cell) => cell.replace(/^\||\|$/g, '').trim()));
    expect(rows.map(([code]) => code)).toEqual(Object.keys(ERROR_HINTS).map((code) => `\`${code}\``));
    for (const [code, meaning, hint] of rows) {
      expect(meaning!.length, code).toBeGreaterThan(10);
      expect(hint, code).toBe(ERROR_HINTS[code!.slice(1, -1) as keyof typeof ERROR_HINTS]);
    }
  });
});
