// Meeting again at the same port, after a good end and after a failure.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { errorOf, freePort, resultOf, startGroup, startRank } from './support.ts';

const SCRIPT = fileURLToPath(new URL('reconnect.mjs', import.meta.url));
const MIB = 2 ** 20;

interface Held {
  i: number;
  files: number;
  rss: number;
  heapUsed: number;
  handles: number;
  listeners: number;
}

// Side by side: the long one has a separate process, which the others hardly disturb.
describe.concurrent('a group of two that meets again', () => {
  it('200 times, every second time after a failure, holds no more than it did before', async () => {
    const args = ['--expose-gc', SCRIPT, String(await freePort()), '200', '40'];
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { timeout: 280_000 });
    expect(stderr).toBe('');
    const held: Held[] = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(held.map(({ i }) => i)).toEqual([40, 80, 120, 160, 200]);
    const [first, last] = [held[0]!, held.at(-1)!];
    expect(first.listeners).toBe(0);
    expect([last.files, last.handles, last.listeners]).toEqual([first.files, first.handles, 0]);
    expect(last.heapUsed - first.heapUsed).toBeLessThan(MIB);
    expect(last.rss - first.rss).toBeLessThan(16 * MIB);
  }, 300_000);

  it('at once: a rank that is early waits for the session before to be over', async () => {
    const again = 'connect,barrier,close,connect,gather a,close';
    const slow = 'connect,barrier,sleep 700,close,connect,gather b,close';
    for (const scripts of [
      [again, slow],
      [slow, again],
    ]) {
      const ranks = await startGroup(scripts);
      const parts = scripts.map((script) => (script === again ? 'a' : 'b'));
      for (const [rank, part] of parts.entries())
        expect(await resultOf(ranks[rank]!, `gather ${part}`)).toEqual(parts);
    }
  });

  it('after a rank was killed and started again', async () => {
    const port = await freePort();
    const survivor = 'connect,barrier,barrier 5000,close,connect,gather a,close';
    const [zero, one] = await startGroup([survivor, 'connect,barrier,hold'], { port });
    await one!.line('hold');
    one!.signal('SIGKILL');
    await one!.ended;
    expect(await errorOf(zero!, 'barrier 5000')).toMatchObject({ code: 'E_PEER_TIMEOUT', rank: 1 });
    const next = startRank(1, 'connect,gather b,close', { port });
    expect(await resultOf(next, 'gather b')).toEqual(['a', 'b']);
    expect(await resultOf(zero!, 'gather a')).toEqual(['a', 'b']);
  });
});
