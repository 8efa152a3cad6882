// The command line under a shell that limits a resource first.

import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { LAUNCHER, type Result, run } from '../support/programs.ts';

/** Runs a shell line in which "$@" is the command. */
export function shell(line: string, args: readonly string[]): Promise<Result> {
  return run('bash', ['-c', line, 'bash', process.execPath, LAUNCHER, ...args]);
}

/** Mounts live in a namespace of their own, which ends with its last process: nothing is left behind. */
const NAMESPACE = ['unshare', '--mount', '--propagation', 'private'] as const;

export const canMount =
  process.platform === 'linux' &&
  spawnSync(NAMESPACE[0], [...NAMESPACE.slice(1), 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], {
    stdio: 'ignore',
  }).status === 0;

/** Runs a shell line in which M is a file system of `size` and "$@" is the command. */
export function inSmallMount(size: string, line: string, args: readonly string[]): Promise<Result> {
  mkdirSync('M');
  const inner = `mount -t tmpfs -o size=${size} tmpfs M || exit 99; ${line}`;
  return shell(`exec ${NAMESPACE.join(' ')} bash -c '${inner.replaceAll("'", "'\\''")}' bash "$@"`, args);
}

/** A command that is ended by SIGINT as soon as `isReady` says so; its exit as a shell shows it. */
export async function interrupt(
  args: readonly string[],
  isReady: () => boolean,
): Promise<{ code: number; stderr: string }> {
  const child = spawn(process.execPath, [LAUNCHER, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text) => (stderr += text));
  const ended = new Promise<number>((resolve) =>
    child.on('close', (code, signal) => resolve(signal === 'SIGINT' ? 130 : (code ?? -1))),
  );
  while (child.exitCode === null && !isReady()) await new Promise(setImmediate);
  child.kill('SIGINT');
  return { code: await ended, stderr };
}
