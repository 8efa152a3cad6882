// Examples are compiled and run as users run them.

import { execFile, execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Throws with what the compiler says. */
export function buildExamples(): void {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  execFileSync(process.execPath, [tsc, '-p', join(ROOT, 'examples')], { cwd: ROOT, encoding: 'utf8' });
}

/** Runs an example and gives its exit code and what it printed. */
export function runExample(
  name: string,
  args: readonly string[],
  program = 'main.js',
): Promise<{ code: number; stdout: string; stderr: string }> {
  const file = join(ROOT, 'build/examples', name, program);
  return new Promise((resolve) => {
    execFile(process.execPath, [file, ...args], { timeout: 50_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
