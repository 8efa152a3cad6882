// The one file of planner/ that imports node: modules.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { FuscoError } from './errors.ts';
import type { Hashing, Sha256 } from './format/hash.ts';
import { Planner } from './planner.ts';

/** SHA-256 by node:crypto. */
export const nodeSha256: Sha256 = (chunks) => {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest();
};

/** For chunked plans. */
export const nodeHashing: Hashing = { sha256: nodeSha256, running: () => createHash('sha256') };

let compiled: Promise<WebAssembly.Module> | undefined;

async function compilePlanner(): Promise<WebAssembly.Module> {
  const file = createRequire(import.meta.url).resolve('#planner.wasm');
  try {
    return await WebAssembly.compile(await readFile(file));
  } catch (cause) {
    throw new FuscoError('E_BACKEND', `the planner's Wasm is not built: ${file}`, {
      cause,
      hint: 'Run `npm run build:planner`.',
    });
  }
}

/** The compiled Wasm of the planner, once per process. Throws E_BACKEND if it has not been built. */
export function plannerModule(): Promise<WebAssembly.Module> {
  compiled ??= compilePlanner();
  return compiled;
}

/** A planner with separate memory. */
export async function loadPlanner(): Promise<Planner> {
  return Planner.create(await plannerModule());
}
