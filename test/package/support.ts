// The package as `npm pack` makes it, with the prebuilt addon of this machine.

import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Whether this machine is one for which the package holds an addon. */
export const hasPrebuilt = process.platform === 'linux' && process.arch === 'x64';

function isStale(): boolean {
  const [built, prebuilt] = ['build/native/Release', 'prebuilds/linux-x64'].map(
    (folder) => statSync(`${root}${folder}/fusco.node`, { throwIfNoEntry: false })?.mtimeMs,
  );
  return built === undefined || prebuilt === undefined || prebuilt < built;
}

/** `npm pack` without its scripts, which the global set-up of the tests has run already, but for the prebuilt addon. */
export function npmPack(...options: string[]): { filename: string; files: { path: string }[] } {
  if (hasPrebuilt && isStale()) {
    execFileSync(process.execPath, ['tools/build/prebuild.mjs'], { cwd: root, stdio: 'pipe' });
  }
  const text = execFileSync('npm', ['pack', '--ignore-scripts', '--json', ...options], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  // An array up to npm 11, an object by package name from then on.
  const [packed] = Object.values(JSON.parse(text)) as { filename: string; files: { path: string }[] }[];
  return packed!;
}
