// Programs that tests start, with what they print and how they end. No test framework is needed here.

import { type ExecFileOptions, execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository, with a slash at the end. */
export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
/** The command line: `node LAUNCHER COMMAND …`. */
export const LAUNCHER = join(ROOT, 'tools/fusco.js');

export interface Result {
  /** The exit code; -1 if a signal ended the program or it did not start. */
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, whatever its exit code. */
export function run(file: string, args: readonly string[], options: ExecFileOptions = {}): Promise<Result> {
  return new Promise((resolve) => {
    const all = { maxBuffer: 1 << 26, ...options, encoding: 'utf8' as const };
    const child = execFile(file, args, all, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : (child.exitCode ?? -1), stdout, stderr });
    });
  });
}

/** Runs node to its end. */
export function node(args: readonly string[], options: ExecFileOptions = {}): Promise<Result> {
  return run(process.execPath, args, options);
}
