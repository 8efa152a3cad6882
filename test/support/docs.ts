// Code blocks of documentation, compiled and run as a user's module: it imports 'fusco', which leads to the built package.

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** The text of every ```ts block. */
export function tsBlocks(markdown: string): string[] {
  return [...markdown.matchAll(/^```ts *\n(.*?)^```$/gms)].map((match) => match[1]!);
}

type Environment = Readonly<Record<string, string>>;

/** Runs node and gives its exit code and everything that it printed. */
function node(
  args: readonly string[],
  cwd: string,
  environment: Environment = {},
): Promise<{ code: number; output: string }> {
  const env = { ...process.env, ...environment };
  return new Promise((resolve) => {
    execFile(process.execPath, args, { cwd, env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr });
    });
  });
}

/** Compiles a module and, where it has correct types, runs it; gives what the step that failed said. */
export async function compileAndRun(
  text: string,
  environment: Environment = {},
): Promise<{ code: number; output: string }> {
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
    const compiled = await node([tsc, '-p', directory], ROOT);
    return compiled.code === 0
      ? await node([join(directory, 'example.js')], directory, environment)
      : compiled;
  } finally {
    rmSync(directory, { recursive: true });
  }
}
