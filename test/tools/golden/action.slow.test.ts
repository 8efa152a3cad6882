// The GitHub action and the pre-commit hook: what they run, in a repository with a base branch.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { fusco, ROOT, save, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';
import { LAUNCHER, type Result, run } from '../../support/programs.ts';

useTemporaryDirectory();

const ACTION = readFileSync(join(ROOT, 'action.yml'), 'utf8');

const git = async (...args: string[]): Promise<void> => {
  const who = ['-c', 'user.name=a', '-c', 'user.email=a@example.com'];
  const { code, stderr } = await run('git', [...who, ...args]);
  expect([args[0], code, code === 0 ? '' : stderr]).toEqual([args[0], 0, '']);
};

/** The step of the action as the runner's shell runs it. */
function runAction(base: string, inputs: Record<string, string> = {}): Promise<Result> {
  const script = /^ {6}run: \|\n((?: {8}.*\n?)+)/m.exec(ACTION)![1]!.replace(/^ {8}/gm, '');
  const defaults = Object.fromEntries(
    [...ACTION.matchAll(/^ {2}([a-z-]+):\n {4}description: .*\n {4}default: (.*)$/gm)].map((match) => [
      match[1]!,
      match[2]!,
    ]),
  );
  const given: Record<string, string> = { ...defaults, fusco: `${process.execPath} ${LAUNCHER}`, ...inputs };
  const env = {
    ...process.env,
    ACTION_GOLDEN: given.golden,
    ACTION_FAIL_ON: given['fail-on'],
    ACTION_BASE: base,
    ACTION_FUSCO: given.fusco,
    GITHUB_ACTION_PATH: ROOT,
    GITHUB_STEP_SUMMARY: 'summary.md',
  };
  return run('bash', ['-ec', script], { env });
}

/** Updates a golden file as a person does: in CI it would be refused. */
async function update(...file: string[]): Promise<void> {
  const { CI } = process.env;
  delete process.env.CI;
  expect((await fusco('check', ...file, '--update')).code).toBe(0);
  if (CI !== undefined) process.env.CI = CI;
}

beforeEach(async () => {
  mkdirSync('origin');
  const golden = { formatVersion: 1, plans: { step: { routing: 'r.npy', options: { experts: 4 } } } };
  save('origin/fusco.golden.json', JSON.stringify(golden));
  saveRouting('origin/r.npy', [
    [[0], [1]],
    [[2], [3]],
  ]);
  await update('origin/fusco.golden.json');
  const home = process.cwd();
  process.chdir('origin');
  await git('init', '-q', '-b', 'main');
  await git('add', '-A');
  await git('commit', '-qm', 'base');
  process.chdir(home);
  await git('clone', '-q', `file://${home}/origin`, 'head');
  process.chdir('head');
  writeFileSync('summary.md', '');
});

describe('the action', () => {
  it('passes where nothing changed, on a push and on a pull request', async () => {
    expect(await runAction('')).toMatchObject({ code: 0, stdout: '' });
    const { code, stdout } = await runAction('main');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^::notice title=fusco%3A identical::identical%0Awithin predicted>\+2%25\n$/);
    expect(readFileSync('summary.md', 'utf8')).toMatch(/#### step\n\n### fusco: identical/);
    expect(existsSync('.git/worktrees')).toBe(false);
  });

  it('fails where a golden entry is not updated, and where a limit is broken', async () => {
    saveRouting('r.npy', [
      [[0], [0]],
      [[0], [0]],
    ]);
    const stale = await runAction('');
    expect(stale.code).toBe(1);
    expect(stale.stdout).toMatch(
      /^::error file=fusco\.golden\.json,title=fusco%3A mismatch step::the routing itself changed%0A/,
    );
    // The update itself is reviewed, so only the limit fails.
    await update();
    const slower = await runAction('main', { 'fail-on': 'imbalance>+2%' });
    expect(slower.code).toBe(1);
    expect(slower.stdout).toMatch(
      /^::error title=fusco%3A the result changed::[^\n]*%0Abeyond imbalance>\+2%25: imbalance 1\.000 -> 2\.000/,
    );
    expect(readFileSync('summary.md', 'utf8')).toContain(
      '| real rows of the busiest rank divided by the mean | 1.000 | 2.000 |',
    );
    expect((await runAction('main', { 'fail-on': 'none' })).code).toBe(0);
  });
});

it('the pre-commit hook runs a command that fails on a stale entry', async () => {
  const hook = readFileSync(join(ROOT, '.pre-commit-hooks.yaml'), 'utf8');
  const entry = /^ {2}entry: npx --no-install fusco (.+)$/m.exec(hook)![1]!.split(' ');
  const files = new RegExp(/^ {2}files: (.+)$/m.exec(hook)![1]!);
  expect(['r.npy', 'fusco.golden.json', 'trace.jsonl'].every((name) => files.test(name))).toBe(true);
  expect((await fusco(...entry)).code).toBe(0);
  saveRouting('r.npy', [
    [[0], [0]],
    [[0], [0]],
  ]);
  expect((await fusco(...entry)).code).toBe(1);
});
