// Fuzzes everything that reads bytes from outside; docs/testing.md says how to use it.
//
//   npm run fuzz -- [--minutes M | --seconds S] [--target NAME]… [--seed N]     all targets share the time
//   npm run fuzz -- --target NAME --input FILE                                  one input again
//
// The targets in TypeScript are bundled with Istanbul's counters in this project's sources. Not with a fuzzer's own
// instrumentation: the native part of Jazzer.js 4 needs glibc 2.38, and older releases fetch theirs from outside the
// registry. The native ones are libFuzzer's.

import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { transform } from 'esbuild';
import { createInstrumenter } from 'istanbul-lib-instrument';
import { bundle, root } from '../support/bundle.mjs';
import { buildNative, fuzzNative, hasClang, NATIVE, replayNative } from './native.mjs';

const nativeSeeds = `${root}build/fuzz/seeds`;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    seconds: { type: 'string', default: '20' },
    target: { type: 'string', multiple: true },
    seed: { type: 'string', default: String(randomInt(2 ** 32)) },
    input: { type: 'string' },
    runs: { type: 'string', default: 'Infinity' },
    'hang-ms': { type: 'string', default: '5000' },
    unguided: { type: 'boolean', default: false },
    corpus: { type: 'string', default: `${root}build/fuzz/corpus` },
    findings: { type: 'string', default: `${root}build/fuzz/findings` },
  },
});
const seconds = values.minutes === undefined ? Number(values.seconds) : 60 * Number(values.minutes);
const isNative = (name) => name in NATIVE;

const counters = {
  name: 'counters',
  setup({ onLoad }) {
    onLoad(
      { filter: /(\/(planner|executor\/rendezvous|tools)\/.*|\/test\/fuzz\/planted)\.ts$/ },
      async ({ path }) => {
        const { code } = await transform(await readFile(path, 'utf8'), { loader: 'ts', target: 'node20' });
        const instrumenter = createInstrumenter({ esModules: true, compact: true });
        return { contents: instrumenter.instrumentSync(code, path), loader: 'js' };
      },
    );
  },
};

const outfile = await bundle('test/fuzz/main.ts', [counters]);

/** Starts the bundle; gives its exit code and, with `capture`, what it prints. */
function start(args, capture = false) {
  const run = spawnSync(process.execPath, [outfile, ...args], {
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    encoding: 'utf8',
    env: { ...process.env, FUSCO_FUZZ_ROOT: root },
  });
  return { status: run.status ?? 2, stdout: run.stdout };
}

const names = values.target ?? [...start(['--list'], true).stdout.trim().split('\n'), ...Object.keys(NATIVE)];
const scripts = names.filter((name) => !isNative(name));
let natives = names.filter(isNative);
if (natives.length > 0 && !hasClang()) {
  process.stdout.write(`${natives.join(', ')}: left out, clang, cmake or ninja is not installed\n`);
  natives = [];
}
if (natives.length > 0) buildNative(root);

if (values.input !== undefined) {
  process.exitCode = Math.max(
    ...scripts.map((name) => start(['--target', name, '--input', values.input]).status),
    ...natives.map((name) => replayNative(root, name, values.input)),
  );
} else {
  const share = seconds / (scripts.length + natives.length);
  process.stderr.write(`seed ${values.seed}, ${share.toFixed(1)} s a target\n`);
  let status = 0;
  if (scripts.length > 0) {
    const { seed, runs, corpus, findings, unguided } = values;
    const limits = { runs, 'hang-ms': values['hang-ms'], seconds: share * scripts.length };
    const options = Object.entries({ seed, corpus, findings, ...limits });
    const args = [...scripts.map((name) => ['target', name]), ...options].flatMap(([key, value]) => [
      `--${key}`,
      String(value),
    ]);
    status = start(unguided ? [...args, '--unguided'] : args).status;
  }
  if (natives.length > 0) start(['--native-seeds', nativeSeeds]);
  for (const name of natives) {
    const options = { seconds: share, seed: Number(values.seed), seeds: `${nativeSeeds}/${name}` };
    status = Math.max(status, fuzzNative(root, name, options));
  }
  process.exitCode = status;
}
