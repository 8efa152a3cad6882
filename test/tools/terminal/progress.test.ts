// Progress on a stream that claims to be a terminal, and the command line on a real one where the machine has `script`.

import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { startProgress, withProgress } from '../../../tools/terminal/progress.ts';
import { fusco, ROOT, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();
afterEach(() => vi.restoreAllMocks());

/** A stream of text with the methods of a terminal that the bar uses. */
function terminal(isTTY: boolean): { stream: NodeJS.WriteStream; text: () => string } {
  let text = '';
  const stream = new Writable({
    write(chunk, _, done) {
      text += String(chunk);
      done();
    },
  });
  const size = { isTTY, columns: 80, getWindowSize: () => [80, 24] };
  return { stream: Object.assign(stream, size) as unknown as NodeJS.WriteStream, text: () => text };
}

describe('startProgress', () => {
  it('shows a bar with an estimate once the work takes a while', () => {
    const now = vi.spyOn(performance, 'now').mockReturnValue(0);
    const { stream, text } = terminal(true);
    const { update, stop } = startProgress('planning', stream);
    update(1, 4);
    expect(text()).toBe('');
    now.mockReturnValue(600);
    update(2, 4);
    stop();
    expect(stripVTControlCharacters(text())).toMatch(/planning \[.{30}\] 50 %, .+ left/);
  });

  it('shows nothing for work that is done at once, nor without a terminal', () => {
    const quick = terminal(true);
    const done = startProgress('planning', quick.stream);
    done.update(3, 4);
    done.stop();
    expect(quick.text()).toBe('');
    vi.spyOn(performance, 'now').mockReturnValueOnce(0).mockReturnValue(1e6);
    const pipe = terminal(false);
    const { update, stop } = startProgress('planning', pipe.stream);
    update(3, 4);
    stop();
    expect(pipe.text()).toBe('');
  });

  it('passes on what the work gives or throws', async () => {
    expect(await withProgress('x', () => 7)).toBe(7);
    await expect(withProgress('x', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  });
});

const hasScript = spawnSync('script', ['--version']).status === 0;

/** The command on a pseudo-terminal; its output with escapes. */
function onTerminal(command: string, env: Record<string, string>): string {
  const line = `"${process.execPath}" "${join(ROOT, 'tools/fusco.js')}" ${command}`;
  const { NO_COLOR: _, LC_ALL: __, ...rest } = process.env;
  return execFileSync('script', ['-qec', line, '/dev/null'], {
    env: { ...rest, LANG: 'C.UTF-8', TERM: 'xterm', ...env },
    encoding: 'utf8',
  });
}

describe('fusco inspect', () => {
  const plan = async () => {
    saveRouting(
      'r.npy',
      makeRouting({ family: 'hotRank', seed: 1, ranks: 8, tokens: 40, topk: 4, experts: 48 }),
    );
    expect((await fusco('plan', 'r.npy', '-o', 'p.fusco', '--experts', '48')).code).toBe(0);
  };

  it.each(['flat', 'hier', 'auto'])(
    'is ASCII without escapes in a pipe, 80 columns wide: %s',
    async (strategy) => {
      saveRouting(
        'r.npy',
        makeRouting({ family: 'hotRank', seed: 1, ranks: 8, tokens: 400, topk: 8, experts: 48 }),
      );
      const options = ['--experts', '48', '--ranks-per-node', '2', '--strategy', strategy];
      expect((await fusco('plan', 'r.npy', '-o', 'p.fusco', ...options)).code).toBe(0);
      const { stdout } = await fusco('inspect', 'p.fusco');
      expect(stdout).toMatch(/^[\x20-\x7e\n]*$/);
      expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
    },
  );

  it.skipIf(!hasScript)('has blocks and colours on a terminal, and no colours with NO_COLOR', async () => {
    await plan();
    const colored = onTerminal('inspect p.fusco', {});
    expect(colored).toMatch(/█/);
    expect(colored).toContain('\u001b[');
    const plain = onTerminal('inspect p.fusco', { NO_COLOR: '1' });
    expect(plain).not.toContain('\u001b[');
    expect(stripVTControlCharacters(colored)).toBe(plain);
    expect(onTerminal('inspect p.fusco', { TERM: 'dumb' })).toMatch(/^[\x20-\x7e\r\n]*$/);
  });
});
