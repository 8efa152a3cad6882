// The code of docs/multi-process.md, as one rank under a launcher runs it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compileAndRun, tsBlocks } from '../support/docs.ts';
import { ROOT } from '../support/programs.ts';

const blocks = tsBlocks(readFileSync(join(ROOT, 'docs/multi-process.md'), 'utf8'));
const using = (text: string) => blocks.filter((block) => block.includes(text));
/** A group of one rank. */
const LAUNCHED = { RANK: '0', WORLD_SIZE: '1', MASTER_ADDR: '127.0.0.1', MASTER_PORT: '0' };

describe('the code of docs/multi-process.md', () => {
  it('about sessions has correct types and runs', async () => {
    const [session, ...others] = using('connect()');
    expect(others).toEqual([]);
    expect(await compileAndRun(session!, LAUNCHED)).toEqual({ code: 0, output: '' });
  });

  it('about exchanges has correct types, and fails for nothing but a missing NCCL', async () => {
    const [exchange, ...others] = using('createGroup(');
    expect(others).toEqual([]);
    const { code, output } = await compileAndRun(exchange!, {
      ...LAUNCHED,
      FUSCO_NCCL_PATH: '/nowhere/libnccl.so',
    });
    expect(code).toBe(1);
    expect(output).toContain("code: 'E_BACKEND'");
  });

  it('is all of it', () => {
    expect(blocks).toHaveLength(2);
  });
});
