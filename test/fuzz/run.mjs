// Bundles the fuzz targets with counters in this project's sources, and runs them: see docs/testing.md.
//
// Istanbul's counters and not a fuzzer's own instrumentation: the native part of Jazzer.js 4 needs glibc 2.38, and
// older releases fetch theirs from outside the registry.

import { spawnSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build, transform } from 'esbuild';
import { createInstrumenter } from 'istanbul-lib-instrument';

const root = fileURLToPath(new URL('../..', import.meta.url));
const outfile = `${root}build/fuzz/main.mjs`;

const counters = {
  name: 'counters',
  setup({ onLoad }) {
    onLoad({ filter: /(\/(planner|tools)\/.*|\/test\/fuzz\/planted)\.ts$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, 'utf8'), { loader: 'ts', target: 'node20' });
      const instrumenter = createInstrumenter({ esModules: true, compact: true });
      return { contents: instrumenter.instrumentSync(code, path), loader: 'js' };
    });
  },
};

await build({
  absWorkingDir: root,
  entryPoints: ['test/fuzz/main.ts'],
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  packages: 'external',
  plugins: [counters],
  logLevel: 'warning',
});
const run = spawnSync(process.execPath, [outfile, ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, FUSCO_FUZZ_ROOT: root },
});
process.exitCode = run.status ?? 2;
