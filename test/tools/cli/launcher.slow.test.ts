// The installed program, as a user starts it: node tools/fusco.js in some directory of the user's.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  expectRefusal,
  ROOT,
  saveRouting,
  snapshot,
  spawnFusco,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { run } from '../../support/programs.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const COMMANDS = ['demo', 'plan', 'inspect', 'verify', 'export', 'run', 'launch', 'diff', 'doctor'];

describe('fusco', () => {
  it('explains itself', async () => {
    const [bare, help, version, planHelp] = await Promise.all([
      spawnFusco(),
      spawnFusco('--help'),
      spawnFusco('--version'),
      spawnFusco('plan', '--help'),
    ]);
    expect(bare).toEqual(help);
    expect(help).toMatchObject({ code: 0, stderr: '' });
    for (const name of COMMANDS) expect(help.stdout).toMatch(new RegExp(`^ {2}${name}\\b`, 'm'));
    const { version: expected } = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8'));
    expect(version).toEqual({ code: 0, stdout: `${expected}\n`, stderr: '' });
    expect(planHelp.code).toBe(0);
    for (const option of ['--experts', '--ranks', '--ranks-per-node', '--hidden', '--dtype', '--align']) {
      expect(planHelp.stdout).toContain(option);
    }
  });

  it('plans, verifies, inspects and compares with the exit codes that scripts rely on', async () => {
    const workload = { family: 'balanced', ranks: 4, tokens: 8, topk: 2, experts: 16 } as const;
    saveRouting('a.npy', makeRouting({ ...workload, seed: 1 }));
    saveRouting('b.npy', makeRouting({ ...workload, seed: 2 }));
    const planned = await Promise.all(
      ['a', 'b'].map((name) => spawnFusco('plan', `${name}.npy`, '-o', `${name}.fusco`, '--experts', '16')),
    );
    expect(planned.map(({ code, stdout }) => [code, stdout])).toEqual([
      [0, ''],
      [0, ''],
    ]);
    const [same, other, broken] = await Promise.all([
      spawnFusco('diff', 'a.fusco', 'a.fusco'),
      spawnFusco('verify', 'a.fusco', '--routing', 'b.npy'),
      spawnFusco('verify', 'a.npy'),
    ]);
    expect([same.code, same.stderr]).toEqual([0, '']);
    expect([other.code, other.stdout]).toEqual([1, '']);
    expectRefusal(broken, 'E_PLAN_MAGIC', 'a.npy');
    expect(Object.keys(snapshot())).toEqual(['a.fusco', 'a.npy', 'b.fusco', 'b.npy']);
  });

  it('demo shows one screen, checked, and commands that work', async () => {
    const { code, stdout, stderr } = await spawnFusco('demo');
    expect([code, stderr]).toEqual([0, '']);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.length).toBeLessThanOrEqual(40);
    const shown = lines.slice(0, lines.indexOf('Try next:'));
    expect(Math.max(...shown.map((line) => line.length))).toBeLessThanOrEqual(100);
    expect(stdout).toMatch(/plan id +[0-9a-f]{64}/);
    expect(stdout).toMatch(/checked .* on 8 ranks: every byte is correct/);
    expect(stdout).toContain('imbalance');

    const next = lines.slice(lines.indexOf('Try next:') + 1).map((line) => line.trim());
    expect(next).toHaveLength(3);
    for (const line of next) {
      // As printed, in the directory of the user.
      const { code, stderr } = await run('sh', ['-c', line], {});
      expect([line, code, code === 0 ? '' : stderr]).toEqual([line, 0, '']);
    }
    expect(Object.keys(snapshot())).toEqual(['demo.fusco']);
  });

  it('doctor says what this machine can run', async () => {
    const { code, stdout, stderr } = await spawnFusco('doctor', '--json');
    expect([code, stderr]).toEqual([0, '']);
    const { formatVersion, findings } = JSON.parse(stdout);
    expect(formatVersion).toBe(1);
    const found = new Map(
      findings.map((finding: { name: string; ok: boolean }) => [finding.name, finding.ok]),
    );
    expect(found.get('node')).toBe(true);
    expect(found.get('planner')).toBe(true);
    expect(found.get('reference')).toBe(true);
    for (const { ok, advice } of findings) if (!ok) expect(advice).toBeTruthy();
    const text = await spawnFusco('doctor');
    expect([text.code, text.stdout.includes(process.version)]).toEqual([0, true]);
  });
});
