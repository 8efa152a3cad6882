// Runs the C programs of native/test, which use the library through fusco.h alone.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const build = fileURLToPath(new URL('../../build/native', import.meta.url));

it.skipIf(!existsSync(`${build}/CTestTestfile.cmake`))('the C tests pass', () => {
  const arguments_ = ['--test-dir', build, '-C', 'Release', '--output-on-failure', '--no-tests=error'];
  const run = spawnSync('ctest', arguments_, { encoding: 'utf8' });
  expect(run.stdout + run.stderr).toContain('100% tests passed');
  expect(run.status).toBe(0);
});
