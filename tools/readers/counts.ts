// How often each expert was chosen, per layer:
//
//   arrays     [experts], [layers, experts] or [steps, layers, experts], in .npy, .npz, .pt, .safetensors or JSON, alone
//              or as "logical_count"; steps are added up
//   SGLang     dumps of mode `stat`: logical_count [steps, layers, experts]
//   TensorRT   rank{r}.safetensors: {iter}_{layer} -> [experts]
//   CSV        columns layer_id, expert_id and count, in any order and with others; rows of one expert are added up

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import type { NamedArray } from './arrays.ts';
import { namedArrays } from './arrays.ts';
import { readCsv } from './csv.ts';
import { type FileSource, wholeOf } from './file.ts';
import { isCount, jsonOf } from './json.ts';
import { isInteger, type NdArray, parseNpy, shapeText } from './npy.ts';
import { readNpz } from './npz.ts';
import { readSafetensors } from './safetensors.ts';
import { openFile } from './source.ts';
import { readTorch } from './torch.ts';
import { tensorsOf } from './torchArrays.ts';
import { isTrtllmArchive, parseKey } from './trtllm.ts';

const NAME = 'logical_count';
/**
 * Maximum number of layers. Each takes a row of the result, so a key alone could otherwise request any amount of memory.
 */
const MAX_LAYER = 4095;
/** Maximum of layers times experts: a few lines of CSV could otherwise request any amount of memory. */
const MAX_COUNTS = 1 << 24;
const HINT =
  'Counts are integers [layers, experts], as an array, as "logical_count", or as CSV with layer_id, expert_id, count.';

function malformed(path: string, text: string): never {
  throw new FuscoError('E_FORMAT', text, { path, hint: HINT });
}

/** Sums of counts by layer. Layers that were not counted are zero, as dense layers are elsewhere. */
class LayerSums {
  readonly #path: string;
  readonly #layers: number[][] = [];
  #counted = 0;
  #experts = 0;

  constructor(path: string) {
    this.#path = path;
  }

