// Recorded routings as workloads.

import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { RoutingTable } from '../../planner/routing.ts';
import { readRouting } from '../readers/routing.ts';

/**
 * The recordings of a folder in the order of their names, `*.npy` but for the weights, `*.w.npy`, beside them; none
 * without a folder. Each is read when it is asked for.
 */
export async function* recordedRoutings(
  folder: string | undefined,
): AsyncGenerator<{ readonly name: string; readonly tables: readonly RoutingTable[] }> {
  for (const file of folder === undefined ? [] : readdirSync(folder).sort()) {
    if (!file.endsWith('.npy') || file.endsWith('.w.npy')) continue;
    yield { name: basename(file, '.npy'), tables: await readRouting(join(folder!, file)) };
  }
}
