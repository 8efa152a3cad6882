// plan --stream and verify --stream: the same files and verdicts as without.

import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { fusco, fuscoJson, saveRoutingByRank, useTemporaryDirectory } from '../../support/cli.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const SIZES = { ranks: 4, topk: 3, experts: 8, tokens: 30 };
const PLAN = ['--experts', '8', '--ranks-per-node', '2'];

describe('--stream', () => {
  it.each(['flat', 'hier', 'auto'])('writes the same %s plan, and verifies it', async (strategy) => {
    saveRoutingByRank('routing', makeRouting({ family: 'raggedSources', seed: 4, ...SIZES }), 3);
    saveRoutingByRank('other', makeRouting({ family: 'hotExperts', seed: 5, ...SIZES }), 3);
    const options = [...PLAN, '--capacity', '18', '--strategy', strategy];
    const whole = await fuscoJson('plan', 'routing', '-o', 'whole.fusco', ...options);
    const streamed = await fuscoJson('plan', 'routing', '-o', 'streamed.fusco', ...options, '--stream');
    expect(streamed.planId).toBe(whole.planId);
    expect(streamed.bytes).toBe(whole.bytes);
    expect(readFileSync('streamed.fusco').equals(readFileSync('whole.fusco'))).toBe(true);
    const verify = ['verify', 'streamed.fusco', '--stream'];
    expect(await fuscoJson(...verify)).toMatchObject({ planId: whole.planId, verified: true });
    if (strategy === 'auto') return;
    expect(await fuscoJson(...verify, '--routing', 'routing')).toMatchObject({ matches: true });
    expect((await fusco(...verify, '--routing', 'other')).code).toBe(1);
  });

  it('refuses a damaged file as verify does without', async () => {
    saveRoutingByRank('routing', makeRouting({ family: 'balanced', seed: 4, ...SIZES }), 3);
    await fuscoJson('plan', 'routing', '-o', 'p.fusco', ...PLAN, '--stream');
    const bytes = readFileSync('p.fusco');
    bytes[bytes.length - 99]! ^= 4;
    writeFileSync('p.fusco', bytes);
    const streamed = await fusco('verify', 'p.fusco', '--stream');
    const whole = await fusco('verify', 'p.fusco', '--no-stream');
    expect(streamed.code).toBe(2);
    expect(streamed.stderr).toContain('error[E_PLAN_DIGEST]: p.fusco');
    expect(streamed.stderr).toBe(whole.stderr);
    const absent = await fusco('verify', 'absent.fusco', '--stream');
    expect(absent.stderr).toBe((await fusco('verify', 'absent.fusco')).stderr);
    expect(absent.stderr).toContain('error[E_FILE_NOT_FOUND]: absent.fusco');
  });
});
