// Too little memory, given by `ulimit -v`: E_MEMORY, exit code 2, nothing left behind.
//
// A process needs about 12 GB of address space before it does anything, nearly all of it V8's reservations; the tests
// search for the least in which a small command works.

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, truncateSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { findAddon } from '../../executor/native/addon.ts';
import { type Result, ROOT, save, saveNpy, spawnFusco, useTemporaryDirectory } from '../support/cli.ts';
import { shell } from './support.ts';

useTemporaryDirectory();

const [RANKS, TOKENS, TOPK, EXPERTS] = [2, 64, 32, 64];
const PLAN = ['plan', 'routing.npy', '--experts', String(EXPERTS), '-o', 'a.fusco'];
const OLD = 'what was here before';
const GB = 1e6;
const isLinux = process.platform === 'linux';

beforeEach(() => {
  const ids = Int16Array.from({ length: RANKS * TOKENS * TOPK }, (_, i) => (i % TOPK) * 2 + (i & 1 ? 1 : 0));
  saveNpy('routing.npy', 'i16', [RANKS, TOKENS, TOPK], ids);
});

const within = (kilobytes: number, args: readonly string[]): Promise<Result> =>
  shell(`ulimit -c 0; ulimit -v ${kilobytes}; exec "$@"`, args);

/** The least of address space, in kilobytes and steps of half a gigabyte, in which a small command works. */
async function leastFor(args: readonly string[]): Promise<number> {
  for (let size = 10 * GB; size < 64 * GB; size += GB / 2) {
    if ((await within(size, args)).code === 0) return size;
  }
  throw new Error('no limit of address space is enough');
}

/** An input of zeros [ranks, tokens, hidden] that takes no room on the disk. */
function saveHollow(file: string, hidden: number): void {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${RANKS}, ${TOKENS}, ${hidden}), }`.padEnd(
    117,
  );
  save(file, Buffer.from(`\x93NUMPY\x01\x00\x76\x00${text}\n`, 'latin1'));
  truncateSync(file, 128 + 4 * RANKS * TOKENS * hidden);
}

const E_MEMORY = /^error\[E_MEMORY\]: [^\n]+ \([^\n]+\)\n$/;

describe.skipIf(!isLinux)('too little memory', () => {
  it.each([6 * GB, 9 * GB])('for the planner, %i kB: E_MEMORY, the old file is unchanged', async (size) => {
    save('a.fusco', OLD);
    const { code, stderr } = await within(size, PLAN);
    expect(stderr).toMatch(E_MEMORY);
    expect(code).toBe(2);
    expect(readFileSync('a.fusco', 'utf8')).toBe(OLD);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it('for Node itself: a nonzero exit code, the old file is unchanged', async () => {
    save('a.fusco', OLD);
    // Node's own message then, not ours.
    expect((await within(GB / 4, PLAN)).code).not.toBe(0);
    expect(readFileSync('a.fusco', 'utf8')).toBe(OLD);
    expect(readdirSync('.').sort()).toEqual(['a.fusco', 'routing.npy']);
  });

  it.each(['host', 'reference'])(
    'for the receive buffers of run, %s backend: E_MEMORY, no output',
    { timeout: 180_000 },
    async (backend) => {
      if (backend === 'host' && findAddon().addon === undefined) return;
      expect((await spawnFusco(...PLAN)).code).toBe(0);
      saveHollow('small.npy', 4);
      // 128 MiB of input, 4 GiB of receive buffers.
      saveHollow('big.npy', 1 << 18);
      const run = (input: string) => [
        'run',
        'a.fusco',
        '--input',
        input,
        '--out',
        'out',
        '--backend',
        backend,
      ];
      const least = await leastFor(['inspect', 'a.fusco']);
      const { code, stderr } = await within(least + 2 * GB, run('big.npy'));
      expect(stderr).toMatch(E_MEMORY);
      expect(code).toBe(2);
      expect(readdirSync('.')).not.toContain('out');
      expect((await within(least + 2 * GB, run('small.npy'))).code).toBe(0);
    },
  );

  it.skipIf(findAddon().addon === undefined)(
    'for a thousand threads of the host backend: a FuscoError E_MEMORY, and fewer still work',
    { timeout: 60_000 },
    () => {
      const open = (threads: number) => {
        const source = `
          import { createGroup } from ${JSON.stringify(`${ROOT}dist/executor/index.js`)};
          try {
            (await createGroup({ ranks: 1, backend: 'host', threads: ${threads} })).close();
            console.log('open');
          } catch (error) {
            console.log(error.name, error.code);
          }
        `;
        const line = `ulimit -c 0; ulimit -v ${14 * GB}; exec "$@"`;
        const node = [process.execPath, '--input-type=module', '-e', source];
        const { stdout, stderr } = spawnSync('bash', ['-c', line, 'bash', ...node], { encoding: 'utf8' });
        return stdout + stderr;
      };
      expect(open(1024)).toBe('FuscoError E_MEMORY\n');
      expect(open(2)).toBe('open\n');
    },
  );
});
