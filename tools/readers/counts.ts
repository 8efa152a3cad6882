// How often each expert was chosen, out of the binary files in which recorders count: SGLang's dump of mode `stat`
// (torch.save, logical_count [steps, layers, experts]) and TensorRT-LLM's rank{r}.safetensors ({iter}_{layer} ->
// [experts]). Steps are added up.

import { type Bytes, type FileSource, refuse, wholeOf } from './file.ts';
import type { NdArray } from './npy.ts';
import { readSafetensors } from './safetensors.ts';
import { isArchive } from './source.ts';
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
export function parseCounts(source: FileSource): number[][] | undefined {
  const { path, kind } = source;
  if (isArchive(source)) return sglangCounts(source.bytes, path);
  return kind === 'safetensors' ? trtllmCounts(wholeOf(source), path) : undefined;
}
