// npm run soak -- [--minutes M | --seconds S] [--seed N] [--case I]: see test/soak/main.ts and docs/testing.md.

import { spawnSync } from 'node:child_process';
import { bundle } from '../support/bundle.mjs';

const file = await bundle('test/soak/main.ts');
const run = spawnSync(process.execPath, ['--expose-gc', file, ...process.argv.slice(2)], {
  stdio: 'inherit',
});
process.exitCode = run.status ?? 2;
