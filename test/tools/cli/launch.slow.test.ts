// `fusco launch` as a user starts it; the programs that it starts are small shell and node lines.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectRefusal, fusco, ROOT, spawnFusco } from '../../support/cli.ts';

const sorted = (text: string) => text.split('\n').filter(Boolean).sort();

/** `fusco launch`, to send signals to; gives stdout once the process has ended. */
function startLaunch(...args: string[]): { launcher: ChildProcess; ended: Promise<[number, string]> } {
  const launcher = spawn(process.execPath, [join(ROOT, 'tools/fusco.js'), 'launch', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  launcher.stdout!.on('data', (chunk) => (text += chunk));
  return { launcher, ended: once(launcher, 'close').then(([code]) => [code as number, text]) };
}

async function untilPrinted(launcher: ChildProcess, count: number): Promise<void> {
  for (let seen = 0; seen < count; ) {
    const [chunk] = await once(launcher.stdout!, 'data');
    seen += String(chunk).split('\n').length - 1;
  }
}

describe('fusco launch', () => {
  it('gives every process its rank, the meeting point and one secret', async () => {
    const script =
      'echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR; echo $MASTER_PORT $FUSCO_SECRET >&2';
    const { code, stdout, stderr } = await spawnFusco('launch', '-n', '3', '--', 'sh', '-c', script);
    expect(code).toBe(0);
    expect(sorted(stdout)).toEqual([
      '[0] 0 3 0 3 127.0.0.1',
      '[1] 1 3 1 3 127.0.0.1',
      '[2] 2 3 2 3 127.0.0.1',
    ]);
    const meetings = sorted(stderr).map((line) => line.slice(4));
    expect(meetings).toHaveLength(3);
    expect(new Set(meetings).size).toBe(1);
    expect(meetings[0]).toMatch(/^\d+ [0-9a-f]{64}$/);
  });

  it('starts a group that meets, works and parts', async () => {
    const script = join(ROOT, 'test/executor/rendezvous/rank.mjs');
    const rank = [process.execPath, script, 'connect,gather a,barrier,close'];
    const { code, stdout, stderr } = await spawnFusco('launch', '-n', '3', '--no-prefix', '--', ...rank);
    expect([code, stderr]).toEqual([0, '']);
    const lines = sorted(stdout).map((line) => JSON.parse(line));
    expect(lines.filter(({ did }) => did === 'gather a').map(({ value }) => value)).toEqual(
      Array(3).fill(['a', 'a', 'a']),
    );
    const places = lines.filter(({ did }) => did === 'connect').map(({ value }) => value.localRank);
    expect(places.sort()).toEqual([0, 1, 2]);
  });

  it('keeps the port and a secret that it was given', async () => {
    process.env.FUSCO_SECRET = 'ours';
    try {
      const script = 'echo $MASTER_PORT $FUSCO_SECRET';
      const args = ['launch', '-n', '1', '--port', '23456', '--no-prefix', '--', 'sh', '-c', script];
      expect((await spawnFusco(...args)).stdout).toBe('23456 ours\n');
    } finally {
      delete process.env.FUSCO_SECRET;
    }
  });

  it('tears no line and loses no last line', async () => {
    const script = `for (let i = 0; i < 2000; i++) process.stdout.write('line ' + i + ' of ' + process.env.RANK + '\\n');
      process.stdout.write('open end');`;
    const { code, stdout } = await spawnFusco('launch', '-n', '4', '--', process.execPath, '-e', script);
    expect(code).toBe(0);
    for (let rank = 0; rank < 4; rank++) {
      const own = stdout.split('\n').filter((line) => line.startsWith(`[${rank}] `));
      const expected = Array.from({ length: 2000 }, (_, i) => `[${rank}] line ${i} of ${rank}`);
      expect(own).toEqual([...expected, `[${rank}] open end`]);
    }
    expect(stdout.split('\n')).toHaveLength(4 * 2001 + 1);
  });

  it('ends the others when one fails, and exits with its code', async () => {
    const script = '[ $RANK = 1 ] && exit 7; sleep 50; echo not reached';
    const result = await spawnFusco('launch', '-n', '3', '--', 'sh', '-c', script);
    expect(result).toMatchObject({ code: 7, stdout: '' });
    expect(result.stderr).toBe('fusco launch: rank 1 ended with code 7; ending the other 2\n');
  });

  it('kills what does not end when asked to, with all that it has started', async () => {
    const script =
      '[ $RANK = 0 ] && { sleep 0.5; exit 3; }; trap "" TERM; (trap "" TERM; sleep 50; echo no); echo no';
    const started = performance.now();
    const result = await spawnFusco('launch', '-n', '2', '--grace', '1', '--', 'sh', '-c', script);
    expect(result).toMatchObject({ code: 3, stdout: '' });
    expect(performance.now() - started).toBeGreaterThan(1000);
  });

  it('exits with 128 + signal where a signal ended the first', async () => {
    const script = '[ $RANK = 1 ] && kill -KILL $$; sleep 50';
    const result = await spawnFusco('launch', '-n', '2', '--', 'sh', '-c', script);
    expect(result.code).toBe(137);
    expect(result.stderr).toContain('rank 1 ended by SIGKILL');
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('forwards %s to every rank', async (signal) => {
    const script = `process.on('${signal}', () => { console.log('got it'); process.exit(0); });
      setTimeout(() => process.exit(9), 20000); console.log('up');`;
    const { launcher, ended } = startLaunch('-n', '2', '--', process.execPath, '-e', script);
    await untilPrinted(launcher, 2);
    launcher.kill(signal);
    const [code, stdout] = await ended;
    expect(code).toBe(0);
    expect(sorted(stdout)).toEqual(['[0] got it', '[0] up', '[1] got it', '[1] up']);
  });

  it('refuses a program that is not there, and numbers out of range', async () => {
    expectRefusal(await fusco('launch', '-n', '2', '--', './no-such-program'), 'E_FILE_NOT_FOUND', 'no-such');
    expectRefusal(await fusco('launch', '-n', '0', '--', 'true'), 'E_USAGE', 'from 1 to 4096');
    expectRefusal(await fusco('launch', '-n', '2', '--port', '70000', '--', 'true'), 'E_USAGE', '65535');
    expectRefusal(await fusco('launch', '--', 'true'), 'E_USAGE', '--ranks');
    expectRefusal(await fusco('launch', '-n', '2'), 'E_USAGE', 'program');
  });
});
