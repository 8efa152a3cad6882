// package.json is the one source of the version; whatever else states it is compared with it here.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { packageVersion } from '../executor/version.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const { version } = JSON.parse(read('package.json')) as { version: string };

it('the package and its lock file', () => {
  expect(packageVersion()).toBe(version);
  const lock = JSON.parse(read('package-lock.json'));
  expect([lock.version, lock.packages[''].version]).toEqual([version, version]);
});

it('the C header', () => {
  const header = read('native/include/fusco.h');
  const parts = ['MAJOR', 'MINOR', 'PATCH'].map(
    (part) => new RegExp(`^#define FUSCO_VERSION_${part} (\\d+)$`, 'm').exec(header)?.[1],
  );
  expect(parts.join('.')).toBe(version);
});

it('the Python package', () => {
  const project = read('native/python/pyproject.toml');
  expect(/^version = "(.+)"$/m.exec(project)?.[1]).toBe(version);
});

it('the producer that a plan file names', () => {
  const files = readdirSync(join(ROOT, 'planner/format')).map((file) => read(`planner/format/${file}`));
  const named = files.flatMap((text) =>
    [...text.matchAll(/'fusco (\d+\.\d+\.\d+)'/g)].map((match) => match[1]),
  );
  expect(named).toEqual([version]);
});

it('CITATION.cff, and the newest released section of CHANGELOG.md', () => {
  expect(/^version: (.+)$/m.exec(read('CITATION.cff'))?.[1]).toBe(version);
  expect(/^## (\d+\.\d+\.\d+)/m.exec(read('CHANGELOG.md'))?.[1]).toBe(version);
});
