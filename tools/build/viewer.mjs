// Bundles the viewer's page and worker and the report's script into build/viewer, from which they are served and
// inlined. A page that needs Node would fail in front of its user, so an import of node: that is not shaken out
// fails the build.

import { copyFile, mkdir, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('../..', import.meta.url));
const out = `${root}build/viewer`;

/** Imports of Node's modules are dropped where nothing of them is used. */
const dropNode = {
  name: 'drop-node',
  setup({ onResolve }) {
    onResolve({ filter: /^node:/ }, ({ path }) => ({ path, external: true, sideEffects: false }));
  },
};

const common = {
  absWorkingDir: root,
  bundle: true,
  minify: true,
  legalComments: 'inline',
  // The first that know light-dark() and nested rules, which the style sheets use.
  target: ['chrome123', 'firefox120', 'safari17.5'],
  // The page forbids eval, and msgpackr would try it.
  alias: { msgpackr: 'msgpackr/index-no-eval' },
  plugins: [dropNode],
  metafile: true,
  outdir: out,
  logLevel: 'warning',
};

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const results = await Promise.all([
  build({
    ...common,
    format: 'esm',
    entryPoints: { viewer: 'tools/viewer/page/main.ts', worker: 'tools/viewer/worker.ts' },
  }),
  build({ ...common, format: 'iife', entryPoints: { report: 'tools/report/script.ts' } }),
]);
for (const { metafile } of results) {
  for (const [file, { imports }] of Object.entries(metafile.outputs)) {
    const foreign = imports.filter(({ external }) => external).map(({ path }) => path);
    if (foreign.length > 0) throw new Error(`${file} needs ${foreign.join(', ')}, which no browser has`);
  }
}
await Promise.all([
  copyFile(`${root}tools/report/style.css`, `${out}/style.css`),
  copyFile(`${root}tools/viewer/viewer.css`, `${out}/viewer.css`),
  copyFile(`${root}tools/viewer/index.html`, `${out}/index.html`),
]);
