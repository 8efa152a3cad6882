// A TypeScript entry of test/ as one file that Node runs without a test framework. It lies in build/, so that packages
// and the imports of package.json resolve.

import { mkdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Bundles `entry` and gives the file's path; it is removed when this process ends. */
export async function bundle(entry, plugins = []) {
  const name = entry.replace(/\.ts$/, '').replaceAll('/', '-');
  const outfile = `${root}build/bundles/${name}-${process.pid}.mjs`;
  mkdirSync(`${root}build/bundles`, { recursive: true });
  process.on('exit', () => rmSync(outfile, { force: true }));
  await build({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    packages: 'external',
    plugins,
    logLevel: 'warning',
  });
  return outfile;
}
