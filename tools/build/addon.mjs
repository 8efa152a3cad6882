// Builds the native addon: build/native/Release/fusco.node. Further arguments go to CMake, such as -DFUSCO_CUDA=OFF.
//
// In a clone cmake-js does it, and builds the addon of the benches as well, fusco_bench.node. Where the package is installed cmake-js, a development dependency, is not there: CMake
// alone then, with the headers of the two run-time dependencies that hold them.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const given = process.argv.slice(2);

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error !== undefined) process.stderr.write(`error: ${command} cannot be run: ${error.message}\n`);
  if (status !== 0) process.exit(status ?? 1);
}

function cmakeJs() {
  try {
    return createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  } catch {
    return undefined;
  }
}

const program = cmakeJs();
if (program !== undefined) {
  const defines = given.map((argument) => argument.replace(/^-D/, '--CD'));
  run(process.execPath, [program, 'build', '-d', 'native', '-O', 'build/native', ...defines]);
} else {
  const release = `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${root}build/native/Release`;
  run('cmake', ['-S', 'native', '-B', 'build/native', '-DCMAKE_BUILD_TYPE=Release', release, ...given]);
  run('cmake', ['--build', 'build/native', '--config', 'Release', '--target', 'fusco_node', '--parallel']);
}