  #row(layer: number, experts: number): number[] {
    const path = this.#path;
    if (layer > MAX_LAYER) malformed(path, `layer ${layer} > ${MAX_LAYER}`);
    if (experts > MAX_INSTANCES)
      throw new FuscoError('E_LIMIT', `${experts} experts > ${MAX_INSTANCES}`, { path });
    this.#experts = Math.max(this.#experts, experts);
    let row = this.#layers[layer];
    if (row === undefined) {
      row = [];
      this.#layers[layer] = row;
      this.#counted++;
    }
    if (this.#counted * this.#experts > MAX_COUNTS) {
      malformed(path, `${this.#counted} layers of ${this.#experts} experts > ${MAX_COUNTS} counts`);
    }
    while (row.length < experts) row.push(0);
    return row;
  }

  addOne(layer: number, expert: number, count: number): void {
    const row = this.#row(layer, expert + 1);
    row[expert]! += count;
  }

  /**
   * Adds a row of counts. Throws E_FORMAT for an invalid value, or if the number of experts differs from that of earlier
   * rows.
   */
  addRow(layer: number, counts: ArrayLike<unknown>, what: string): void {
    const { length } = counts;
    if (length === 0 || (this.#experts !== 0 && length !== this.#experts)) {
      malformed(this.#path, `${what} counts ${length} experts after ${this.#experts}`);
    }
    const row = this.#row(layer, length);
    for (let expert = 0; expert < length; expert++) {
      const count = typeof counts[expert] === 'bigint' ? Number(counts[expert]) : counts[expert];
      if (!isCount(count)) malformed(this.#path, `${what} is not ${length} counts, integers from 0`);
      row[expert]! += count;
    }
  }

  /** [layers][experts]. Throws E_FORMAT if nothing was counted. */
  finish(): number[][] {
    if (this.#layers.length === 0) malformed(this.#path, 'it has no counts');
    const none = new Array<number>(this.#experts).fill(0);
    return Array.from(this.#layers, (layer) => {
      if (layer === undefined) return none;
      while (layer.length < this.#experts) layer.push(0);
      return layer;
    });
  }
}

/** Sums of a file: of all steps together and, if requested, of each step. */
class CountSums {
  readonly total: LayerSums;
  readonly steps = new Map<number, LayerSums>();
  readonly #path: string;
  readonly #keepsSteps: boolean;

  constructor(path: string, keepsSteps: boolean) {
    this.total = new LayerSums(path);
    this.#path = path;
    this.#keepsSteps = keepsSteps;
  }

  #of(step: number): LayerSums[] {
    if (!this.#keepsSteps) return [this.total];
    const sums = this.steps.get(step) ?? new LayerSums(this.#path);
    this.steps.set(step, sums);
    return [this.total, sums];
  }

  addOne(step: number, layer: number, expert: number, count: number): void {
    for (const sums of this.#of(step)) sums.addOne(layer, expert, count);
  }

  /** As LayerSums.addRow. */
  addRow(step: number, layer: number, counts: ArrayLike<unknown>, what: string): void {
    for (const sums of this.#of(step)) sums.addRow(layer, counts, what);
  }
}

/** Adds an array whose last axis is experts, the one before it layers, and the first of three steps. */
function addArray(sums: CountSums, array: NdArray, path: string): void {
  const { shape, data } = array;
  if (!isInteger(array) || shape.length < 1 || shape.length > 3) {
    malformed(path, `${array.declared ?? array.dtype} ${shapeText(shape)} is not integers [layers, experts]`);
  }
  const experts = shape.at(-1)!;
  const layers = shape.at(-2) ?? 1;
  const rows = experts === 0 ? 0 : data.length / experts;
  for (let row = 0; row < rows; row++) {
    const layer = row % layers;
    const counts = data.subarray(row * experts, (row + 1) * experts);
    sums.addRow(Math.floor(row / layers), layer, counts, `layer ${layer}`);
  }
}

/** Adds nested lists [experts], [layers][experts] or [steps][layers][experts]. */
function addLists(sums: CountSums, value: readonly unknown[]): void {
  const isRows = (list: readonly unknown[]) => list.length > 0 && list.every(Array.isArray);
  const layers = (isRows(value) ? value : [value]) as readonly (readonly unknown[])[];
  const steps = layers.every(isRows) ? (layers as readonly (readonly unknown[][])[]) : [layers];
  for (const [step, rows] of steps.entries()) {
    for (const [layer, counts] of rows.entries()) sums.addRow(step, layer, counts, `layer ${layer}`);
  }
}

/** The one array that can be counts: `logical_count`, or the only one. Throws E_FORMAT. */
function onlyArray(arrays: readonly NamedArray[], path: string): NamedArray {
  const found = arrays.find(({ name }) => name === NAME) ?? (arrays.length === 1 ? arrays[0] : undefined);
  if (found !== undefined) return found;
  const names = arrays.slice(0, 8).map(({ name }) => JSON.stringify(name.slice(0, 60)));
  return malformed(path, `it has no "${NAME}", but ${names.join(', ') || 'nothing'}`);
}

function addTrtllm(sums: CountSums, arrays: ReadonlyMap<string, NdArray>, path: string): void {
  for (const [key, array] of arrays) {
    const { iter, layer } = parseKey(key, path);
    if (array.shape.length !== 1 || !isInteger(array))
      malformed(path, `array ${key} is not integers [experts]: raw ids are a routing`);
    sums.addRow(iter, layer, array.data, `array ${key}`);
  }
}

function addJson(sums: CountSums, text: string, path: string): void {
  const value = jsonOf(text, path);
  const found = Array.isArray(value) ? value : (value as Record<string, unknown> | null)?.[NAME];
  if (!Array.isArray(found)) malformed(path, `it has no "${NAME}": [layers][experts]`);
  addLists(sums, found);
}

function addCsv(sums: CountSums, text: string, path: string): void {
  const rows = readCsv(
    text,
    { layer: ['layer_id', 'layer'], expert: ['expert_id', 'expert'], count: ['count'] },
    path,
  );
  for (const { layer, expert, count } of rows) sums.addOne(0, layer, expert, count);
}

function addSafetensors(sums: CountSums, arrays: ReadonlyMap<string, NdArray>, path: string): void {
  if (isTrtllmArchive(arrays.keys())) addTrtllm(sums, arrays, path);
  else addArray(sums, onlyArray(namedArrays(arrays), path).read(), path);
}

function addFile(sums: CountSums, file: FileSource): void {
  const { kind, path, bytes } = file;
  if (kind === 'npy') addArray(sums, parseNpy(wholeOf(file), path), path);
  else if (kind === 'npz') addArray(sums, onlyArray(namedArrays(readNpz(bytes, path)), path).read(), path);
  else if (kind === 'torch') {
    addArray(sums, onlyArray(tensorsOf(readTorch(bytes, path), path), path).read(), path);
  } else if (kind === 'safetensors') addSafetensors(sums, readSafetensors(wholeOf(file), path), path);
  else {
    const text = new TextDecoder().decode(wholeOf(file));
    if (kind === 'json') addJson(sums, text, path);
    else addCsv(sums, text, path);
  }
}

function sumsOf(path: string, keepsSteps: boolean): CountSums {
  using file = openFile(path);
  const sums = new CountSums(path, keepsSteps);
  addFile(sums, file);
  return sums;
}

/**
 * Reads counts per layer: [layers][experts], integers from 0, with the same number of experts in every layer; steps are
 * added up.
 *
 * @throws FuscoError E_FORMAT for anything but counts, E_FOREIGN for a damaged binary file, E_LIMIT, E_FILE_NOT_FOUND,
 *   E_FILE_READ
 */
export async function readCounts(path: string): Promise<number[][]> {
  return sumsOf(path, false).total.finish();
}

/**
 * Reads counts per step: [steps][experts], in ascending order of the steps, of one layer or, without `layer`, of all layers
 * together.
 *
 * @throws FuscoError what readCounts and layerOf throw
 */
export async function readCountSteps(path: string, layer?: number): Promise<number[][]> {
  const { total, steps } = sumsOf(path, true);
  const layers = total.finish();
  if (layer !== undefined) layerOf(layers, layer, path);
  const none = layers[0]!.map(() => 0);
  return [...steps]
    .sort(([a], [b]) => a - b)
    .map(([, sums]) => {
      const found = sums.finish();
      if (layer !== undefined) return found[layer] ?? none;
      return none.map((_, expert) => found.reduce((sum, counts) => sum + (counts[expert] ?? 0), 0));
    });
}

/** One layer's counts. Throws E_OPTION if the file has no such layer or nothing was counted in it. */
export function layerOf(layers: readonly number[][], layer: number, path: string): number[] {
  const counts = layers[layer];
  const hint = 'Choose a layer that was counted with --layer.';
  if (counts === undefined) {
    throw new FuscoError('E_OPTION', `layer ${layer} is not in 0..${layers.length - 1}`, { path, hint });
  }
  if (counts.some((count) => count > 0)) return counts;
  const first = layers.findIndex((other) => other.some((count) => count > 0));
  const text = first < 0 ? 'nor in any other' : `the first layer with counts is ${first}`;
  throw new FuscoError('E_OPTION', `nothing was counted in layer ${layer}, ${text}`, { path, hint });
}
