// Examples are compiled and run as users run them.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { node, type Result, ROOT } from '../support/programs.ts';

/** Throws with what the compiler says. */
export function buildExamples(): void {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  execFileSync(process.execPath, [tsc, '-p', join(ROOT, 'examples')], { cwd: ROOT, encoding: 'utf8' });
}

/** Runs an example and gives its exit code and what it printed. */
export function runExample(name: string, args: readonly string[], program = 'main.js'): Promise<Result> {
  return node([join(ROOT, 'build/examples', name, program), ...args], { timeout: 50_000 });
}
