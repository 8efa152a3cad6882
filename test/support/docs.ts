// Code blocks of documentation, compiled and run as a user's module: it imports 'fusco', which leads to the built package.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { node, type Result, ROOT } from './programs.ts';

/** The text of every ```ts block. */
export function tsBlocks(markdown: string): string[] {
  return [...markdown.matchAll(/^```ts *\n(.*?)^```$/gms)].map((match) => match[1]!);
}

/** Compiles a module and, where it has correct types, runs it; gives what the step that failed said. */
export async function compileAndRun(
  text: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<{ code: number; output: string }> {
  const output = ({ code, stdout, stderr }: Result) => ({ code, output: stdout + stderr });
  const parent = join(ROOT, 'build');
  mkdirSync(parent, { recursive: true });
  const directory = mkdtempSync(join(parent, 'docs-'));
  try {
    writeFileSync(join(directory, 'example.ts'), text);
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
    const compiled = await node([tsc, '-p', directory], { cwd: ROOT });
    if (compiled.code !== 0) return output(compiled);
    const env = { ...process.env, ...environment };
    return output(await node([join(directory, 'example.js')], { cwd: directory, env }));
  } finally {
    rmSync(directory, { recursive: true });
  }
}
