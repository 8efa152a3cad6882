// Runs once before all tests: the command line is tested as users run it, so dist/ must be what the sources say.
// Type errors do not stop it (`npm run typecheck` is there for them); tsc writes its output all the same.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Whether a source has no output or a newer date than its output. */
function isStale(): boolean {
  return ['planner', 'executor', 'tools'].some((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).some((name) => {
      if (!name.endsWith('.ts') || (folder === 'planner' && name.startsWith('assembly'))) return false;
      const output = join(ROOT, 'dist', folder, name.replace(/\.ts$/, '.js'));
      return !existsSync(output) || statSync(output).mtimeMs < statSync(join(ROOT, folder, name)).mtimeMs;
    }),
  );
}

export default function setup(): void {
  if (!isStale()) return;
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  try {
    execFileSync(process.execPath, [tsc, '-p', 'tsconfig.json'], { cwd: ROOT, stdio: ['ignore', 2, 2] });
  } catch (error) {
    process.stderr.write(`tsc: ${(error as Error).message}\n`);
  }
}
