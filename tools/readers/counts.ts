// How often each expert was chosen: {"logical_count": [layers][experts]} in JSON, or a recorder's binary file, which
// is SGLang's dump of mode `stat` (torch.save, logical_count [steps, layers, experts]) or TensorRT-LLM's
// rank{r}.safetensors ({iter}_{layer} -> [experts]). Steps are added up.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { type Bytes, type FileSource, malformed, refuse, wholeOf } from './file.ts';
import { isCount, jsonOf } from './json.ts';
import type { NdArray } from './npy.ts';
import { readSafetensors } from './safetensors.ts';
import { isArchive, openFile } from './source.ts';
import { readTorch, TorchTensor } from './torch.ts';
import { parseKey } from './trtllm.ts';

/** Adds a row of counts to a layer's. */
function addCounts(layers: number[][], layer: number, counts: ArrayLike<number | bigint>): void {
  layers[layer] ??= new Array<number>(counts.length).fill(0);
  const sums = layers[layer];
  for (let expert = 0; expert < sums.length; expert++) sums[expert]! += Number(counts[expert]);
}

function sglangCounts(bytes: Bytes, path: string): number[][] {
  const dump = readTorch(bytes, path);
  const tensor = dump instanceof Map ? dump.get('logical_count') : undefined;
  if (!(tensor instanceof TorchTensor) || tensor.shape.length !== 3 || /^f/.test(tensor.dtype)) {
    refuse(path, 'it has no "logical_count", integers [steps, layers, experts]');
  }
  const { shape, data }: NdArray = tensor.toArray();
  const [steps, layerCount, experts] = shape as [number, number, number];
  const layers: number[][] = [];
  for (let row = 0; row < steps * layerCount; row++) {
    addCounts(layers, row % layerCount, data.subarray(row * experts, (row + 1) * experts));
  }
  return layers;
}

/** Numbers of layers: each takes a row of the result, so that a key alone could ask for any memory. */
const MAX_LAYER = 4095;

/** Layers that the file does not count are zero, as dense layers are elsewhere. */
function trtllmCounts(bytes: Uint8Array, path: string): number[][] {
  const layers: number[][] = [];
  let experts = 0;
  for (const [key, { shape, data, dtype }] of readSafetensors(bytes, path)) {
    const { layer } = parseKey(key, path);
    if (shape.length !== 1 || /^f/.test(dtype))
      refuse(path, `array ${key} is not integers [experts]: raw ids are a routing`);
    if (layer > MAX_LAYER) refuse(path, `layer ${layer} > ${MAX_LAYER}`);
    if (experts !== 0 && shape[0] !== experts)
      refuse(path, `array ${key} counts ${shape[0]} experts after ${experts}`);
    experts = shape[0]!;
    addCounts(layers, layer, data);
  }
  const none = new Array<number>(experts).fill(0);
  return Array.from(layers, (layer) => layer ?? none);
}

/**
 * Counts [layers][experts] of a .pt or .safetensors file; undefined for any other kind.
 *
 * @throws FuscoError E_FOREIGN, E_FORMAT, E_MEMORY
 */
function binaryCounts(source: FileSource): number[][] | undefined {
  const { path, kind } = source;
  if (isArchive(source)) return sglangCounts(source.bytes, path);
  return kind === 'safetensors' ? trtllmCounts(wholeOf(source), path) : undefined;
}

/**
 * Reads counts per layer: [layers][experts], integers from 0, with equally many experts in every layer. Takes JSON,
 * and the two binary files above.
 *
 * @throws FuscoError E_FOREIGN for a damaged binary file, E_FORMAT for anything else, E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function readCounts(path: string): Promise<number[][]> {
  using file = openFile(path);
  const layers =
    binaryCounts(file) ??
    (jsonOf(new TextDecoder().decode(wholeOf(file)), path) as { logical_count?: unknown } | null)
      ?.logical_count;
  if (!Array.isArray(layers) || layers.length === 0) {
    malformed(path, 'it has no "logical_count": [layers][experts]');
  }
  const experts = Array.isArray(layers[0]) ? layers[0].length : 0;
  layers.forEach((layer: unknown, i) => {
    if (Array.isArray(layer) && layer.length === experts && experts > 0 && layer.every(isCount)) return;
    malformed(path, `layer ${i} is not ${experts} counts, integers from 0`);
  });
  if (experts > MAX_INSTANCES)
    throw new FuscoError('E_LIMIT', `${experts} experts > ${MAX_INSTANCES}`, { path });
  return layers;
}

/** One layer's counts. Throws E_OPTION if the file has no such layer or nothing was counted in it. */
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
