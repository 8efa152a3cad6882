// What npm runs after an install in a checkout: the whole build. `npx fusco` in a checkout makes npm install the checkout
// for itself, which would build again, silently and for minutes; nothing is missing there that `npm ci` has not built.

import { execSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

if (process.env.npm_command !== 'exec') {
  const cwd = fileURLToPath(new URL('../..', import.meta.url));
  execSync('npm run build && node tools/build/native.mjs', { cwd, stdio: 'inherit' });
}
