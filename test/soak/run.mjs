// npm run soak -- [--minutes M | --seconds S] [--seed N] [--case I]: see test/soak/main.ts and docs/testing.md.

import { spawnSync } from 'node:child_process';
import { bundle } from '../support/bundle.mjs';

const file = await bundle('test/soak/main.ts');
// Resident memory should be what is in use: freed blocks go back to the system at once instead of waiting for blocks
// of their size, and the part of the heap for young objects does not grow while the process warms up.
const env = {
  ...process.env,
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '32768',
  MALLOC_TRIM_THRESHOLD_: '65536',
};
const args = ['--expose-gc', '--max-semi-space-size=1', file, ...process.argv.slice(2)];
const run = spawnSync(process.execPath, args, { stdio: 'inherit', env });
process.exitCode = run.status ?? 2;
