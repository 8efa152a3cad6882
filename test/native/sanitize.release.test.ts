// The C tests under sanitizers, in builds of their own; tools/build/sanitize.sh has the rest.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const tools = ['cmake', 'ninja', 'g++'].every(
  (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0,
);

it.skipIf(!tools)(
  'the C tests are clean under the address, undefined-behavior and thread sanitizers',
  { timeout: 900_000 },
  () => {
    const run = spawnSync('tools/build/sanitize.sh', ['short'], { cwd: root, encoding: 'utf8' });
    expect(run.stderr).toBe('');
    expect(run.stdout.match(/100% tests passed/g)).toHaveLength(2);
    expect(run.status).toBe(0);
  },
);
