// Commands without disk space or permission, and two commands with the same output. Each prints one line that says what
// is wrong, ends with the documented exit code, and leaves the old file or the whole new one and no other file.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { loadNpy, save, saveNpy, spawnFusco, useTemporaryDirectory } from '../support/cli.ts';
import { canMount, inSmallMount, shell } from './support.ts';

useTemporaryDirectory();

const PLAN = ['plan', 'routing.npy', '--experts', '64', '--ranks', '8', '-o', 'a.fusco'];
const OLD = 'what was here before';

beforeEach(() => {
  const ids = Int16Array.from({ length: 8 * 2048 * 4 }, (_, i) => (i * 7 + (i % 4) * 13) % 64);
  saveNpy('routing.npy', 'i16', [8, 2048, 4], ids);
});

describe.skipIf(process.platform !== 'linux')('faults', () => {
  it('without disk space: E_FILE_WRITE, the old file is unchanged', async () => {
    save('a.fusco', OLD);
    const { code, stderr } = await shell('trap "" XFSZ; ulimit -f 64; exec "$@"', PLAN);
    expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: a\.fusco: [^\n]+ \([^\n]+\)\n$/);
    expect(code).toBe(2);
    expect(readFileSync('a.fusco', 'utf8')).toBe(OLD);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it('in a directory that cannot be written: E_FILE_WRITE', async () => {
    // /proc refuses new files even to root.
    const { code, stderr } = await spawnFusco(...PLAN.slice(0, -1), '/proc/a.fusco');
    expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: \/proc\/a\.fusco: [^\n]+\n$/);
    expect(code).toBe(2);
  });

  it('on a full device: E_FILE_WRITE', async () => {
    const { code, stderr } = await spawnFusco(...PLAN.slice(0, -1), '/dev/full');
    expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: \/dev\/full: no space left on the device \([^\n]+\)\n$/);
    expect(code).toBe(2);
  });

  describe.skipIf(!canMount)('on a separate file system (skipped if none can be mounted)', () => {
    it('that is full: E_FILE_WRITE, the old file is unchanged', async () => {
      // The plan takes 600 KB.
      const line = `echo -n '${OLD}' > M/a.fusco; ls -A M > before; "$@"; code=$?; ls -A M > after; cat M/a.fusco > kept; exit $code`;
      const { code, stderr } = await inSmallMount('256k', line, [...PLAN.slice(0, -1), 'M/a.fusco']);
      expect(stderr).toMatch(
        /^error\[E_FILE_WRITE\]: M\/a\.fusco: no space left on the device \([^\n]+\)\n$/,
      );
      expect(code).toBe(2);
      expect(readFileSync('kept', 'utf8')).toBe(OLD);
      expect(readFileSync('after', 'utf8')).toBe(readFileSync('before', 'utf8'));
    });

    it('that is full while run writes: every file there is complete', async () => {
      expect((await spawnFusco(...PLAN)).code).toBe(0);
      saveNpy('x.npy', 'f32', [8, 2048, 4], new Float32Array(8 * 2048 * 4));
      // A rank's receive buffer takes 128 KB, its combined rows 32 KB.
      const run = ['run', 'a.fusco', '--input', 'x.npy', '--out', 'M/out'];
      const line = '"$@"; code=$?; mkdir kept; cp -a M/out/. kept; exit $code';
      const { code, stderr } = await inSmallMount('400k', line, run);
      expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: M\/out\/rank\d\.\w+\.npy: no space left on the device/);
      expect(code).toBe(2);
      const names = readdirSync('kept');
      expect(names.length).toBeGreaterThan(0);
      for (const name of names) {
        expect(name).toMatch(/^rank\d\.(recv|combined)\.npy$/);
        const rows = loadNpy(`kept/${name}`).shape[0];
        if (name.endsWith('combined.npy')) expect(rows).toBe(2048);
      }
    });

    it('that is read-only: E_FILE_WRITE', async () => {
      const line = 'mount -o remount,ro M; "$@"';
      const { code, stderr } = await inSmallMount('1m', line, [...PLAN.slice(0, -1), 'M/a.fusco']);
      expect(stderr).toMatch(/^error\[E_FILE_WRITE\]: M\/a\.fusco: read-only file system \([^\n]+\)\n$/);
      expect(code).toBe(2);
    });
  });

  it('two processes with the same output: the file is the complete output of one of them', async () => {
    const rival = PLAN.with(PLAN.indexOf('64'), '128');
    const results = await Promise.all([spawnFusco(...PLAN), spawnFusco(...rival)]);
    expect(results.map(({ code }) => code)).toEqual([0, 0]);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
    expect((await spawnFusco('verify', 'a.fusco')).code).toBe(0);
    expect(statSync('a.fusco').size).toBeGreaterThan(1000);
  });

  it('two processes that run into one directory: every file is the complete output of one of them', async () => {
    expect((await spawnFusco(...PLAN)).code).toBe(0);
    const run = (fill: number) => {
      saveNpy(`x${fill}.npy`, 'f32', [8, 2048, 4], new Float32Array(8 * 2048 * 4).fill(fill));
      return spawnFusco('run', 'a.fusco', '--input', `x${fill}.npy`, '--out', 'out');
    };
    const results = await Promise.all([run(1), run(2)]);
    expect(results.map(({ code }) => code)).toEqual([0, 0]);
    expect(readdirSync('out')).toHaveLength(16);
    for (const name of readdirSync('out')) {
      const values = new Set(loadNpy(`out/${name}`).data as Float32Array);
      // Rows of ones or of twos; combined without weights they are four times as much.
      expect(
        [...values].filter((value) => value !== 0),
        name,
      ).toHaveLength(1);
    }
  });
});
