// docs/golden.md is run: its file, its commands, and the steps of its workflows that call fusco.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { fusco, ROOT, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';
import { LAUNCHER, run } from '../../support/programs.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const DOC = readFileSync(join(ROOT, 'docs/golden.md'), 'utf8');

function blocks(language: string): string[] {
  return [...DOC.matchAll(new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, 'gm'))].map(
    (match) => match[1]!,
  );
}

/** One line as a workflow's shell runs it, with `npx fusco` on the PATH as an installed package has it. */
async function shell(line: string, env: Record<string, string>): Promise<{ code: number; output: string }> {
  const script = line.replace('npx fusco', `"${process.execPath}" "${LAUNCHER}"`);
  const { code, stdout, stderr } = await run('sh', ['-ec', script], { env: { ...process.env, ...env } });
  return { code, output: stdout + stderr };
}

it('the file and the commands do what the page says', async () => {
  mkdirSync('routing');
  saveRouting(
    'routing/step7.npy',
    makeRouting({ family: 'hotExperts', seed: 7, ranks: 4, tokens: 12, topk: 2, experts: 8 }),
  );
  writeFileSync('fusco.golden.json', blocks('json')[0]!);
  const [compare, update] = blocks('sh')
    .find((block) => block.startsWith('npx fusco check'))!
    .trimEnd()
    .split('\n');
  const ci = { CI: 'true' };
  expect(await shell(compare!, ci)).toMatchObject({ code: 1 });
  expect(await shell(update!, ci)).toMatchObject({ code: 2 });
  expect(await shell(update!, { CI: '' })).toMatchObject({ code: 0 });
  expect(await shell(compare!, ci)).toMatchObject({ code: 0 });

  // The base branch's plan.
  await fusco('plan', 'routing/step7.npy', '-o', 'before.fusco', '--experts', '8', '--ranks-per-node', '2');
  const steps = blocks('yaml').flatMap((block) =>
    [...block.matchAll(/- run: (npx fusco .*)$/gm)].map((match) => match[1]!),
  );
  expect(steps).toHaveLength(4);
  writeFileSync('summary.md', '');
  for (const step of steps) {
    const { code, output } = await shell(step, { ...ci, GITHUB_STEP_SUMMARY: 'summary.md' });
    expect([step, code, output.includes('error[')]).toEqual([step, 0, false]);
  }
  expect(readFileSync('summary.md', 'utf8')).toMatch(/^### fusco: identical/);
});
