// What a machine can do to a command: no room, no permission, no memory, a signal, a rival. Each time one line that
// says what is wrong, the exit code of the contract, the old file or the new one, and nothing else left behind.

import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { type Result, ROOT, save, saveNpy, spawnFusco, useTemporaryDirectory } from '../tools/cli/support.ts';

useTemporaryDirectory();

const PLAN = ['plan', 'routing.npy', '--experts', '64', '--ranks', '8', '-o', 'a.fusco'];
const OLD = 'what was here before';

beforeEach(() => {
  const ids = Int16Array.from({ length: 8 * 2048 * 4 }, (_, i) => (i * 7 + (i % 4) * 13) % 64);
  saveNpy('routing.npy', 'i16', [8, 2048, 4], ids);
});

/** Runs a shell line in which "$@" is the command. */
function shell(line: string, args: readonly string[]): Promise<Result> {
  return new Promise((resolve, reject) => {
    const texts = { stdout: '', stderr: '' };
    const child = spawn('bash', ['-c', line, 'bash', process.execPath, `${ROOT}tools/fusco.js`, ...args]);
    for (const name of ['stdout', 'stderr'] as const) child[name].on('data', (text) => (texts[name] += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, ...texts }));
  });
}

describe.skipIf(process.platform !== 'linux')('faults', () => {
  it('no room for the output: E_FILE_WRITE, the old file is whole', async () => {
    save('a.fusco', OLD);
    const { code, stderr } = await shell('trap "" XFSZ; ulimit -f 64; exec "$@"', PLAN);
    expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: a\.fusco: [^\n]+ \([^\n]+\)\n$/);
    expect(code).toBe(2);
    expect(readFileSync('a.fusco', 'utf8')).toBe(OLD);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it('a directory that cannot be written: E_FILE_WRITE', async () => {
    // /proc refuses new files even to root.
    const { code, stderr } = await spawnFusco(...PLAN.slice(0, -1), '/proc/a.fusco');
    expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: \/proc\/a\.fusco: [^\n]+\n$/);
    expect(code).toBe(2);
  });

  it('SIGINT at any moment of plan: 130, and no output or a whole one', async () => {
    for (const after of [150, 300, 450, 600]) {
      const child = spawn(process.execPath, [`${ROOT}tools/fusco.js`, ...PLAN], { stdio: 'ignore' });
      const ended = new Promise<[number | null, string | null]>((resolve) =>
        child.on('exit', (code, signal) => resolve([code, signal])),
      );
      await sleep(after);
      child.kill('SIGINT');
      const [code, signal] = await ended;
      // A shell shows 130 as well for a process that the signal itself ended, and 0 is a command that was done.
      expect(signal === 'SIGINT' || code === 130 || code === 0, `${code} ${signal}`).toBe(true);
      const names = readdirSync('.').filter((name) => name !== 'routing.npy');
      expect(names.length === 0 || names.join() === 'a.fusco').toBe(true);
      if (names.length > 0) expect((await spawnFusco('verify', 'a.fusco')).code).toBe(0);
    }
  });

  it('SIGINT while the viewer serves: 130, or ended by the signal', async () => {
    expect((await spawnFusco(...PLAN)).code).toBe(0);
    const child = spawn(process.execPath, [`${ROOT}tools/fusco.js`, 'view', 'a.fusco', '--port', '0'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    await new Promise((resolve) => {
      child.stdout.once('data', resolve);
      child.stderr.once('data', resolve);
      child.once('exit', resolve);
    });
    const ended = new Promise<[number | null, string | null]>((resolve) =>
      child.on('exit', (code, signal) => resolve([code, signal])),
    );
    expect(child.exitCode).toBe(null);
    child.kill('SIGINT');
    const [code, signal] = await ended;
    expect(signal === 'SIGINT' || code === 130 || code === 0, `${code} ${signal}`).toBe(true);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it('two processes with one output: one of them wins, whole', async () => {
    const rival = PLAN.with(PLAN.indexOf('64'), '128');
    const results = await Promise.all([spawnFusco(...PLAN), spawnFusco(...rival)]);
    expect(results.map(({ code }) => code)).toEqual([0, 0]);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
    expect((await spawnFusco('verify', 'a.fusco')).code).toBe(0);
    expect(statSync('a.fusco').size).toBeGreaterThan(1000);
  });

  it('too little memory: not 0, and nothing left behind', async () => {
    save('a.fusco', OLD);
    // Node may not even start within this, or fail to compile the planner: its own message then, not ours.
    const { code } = await shell('ulimit -c 0; ulimit -v 1000000; exec "$@"', PLAN);
    expect(code).not.toBe(0);
    expect(readFileSync('a.fusco', 'utf8')).toBe(OLD);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });
});
