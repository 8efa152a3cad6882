// The package as `npm pack` makes it, with the prebuilt addon of this machine.

import { execFileSync, type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { mkdtempSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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

/** An empty project with the package in it. */
export interface Installed {
  readonly home: string;
  /** Without the names that this process got from npm, vitest and CI. */
  readonly env: NodeJS.ProcessEnv;
  /** Runs a program in the project. */
  readonly run: (command: string, ...args: string[]) => SpawnSyncReturns<string>;
}

/** Installs the packed package in an empty directory, as a user does it, with install scripts blocked. */
export function installPackage(): Installed {
  const home = mkdtempSync(join(tmpdir(), 'fusco-install-'));
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(npm_|VITEST|NODE_|CI$)/.test(name)),
  );
  const run: Installed['run'] = (command, ...args) =>
    spawnSync(command, args, { cwd: home, encoding: 'utf8', env });
  const { filename } = npmPack('--pack-destination', home);
  writeFileSync(join(home, 'package.json'), '{"private": true}\n');
  const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'];
  const { status, stdout, stderr } = run('npm', 'install', ...options, `./${filename}`);
  if (status !== 0 || stderr !== '') throw new Error(`npm install: ${stdout}${stderr}`);
  return { home, env, run };
}
