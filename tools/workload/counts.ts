// Files of expert counts, as SGLang's expert-distribution recorder writes them: {"logical_count": [layers][experts]}.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { parseCounts } from '../readers/counts.ts';
import { wholeOf } from '../readers/file.ts';
import { jsonOf } from '../readers/json.ts';
import { openFile } from '../readers/source.ts';

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/**
 * Reads counts per layer: [layers][experts], integers from 0, with equally many experts in every layer. Takes JSON,
 * and the binary files of readers/counts.ts.
 *
 * @throws FuscoError E_FOREIGN for a damaged binary file, E_FORMAT for anything else, E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function readCounts(path: string): Promise<number[][]> {
  using file = openFile(path);
  const layers =
    parseCounts(file) ??
    (jsonOf(new TextDecoder().decode(wholeOf(file)), path) as { logical_count?: unknown } | null)
      ?.logical_count;
  if (!Array.isArray(layers) || layers.length === 0) {
    throw new FuscoError('E_FORMAT', 'it has no "logical_count": [layers][experts]', { path });
  }
  const experts = Array.isArray(layers[0]) ? layers[0].length : 0;
  layers.forEach((layer: unknown, i) => {
    if (Array.isArray(layer) && layer.length === experts && experts > 0 && layer.every(isCount)) return;
    throw new FuscoError('E_FORMAT', `layer ${i} is not ${experts} counts, integers from 0`, { path });
  });
  if (experts > MAX_INSTANCES)
    throw new FuscoError('E_LIMIT', `${experts} experts > ${MAX_INSTANCES}`, { path });
  return layers;
}

/** One layer's counts. Throws E_OPTION where the file has no such layer or nothing was counted in it. */
export function layerOf(layers: readonly number[][], layer: number, path: string): number[] {
  const counts = layers[layer];
  if (counts === undefined) {
    throw new FuscoError('E_OPTION', `layer ${layer} is not in 0..${layers.length - 1}`, { path });
  }
  if (counts.some((count) => count > 0)) return counts;
  const first = layers.findIndex((other) => other.some((count) => count > 0));
  const text = first < 0 ? 'nor in any other' : `the first layer with counts is ${first}`;
  throw new FuscoError('E_OPTION', `nothing was counted in layer ${layer}, ${text}`, { path });
}
