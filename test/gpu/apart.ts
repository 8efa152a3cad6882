// Runs numbered cases in a process of its own, so that a case that hangs or breaks the GPU costs its result only.

import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';

export interface CaseResult {
  readonly name: string;
  readonly seconds: number;
  /** Empty: passed. */
  readonly error: string;
}

/** Adds a result to the file of results, a line of JSON for each. */
export function tellResult(file: string, result: CaseResult): void {
  appendFileSync(file, `${JSON.stringify(result)}\n`);
}

function toldResults(file: string): CaseResult[] {
  // What follows the last end of line is not complete.
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line) as CaseResult);
}

/**
 * Runs the cases `names` by processes of Node, one after the other: each goes on behind the case that the last one ended
 * with.
 *
 * @param command script and arguments of a process, which calls tellResult for each case; the number of its first case
 * follows
 * @param file where results are told; it has those of all cases so far at any time
 * @param mostSeconds time of a case, after which its process is killed
 * @param signal ends the run; cases without a result are left out
 */
export async function runApart(
  names: readonly string[],
  command: readonly string[],
  file: string,
  mostSeconds: number,
  signal?: AbortSignal,
): Promise<CaseResult[]> {
  writeFileSync(file, '');
  let results: CaseResult[] = [];
  while (results.length < names.length && signal?.aborted !== true) {
    const first = results.length;
    const why = await runOnce([...command, String(first)], file, mostSeconds, signal);
    results = toldResults(file);
    const hasEnded = results.length > first && results.at(-1)!.error !== '';
    if (hasEnded || results.length === names.length) continue;
    tellResult(file, { name: names[results.length]!, seconds: 0, error: why });
    results = toldResults(file);
  }
  const left = names.slice(results.length).map((name) => ({ name, seconds: 0, error: 'left out' }));
  return [...results, ...left];
}

/** Runs a process until it ends, or does not tell results any more. Returns why it ended. */
function runOnce(
  command: readonly string[],
  file: string,
  mostSeconds: number,
  signal: AbortSignal | undefined,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...process.execArgv, ...command], { stdio: 'inherit' });
    let count = -1;
    let last = 0;
    let why = '';
    const kill = (reason: string) => {
      why = reason;
      child.kill('SIGKILL');
    };
    const stop = () => kill('the run was ended');
    signal?.addEventListener('abort', stop);
    const timer = setInterval(() => {
      const told = toldResults(file).length;
      if (told !== count) last = performance.now();
      count = told;
      if (performance.now() - last > 1000 * mostSeconds) kill(`no result after ${mostSeconds} s`);
    }, 100);
    const end = () => {
      clearInterval(timer);
      signal?.removeEventListener('abort', stop);
    };
    child.on('error', (error) => {
      end();
      reject(error);
    });
    child.on('close', (code, killedBy) => {
      end();
      resolve(why || `the process ended with ${killedBy ?? `code ${code}`}`);
    });
  });
}
