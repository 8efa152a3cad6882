// The README's API example is compiled and run as it stands: self-contained, importing from 'fusco', in a module of
// this package, where that name leads to the built package itself.

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../', import.meta.url));

/** The first ```ts block below the heading "API" and above the next heading of its level or a higher one. */
function apiExample(markdown: string): string | undefined {
  const heading = /^(#+) +API *$/m.exec(markdown);
  if (heading === null) return undefined;
  const below = markdown.slice(heading.index + heading[0].length);
  const end = below.search(new RegExp(`^#{1,${heading[1]!.length}} `, 'm'));
  return /^```ts *\n(.*?)^```$/ms.exec(end < 0 ? below : below.slice(0, end))?.[1];
}

/** Runs node and gives its exit code and everything that it printed. */
function node(args: readonly string[], cwd: string): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, args, { cwd }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr });
    });
  });
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
  const parent = join(ROOT, 'build');
  mkdirSync(parent, { recursive: true });
  const directory = mkdtempSync(join(parent, 'readme-'));
  try {
    writeFileSync(join(directory, 'example.ts'), example!);
    const config = {
      extends: '../../tsconfig.json',
      compilerOptions: {
        rootDir: '.',
        outDir: '.',
        declaration: false,
        sourceMap: false,
        noUnusedLocals: false,
      },
      include: ['example.ts'],
    };
    writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify(config));
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
    expect(await node([tsc, '-p', directory], ROOT)).toEqual({ code: 0, output: '' });
    const { code, output } = await node([join(directory, 'example.js')], directory);
    expect([code, output]).toEqual([0, expect.any(String)]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
