import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { Command } from 'commander';
import { viewerAsset } from '../report/write.ts';
import { type Asset, fileAssets, serveViewer, typeOf } from '../viewer/server.ts';
import { type EndSignal, EXIT_CODES } from '../writers/outputFile.ts';
import { demoFile } from './demo.ts';
import { command, ExitWith, print, say } from './io.ts';

const PAGE = ['index.html', 'style.css', 'viewer.css', 'viewer.js', 'worker.js'];

/** The page, the planner's Wasm and the example, by path. Throws E_BACKEND if the viewer is not built. */
async function pageAssets(): Promise<Map<string, Asset>> {
  const assets = new Map<string, Asset>();
  for (const name of PAGE) {
    const bytes = await viewerAsset(name);
    assets.set(name === 'index.html' ? '/' : `/${name}`, { type: typeOf(name), read: async () => bytes });
  }
  const wasm = createRequire(import.meta.url).resolve('#planner.wasm');
  assets.set('/planner.wasm', { type: typeOf(wasm), read: () => readFile(wasm) });
  const example = demoFile('moe256-ep8x512-mixed-l3.idx.npy');
  assets.set('/example.npy', { type: typeOf(example), read: () => readFile(example) });
  return assets;
}

/** Resolves at the first signal that asks the process to end. */
function stopSignal(): Promise<EndSignal> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve(signal));
  });
}

async function view(files: readonly string[]): Promise<void> {
  const assets = new Map([...(await pageAssets()), ...(await fileAssets(files))]);
  const stopped = stopSignal();
  const server = await serveViewer(assets);
  print(server.url);
  say('open this address in a browser on this machine; Ctrl-C stops the server');
  const signal = await stopped;
  await server.close();
  throw new ExitWith(EXIT_CODES[signal]);
}

export function viewCommand(): Command {
  return command('view', 'Serve a page on this machine only that plans and compares in the browser.')
    .argument(
      '[files...]',
      'routing tables (.npy, .npz, a directory of rank{r}.npy) or plans; two are compared',
    )
    .action(view);
}
