// Recorded routings as workloads.

import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { RoutingTable } from '../../planner/routing.ts';
import { readError } from '../readers/file.ts';
import { readRouting } from '../readers/numpyRouting.ts';

export interface Recording {
  readonly name: string;
  /** Throws FuscoError as readRouting does. */
  read(): Promise<readonly RoutingTable[]>;
}

/**
 * The recordings of a folder in the order of their names, `*.npy` without the weights, `*.w.npy`; none without a folder.
 *
 * @throws FuscoError E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function findRecordings(folder: string | undefined): Promise<Recording[]> {
  if (folder === undefined) return [];
  const names = await readdir(folder).catch((error) => {
    throw readError(folder, error);
  });
  return names
    .filter((name) => name.endsWith('.npy') && !name.endsWith('.w.npy'))
    .sort()
    .map((name) => ({ name: basename(name, '.npy'), read: () => readRouting(join(folder, name)) }));
}
