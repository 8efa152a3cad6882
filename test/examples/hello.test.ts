import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { ROOT } from '../support/programs.ts';
import { buildExamples, runExample } from './support.ts';

it('the examples in examples/hello compile, and the one for the host backend gives its result', async () => {
  buildExamples();
  const { code, stdout, stderr } = await runExample('hello', [], 'host.js');
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/^(host|reference): 4 ranks, .* rows received, result as expected\n$/);
});

it('each of them has at most 50 lines', () => {
  for (const backend of ['host', 'cuda', 'nccl']) {
    const lines = readFileSync(`${ROOT}examples/hello/${backend}.ts`, 'utf8').trimEnd().split('\n');
    expect(lines.length, backend).toBeLessThanOrEqual(50);
  }
});
