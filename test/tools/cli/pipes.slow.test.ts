// Plans and routings through pipes: `-` is standard input, and after -o standard output.

import { expect, it } from 'vitest';
import { fusco, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';
import { LAUNCHER, type Result, run } from '../../support/programs.ts';

useTemporaryDirectory();

/** Runs a line of sh in which `fusco` is the command line. */
function sh(line: string): Promise<Result> {
  return run('sh', ['-c', `fusco() { "${process.execPath}" "${LAUNCHER}" "$@"; }; ${line}`]);
}

const ROUTING = [[[0, 1]], [[1, 2]]];

it('a routing and its plan pass through pipes', async () => {
  saveRouting('r.npy', ROUTING);
  await fusco('plan', 'r.npy', '--experts', '4', '-o', 'p.fusco');
  const { code, stdout } = await sh(
    'cat r.npy | fusco plan - --experts 4 -o - | tee piped.fusco | fusco verify - && fusco diff p.fusco - < piped.fusco',
  );
  expect(code).toBe(0);
  expect(stdout).toMatch(/^verified [0-9a-f]{64}\nidentical /);
});

it('standard input is read once, whatever reads it', async () => {
  saveRouting('r.npy', ROUTING);
  const args = '--experts 4 --json';
  const named = await sh(`fusco simulate r.npy ${args}`);
  for (const path of ['-', '/dev/stdin', '/dev/fd/0'])
    expect(await sh(`cat r.npy | fusco simulate ${path} ${args}`)).toEqual({
      ...named,
      stdout: named.stdout.replace('r.npy: axes', `${path}: axes`),
    });
  expect(named.code).toBe(0);
});

it('a compressed routing, a map and a workload pass, too', async () => {
  const balanced = 'fusco workload balanced --ranks 4 --tokens 8 --topk 2 --experts 8';
  const { code, stdout } = await sh(
    `${balanced} -o - | gzip | fusco placement propose --routing - --experts 8 --ranks 4 -o - 2> /dev/null`,
  );
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toHaveLength(8);
});

it('a plan of standard input without -o is named stdin.fusco', async () => {
  saveRouting('r.npy', ROUTING);
  const { stderr } = await sh('fusco plan - --experts 4 < r.npy');
  expect(stderr).toMatch(/-> stdin\.fusco$/m);
});

it.each([
  ['fusco plan r.npy --experts 4 -o - --json', /-o - and --json both/],
  ['fusco plan r.npy --experts 4 -o - --stream', /-o - plans in memory and cannot be combined with --stream/],
  ['fusco workload balanced --ranks 2 --tokens 1 --topk 1 --experts 2 -o - --json', /-o - and --json both/],
  ['echo nothing | fusco verify -', /E_PLAN_MAGIC.*: -: /],
])('%s is refused with one line', async (line, text) => {
  saveRouting('r.npy', ROUTING);
  const { code, stdout, stderr } = await sh(line);
  expect([code, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(text);
  expect(stderr.trimEnd()).not.toContain('\n');
});
