// SIGINT while a command works: exit code 130, and the old files, complete new ones or none; never a partial file or a
// temporary file.

import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { loadNpy, ROOT, save, saveNpy, spawnFusco, useTemporaryDirectory } from '../support/cli.ts';
import { interrupt } from './support.ts';

useTemporaryDirectory();

const [RANKS, TOKENS, TOPK] = [8, 4096, 8];
const ROUTING = ['routing.npy', '--experts', '64', '--ranks', String(RANKS)];
const OLD = 'what was here before';

beforeEach(() => {
  const ids = Int16Array.from({ length: RANKS * TOKENS * TOPK }, (_, i) => (i * 7 + (i % TOPK) * 13) % 64);
  saveNpy('routing.npy', 'i16', [RANKS, TOKENS, TOPK], ids);
});

const temporaries = (folder: string) => {
  try {
    return readdirSync(folder).filter((name) => name.endsWith('.tmp'));
  } catch {
    return [];
  }
};

/** Interrupts a command while a temporary of its output is there; a run that was done before is tried again. */
async function interruptWrite(args: readonly string[], folder: string): Promise<string> {
  for (let attempt = 0; attempt < 8; attempt++) {
    let wasWriting = false;
    const isWriting = () => (wasWriting ||= temporaries(folder).length > 0);
    const { code, stderr } = await interrupt(args, isWriting);
    expect(temporaries(folder)).toEqual([]);
    expect(wasWriting, stderr).toBe(true);
    if (code === 0) continue;
    expect(code, stderr).toBe(130);
    return stderr;
  }
  throw new Error('the command was done each time before the signal came');
}

describe.skipIf(process.platform !== 'linux')('SIGINT', () => {
  it.each([
    ['plan', []],
    ['plan --stream', ['--stream']],
  ])('while %s writes: the old file is unchanged', { timeout: 120_000 }, async (_, more) => {
    const args = ['plan', ...ROUTING, ...more, '-o', 'a.fusco'];
    for (;;) {
      save('a.fusco', OLD);
      const stderr = await interruptWrite(args, '.');
      // A signal that came between the rename and the end of the process finds the new file, whole.
      if (readFileSync('a.fusco', 'latin1') !== OLD) {
        expect((await spawnFusco('verify', 'a.fusco')).code).toBe(0);
        continue;
      }
      expect(stderr).not.toContain('error');
      break;
    }
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it('while run writes: every file there is complete, and the last ones are missing', {
    timeout: 120_000,
  }, async () => {
    expect((await spawnFusco('plan', ...ROUTING, '-o', 'a.fusco')).code).toBe(0);
    const hidden = 64;
    saveNpy('x.npy', 'f32', [RANKS, TOKENS, hidden], new Float32Array(RANKS * TOKENS * hidden).fill(3));
    await interruptWrite(['run', 'a.fusco', '--input', 'x.npy', '--out', 'out'], 'out');
    const names = readdirSync('out');
    expect(names.length).toBeLessThan(2 * RANKS);
    for (const name of names) {
      expect(name).toMatch(/^rank\d\.(recv|combined)\.npy$/);
      expect(loadNpy(`out/${name}`).shape[1]).toBe(hidden);
    }
  });

  it.each([100, 250, 400])('%i ms after the start of plan: no file, or a complete plan', async (after) => {
    const start = performance.now();
    const args = ['plan', ...ROUTING, '-o', 'a.fusco'];
    const { code, stderr } = await interrupt(args, () => performance.now() - start > after);
    // 0 is a command that was done.
    expect([0, 130], stderr).toContain(code);
    const names = readdirSync('.').filter((name) => name !== 'routing.npy');
    expect(names.length === 0 || names.join() === 'a.fusco').toBe(true);
    if (names.length > 0) expect((await spawnFusco('verify', 'a.fusco')).code).toBe(0);
  });

  it('while the viewer serves: exit code 130, and only its own message on stderr', async () => {
    expect((await spawnFusco('plan', ...ROUTING, '-o', 'a.fusco')).code).toBe(0);
    const child = spawn(process.execPath, [`${ROOT}tools/fusco.js`, 'view', 'a.fusco'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (text) => (stderr += text));
    const url = await new Promise<string>((resolve) =>
      child.stdout.once('data', (text) => resolve(String(text).trim())),
    );
    expect((await fetch(url)).status).toBe(200);
    const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve([code, signal])));
    child.kill('SIGINT');
    expect(await ended).toEqual([130, null]);
    expect(stderr).toMatch(/^open this address [^\n]+\n$/);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });
});
