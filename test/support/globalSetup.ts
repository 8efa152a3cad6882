// Runs once before all tests: the command line and the viewer are tested as users run them, so the planner's
// Wasm, dist/ and build/viewer must be built from the sources as they are.
// Type errors do not stop it (`npm run typecheck` is there for them); tsc writes its output all the same.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Whether a source has no output or a newer date than its output. */
function isStale(): boolean {
  return ['planner', 'executor', 'tools'].some((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).some((name) => {
      if (!name.endsWith('.ts') || (folder === 'planner' && name.startsWith('assembly'))) return false;
      const output = join(ROOT, 'dist', folder, name.replace(/\.ts$/, '.js'));
      return !existsSync(output) || statSync(output).mtimeMs < statSync(join(ROOT, folder, name)).mtimeMs;
    }),
  );
}

/** Whether a source of the viewer's page or of what it bundles has a newer date than the bundle. */
function isViewerStale(): boolean {
  const bundle = join(ROOT, 'build/viewer/worker.js');
  if (!existsSync(bundle)) return true;
  const built = statSync(bundle).mtimeMs;
  return ['planner', 'tools/readers', 'tools/report', 'tools/simulate', 'tools/viewer', 'tools/build'].some(
    (folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).some(
        (name) => statSync(join(ROOT, folder, name)).mtimeMs > built,
      ),
  );
}

/** Whether a source of the planner, or of what its Wasm shares with it, has a newer date than the Wasm. */
function isWasmStale(): boolean {
  const built = statSync(join(ROOT, 'build/planner/planner.wasm'), { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined) return true;
  return readdirSync(join(ROOT, 'planner'), { recursive: true, encoding: 'utf8' }).some(
    (name) => name.endsWith('.ts') && statSync(join(ROOT, 'planner', name)).mtimeMs > built,
  );
}

export default function setup(): void {
  if (isWasmStale()) {
    const asc = join(ROOT, 'node_modules/assemblyscript/bin/asc.js');
    const args = [asc, '--config', 'asconfig.json', '--target', 'release'];
    execFileSync(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 2, 2] });
  }
  if (isViewerStale()) {
    execFileSync(process.execPath, [join(ROOT, 'tools/build/viewer.mjs')], { stdio: ['ignore', 2, 2] });
  }
  if (!isStale()) return;
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  try {
    execFileSync(process.execPath, [tsc, '-p', 'tsconfig.json'], { cwd: ROOT, stdio: ['ignore', 2, 2] });
  } catch (error) {
    process.stderr.write(`tsc: ${(error as Error).message}\n`);
  }
}
