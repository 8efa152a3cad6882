// What `npm pack` would publish, and what it pulls in.

import { existsSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { hasPrebuilt, npmPack, root } from './support.ts';

const read = (path: string) => readFileSync(`${root}/${path}`, 'utf8');
const manifest = JSON.parse(read('package.json'));

const PREBUILT = 'prebuilds/linux-x64/fusco.node';

/** Files that are not compiled TypeScript or native sources; all of them, by name. */
const OTHERS = [
  'ARCHITECTURE.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'LICENSE',
  'README.md',
  'SECURITY.md',
  'build/planner/planner.wasm',
  'build/viewer/index.html',
  'build/viewer/report.js',
  'build/viewer/style.css',
  'build/viewer/viewer.css',
  'build/viewer/viewer.js',
  'build/viewer/worker.js',
  'native/package.json',
  'package.json',
  ...(hasPrebuilt ? [PREBUILT] : []),
  'tools/demo/README.md',
  'tools/demo/moe256-ep8x512-mixed-l3.idx.npy',
  'tools/demo/moe256-ep8x512-mixed-l3.w.npy',
  'tools/fusco.js',
];

const KINDS = [
  /^dist\/(planner|executor|tools)\/.+\.(js|d\.ts)$/,
  /^tools\/build\/.+\.(mjs|cjs|sh|d\.mts)$/,
  /^native\/(?!fuzz\/)(.+\/)?(CMakeLists\.txt|\.clang-format|[^/]+\.(c|cc|cmake|cu|h|hpp|cuh))$/,
  /^docs\/[^/]+\.(md|png)$/,
];

let files: string[];
beforeAll(() => {
  files = npmPack('--dry-run').files.map((file) => file.path);
}, 240_000);

describe('the package', () => {
  it('holds what is compiled, native sources to build the addon from, and nothing else that is not named here', () => {
    expect(files.filter((file) => !KINDS.some((kind) => kind.test(file))).sort()).toEqual(OTHERS);
  });

  it('holds no tests, and no binary but the one prebuilt addon', () => {
    const found = files.filter((file) => /^(test|\.ci)\/|\.(node|so|a|o|tgz|fusco|test\.ts)$/.test(file));
    expect(found).toEqual(hasPrebuilt ? [PREBUILT] : []);
  });

  it('holds every file that its exports, imports and bin name', () => {
    const named: string[] = [];
    const collect = (value: unknown) => {
      if (typeof value === 'string') named.push(value.replace(/^\.\//, ''));
      else for (const inner of Object.values(value as object)) collect(inner);
    };
    collect(manifest.exports);
    collect(manifest.imports);
    collect(manifest.bin);
    expect(named.length).toBeGreaterThan(8);
    // The addon is built on the machine where the package is installed; that of the benches in a checkout only.
    const made = ['build/native/Release/fusco.node', 'build/native/Release/fusco_bench.node'];
    const missing = named.filter(
      (file) => !made.includes(file) && !file.includes('*') && !files.includes(file),
    );
    expect(missing).toEqual([]);
  });
});

describe('dependencies', () => {
  const lock = JSON.parse(read('package-lock.json')).packages as Record<
    string,
    { license?: string; dev?: boolean; optional?: boolean; peer?: boolean; version: string }
  >;
  const runtime = Object.entries(lock)
    .filter(([path, { dev, peer }]) => path.startsWith('node_modules/') && !dev && !peer)
    .map(([path, entry]) => ({ name: path.replace(/^.*node_modules\//, ''), ...entry }));

  it('are pinned exactly', () => {
    for (const version of Object.values(manifest.dependencies)) expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it('are listed with their licences in docs/licences.md, all of them and no others', () => {
    const listed = [...read('docs/licences.md').matchAll(/^\| `([^`]+)` \| ([^|]+) \|/gm)].map(
      ([, name, licence]) => `${name} ${licence!.trim()}`,
    );
    expect(listed.sort()).toEqual([...new Set(runtime.map((d) => `${d.name} ${d.license}`))].sort());
  });

  it('say the same of themselves where they are installed', () => {
    let seen = 0;
    for (const { name, license } of runtime) {
      if (!existsSync(`${root}/node_modules/${name}/package.json`)) continue;
      expect([name, JSON.parse(read(`node_modules/${name}/package.json`)).license]).toEqual([name, license]);
      seen++;
    }
    expect(seen).toBeGreaterThanOrEqual(Object.keys(manifest.dependencies).length);
  });
});
