// Builds and runs the libFuzzer targets of native/fuzz, which need clang.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';

/** Targets, as the command line names them, and how long an input may be. */
export const NATIVE = { 'native-exchange': 16384, 'native-plan-file': 32768, 'native-rows': 4096 };

const CMAKE = [
  '-G',
  'Ninja',
  '-DFUSCO_CUDA=OFF',
  '-DCMAKE_BUILD_TYPE=Release',
  '-DCMAKE_C_COMPILER=clang',
  '-DCMAKE_CXX_COMPILER=clang++',
  '-DCMAKE_C_FLAGS_RELEASE=-O1',
  '-DCMAKE_CXX_FLAGS_RELEASE=-O1',
  '-DFUSCO_SANITIZE=address,undefined',
  '-DFUSCO_FUZZ=ON',
];

export function hasClang() {
  return ['clang++', 'cmake', 'ninja'].every(
    (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0,
  );
}

/** Throws with the compiler's output where the build fails. */
export function buildNative(root) {
  for (const args of [
    ['-S', 'native', '-B', 'build/fuzz/native', ...CMAKE],
    ['--build', 'build/fuzz/native', '--target', 'fuzz_exchange', 'fuzz_plan_file', 'fuzz_rows'],
  ]) {
    const run = spawnSync('cmake', args, { cwd: root, encoding: 'utf8' });
    if (run.status !== 0) throw new Error(`cmake ${args.join(' ')}\n${run.stdout}${run.stderr}`);
  }
}

const binaryOf = (root, name) =>
  `${root}build/fuzz/native/fuzz/${name.replaceAll('-', '_').replace('native_', 'fuzz_')}`;

/** Runs a target on one input. */
export function replayNative(root, name, input) {
  return spawnSync(binaryOf(root, name), [input], { stdio: 'inherit' }).status ?? 1;
}

/** Fuzzes one target; 0, or 1 where something was found. */
export function fuzzNative(root, name, { seconds, seed, seeds }) {
  const corpus = `${root}build/fuzz/corpus/${name}`;
  const findings = `${root}build/fuzz/findings/${name}/`;
  const known = `${root}test/fuzz/findings/${name}`;
  for (const folder of [corpus, findings, seeds]) mkdirSync(folder, { recursive: true });
  const args = [
    `-max_total_time=${Math.max(1, Math.round(seconds))}`,
    `-seed=${seed % 2 ** 32 || 1}`,
    `-max_len=${NATIVE[name]}`,
    '-timeout=5',
    '-rss_limit_mb=2048',
    '-print_final_stats=1',
    `-artifact_prefix=${findings}`,
    corpus,
    seeds,
    ...(existsSync(known) ? [known] : []),
  ];
  const run = spawnSync(binaryOf(root, name), args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  const runs = /stat::number_of_executed_units: *(\d+)/.exec(run.stderr)?.[1];
  const features = [...run.stderr.matchAll(/ ft: (\d+)/g)].at(-1)?.[1];
  if (run.status === 0) {
    process.stdout.write(
      `${name}: ${runs} runs, ${features} features, ${readdirSync(corpus).length} inputs kept\n`,
    );
    return 0;
  }
  const path = /Test unit written to (\S+)/.exec(run.stderr)?.[1];
  const report = run.stderr.split('\n').slice(-60).join('\n');
  process.stdout.write(
    `${name}: FOUND\n${report}\n  again: npm run fuzz -- --target ${name} --input ${path}\n`,
  );
  return 1;
}
