import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compileAndRun, tsBlocks } from '../support/docs.ts';
import { ROOT } from '../support/programs.ts';

it('the code blocks of docs/training.md are one program, which has correct types and runs', async () => {
  const blocks = tsBlocks(readFileSync(join(ROOT, 'docs/training.md'), 'utf8'));
  expect(blocks.length).toBeGreaterThanOrEqual(6);
  expect(await compileAndRun(blocks.join('\n'))).toEqual({ code: 0, output: '' });
});

it('a block that has wrong types, or throws, is noticed', async () => {
  const wrong = await compileAndRun("import { rowBlocks } from 'fusco';\nrowBlocks(7);\n");
  expect(wrong.code).not.toBe(0);
  expect(wrong.output).toContain('not assignable');
  const thrown = await compileAndRun("throw new Error('as it says');\nexport {};\n");
  expect(thrown.code).toBe(1);
  expect(thrown.output).toContain('as it says');
});
