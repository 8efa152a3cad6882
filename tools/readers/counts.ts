// How often each expert was chosen: {"logical_count": [layers][experts]} or [steps][layers][experts] in JSON, or a
// recorder's binary file, which is SGLang's dump of mode `stat` (torch.save, logical_count [steps, layers, experts]) or
// TensorRT-LLM's rank{r}.safetensors ({iter}_{layer} -> [experts]).

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { type Bytes, type FileSource, malformed, refuse, wholeOf } from './file.ts';
import { isCount, jsonOf } from './json.ts';
import type { NdArray } from './npy.ts';
import { readSafetensors } from './safetensors.ts';
import { isArchive, openFile } from './source.ts';
import { readTorch, TorchTensor } from './torch.ts';
import { parseKey } from './trtllm.ts';

/** Takes the counts of one layer in one step. */
type Visit = (step: number, layer: number, counts: ArrayLike<number | bigint>) => void;

/** Adds a row of counts to a layer's. */
function addCounts(layers: number[][], layer: number, counts: ArrayLike<number | bigint>): void {
  layers[layer] ??= new Array<number>(counts.length).fill(0);
  const sums = layers[layer];
  for (let expert = 0; expert < sums.length; expert++) sums[expert]! += Number(counts[expert]);
}

function visitSglang(bytes: Bytes, path: string, visit: Visit): void {
  const dump = readTorch(bytes, path);
  const tensor = dump instanceof Map ? dump.get('logical_count') : undefined;
  if (!(tensor instanceof TorchTensor) || tensor.shape.length !== 3 || /^f/.test(tensor.dtype)) {
    refuse(path, 'it has no "logical_count", integers [steps, layers, experts]');
  }
  const { shape, data }: NdArray = tensor.toArray();
  const [steps, layers, experts] = shape as [number, number, number];
  for (let row = 0; row < steps * layers; row++) {
    const counts = data.subarray(row * experts, (row + 1) * experts);
    visit(Math.floor(row / layers), row % layers, counts);
  }
}

/** Numbers of layers: each takes a row of the result, so that a key alone could ask for any memory. */
const MAX_LAYER = 4095;

function visitTrtllm(bytes: Uint8Array, path: string, visit: Visit): void {
  let experts = 0;
  for (const [key, { shape, data, dtype }] of readSafetensors(bytes, path)) {
    const { iter, layer } = parseKey(key, path);
    if (shape.length !== 1 || /^f/.test(dtype))
      refuse(path, `array ${key} is not integers [experts]: raw ids are a routing`);
    if (layer > MAX_LAYER) refuse(path, `layer ${layer} > ${MAX_LAYER}`);
    if (experts !== 0 && shape[0] !== experts)
      refuse(path, `array ${key} counts ${shape[0]} experts after ${experts}`);
    experts = shape[0]!;
    visit(iter, layer, data);
  }
}

function visitJson(bytes: Uint8Array, path: string, visit: Visit): void {
  const value = jsonOf(new TextDecoder().decode(bytes), path) as { logical_count?: unknown } | null;
  const counts = value?.logical_count;
  if (!Array.isArray(counts) || counts.length === 0) {
    malformed(path, 'it has no "logical_count": [layers][experts] or [steps][layers][experts]');
  }
  const hasSteps = Array.isArray(counts[0]) && Array.isArray(counts[0][0]);
  const steps: unknown[] = hasSteps ? counts : [counts];
  const experts = lengthOf(hasSteps ? counts[0][0] : counts[0]);
  for (const [step, layers] of steps.entries()) {
    const at = hasSteps ? `step ${step}, ` : '';
    if (!Array.isArray(layers) || layers.length !== lengthOf(steps[0]))
      malformed(path, `${at}not ${lengthOf(steps[0])} layers`);
    layers.forEach((layer: unknown, i) => {
      if (lengthOf(layer) !== experts || experts === 0 || !(layer as unknown[]).every(isCount))
        malformed(path, `${at}layer ${i} is not ${experts} counts, integers from 0`);
      visit(step, i, layer as number[]);
    });
  }
}

/** Elements of a list; 0 for anything else. */
function lengthOf(value: unknown): number {
  return Array.isArray(value) ? value.length : 0;
}

/** Visits every row of counts of a file of any of the three kinds. */
async function visitCounts(path: string, visit: Visit): Promise<void> {
  using file: FileSource = openFile(path);
  let experts = 0;
  const counted: Visit = (step, layer, counts) => {
    experts = Math.max(experts, counts.length);
    visit(step, layer, counts);
  };
  if (isArchive(file)) visitSglang(file.bytes, path, counted);
  else if (file.kind === 'safetensors') visitTrtllm(wholeOf(file), path, counted);
  else visitJson(wholeOf(file), path, counted);
  if (experts === 0) malformed(path, 'it counts no experts');
  if (experts > MAX_INSTANCES)
    throw new FuscoError('E_LIMIT', `${experts} experts > ${MAX_INSTANCES}`, { path });
}

/** Layers that a file does not count are zero, as dense layers are elsewhere. */
function fillLayers(layers: readonly number[][]): number[][] {
  const none = new Array<number>(layers[layers.length - 1]!.length).fill(0);
  return Array.from(layers, (layer) => layer ?? none);
}

/**
 * Reads counts per layer: [layers][experts], integers from 0, with equally many experts in every layer; steps are added up.
 * Takes JSON, and the two binary files above.
 *
 * @throws FuscoError E_FOREIGN for a damaged binary file, E_FORMAT for anything else, E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function readCounts(path: string): Promise<number[][]> {
  const layers: number[][] = [];
  await visitCounts(path, (_, layer, counts) => addCounts(layers, layer, counts));
  return fillLayers(layers);
}

/**
 * Reads counts per step: [steps][experts], in ascending order of the steps, of one layer or, without `layer`, of all layers
 * together.
 *
 * @throws FuscoError what readCounts and layerOf throw
 */
export async function readCountSteps(path: string, layer?: number): Promise<number[][]> {
  const layers: number[][] = [];
  const steps = new Map<number, number[][]>();
  await visitCounts(path, (step, at, counts) => {
    addCounts(layers, at, counts);
    if (!steps.has(step)) steps.set(step, [new Array<number>(counts.length).fill(0)]);
    if (layer === undefined || layer === at) addCounts(steps.get(step)!, 0, counts);
  });
  if (layer !== undefined) layerOf(fillLayers(layers), layer, path);
  return [...steps].sort(([a], [b]) => a - b).map(([, sums]) => sums[0]!);
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
