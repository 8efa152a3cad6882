// The README's API example is compiled and run as it stands: self-contained, importing from 'fusco', in a module of
// this package, where that name leads to the built package itself.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compileAndRun, tsBlocks } from './support/docs.ts';
import { ROOT } from './support/programs.ts';

/** The first ```ts block below the heading "API" and above the next heading of its level or a higher one. */
function apiExample(markdown: string): string | undefined {
  const heading = /^(#+) +API *$/m.exec(markdown);
  if (heading === null) return undefined;
  const below = markdown.slice(heading.index + heading[0].length);
  const end = below.search(new RegExp(`^#{1,${heading[1]!.length}} `, 'm'));
  return tsBlocks(end < 0 ? below : below.slice(0, end))[0];
}

it('an example is the first ts block under the heading API', () => {
  const block = (language: string, text: string) => `\`\`\`${language}\n${text}\n\`\`\`\n`;
  const before = block('ts', 'before');
  expect(
    apiExample(`# x\n${before}## API\n\ntext\n${block('sh', 'no')}${block('ts', 'yes')}${block('ts', 'no')}`),
  ).toBe('yes\n');
  expect(apiExample(`# x\n${before}## API\n### Detail\n${block('ts', 'yes')}`)).toBe('yes\n');
  expect(apiExample(`# x\n${before}## API\n## Limits\n${block('ts', 'no')}`)).toBeUndefined();
  expect(apiExample(`# x\n${before}`)).toBeUndefined();
});

it("the README's API example has correct types and runs", async () => {
  const example = apiExample(readFileSync(join(ROOT, 'README.md'), 'utf8'));
  expect(example, 'README.md has a ts block under the heading API').toBeDefined();
  expect(example).toMatch(/from 'fusco';/);
  const { code, output } = await compileAndRun(example!);
  expect([code, code === 0 ? '' : output]).toEqual([0, '']);
});
