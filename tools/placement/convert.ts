// Placements of other tools: EPLB's `phy2log`, `log2phy` and `logcnt`, and SGLang's `physical_to_logical_map`.
//
// They number physical expert slots; slot p of P lives on rank floor(p x ranks / P). A plan knows the ranks of an
// expert and not the slots, so several slots of one expert on one rank become one instance.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import type { PlacementMap } from '../../planner/placement.ts';
import { type Bytes, wholeOf } from '../readers/file.ts';
import { jsonOf } from '../readers/json.ts';
import { type NdArray, parseNpy, shapeText } from '../readers/npy.ts';
import { isArchive, openFile } from '../readers/source.ts';
import { readTorch, TorchTensor } from '../readers/torch.ts';

export const FORMATS = ['phy2log', 'log2phy', 'physical_to_logical_map'] as const;
export type Format = (typeof FORMATS)[number];

export interface Converted {
  readonly map: PlacementMap;
  /** Slots that became one with another slot of their expert on their rank. */
  readonly merged: number;
  /** Physical slots. */
  readonly physical: number;
}

type Nested = readonly (number | Nested)[];

/** Layers of [logical][replicas] have three. */
const MAX_AXES = 3;

/** Lists of integers, no deeper than `axes`. */
function isNested(value: unknown, axes = MAX_AXES): value is Nested {
  if (axes === 0 || !Array.isArray(value)) return false;
  return value.every((item) => Number.isSafeInteger(item) || isNested(item, axes - 1));
}

/** Axes of nested lists; 0 where numbers and lists, or lists of other depths, stand side by side. */
function axesOf(value: Nested): number {
  let inner: number | undefined;
  for (const item of value) {
    const axes = typeof item === 'number' ? 0 : axesOf(item);
    if (typeof item !== 'number' && axes === 0) return 0;
    inner ??= axes;
    if (axes !== inner) return 0;
  }
  return 1 + (inner ?? 0);
}

/** Nested lists of an array. */
function nest({ data, shape }: NdArray): Nested {
  let items: Nested = Array.from(data as ArrayLike<number | bigint>, Number);
  for (const size of shape.slice(1).reverse()) {
    const count = size === 0 ? 0 : items.length / size;
    const whole = items;
    items = Array.from({ length: count }, (_, i) => whole.slice(i * size, (i + 1) * size));
  }
  return items;
}

/** A tensor of a .pt file: alone, under `key`, or under the key of SGLang's recorder, whose map may change later. */
function tensorOf(bytes: Bytes, key: string, path: string): NdArray {
  const value = readTorch(bytes, path);
  const found = value instanceof Map ? (value.get(key) ?? value.get(`last_${key}`)) : value;
  if (found instanceof TorchTensor) return found.toArray();
  throw new FuscoError('E_FOREIGN', `it is no tensor, nor a dict with one at "${key}"`, { path });
}

/** An integer array of a .npy, .pt or JSON file as nested lists; an object or dict holds it under `key`. */
async function readNested(path: string, key: string): Promise<Nested> {
  using file = openFile(path);
  if (isArchive(file) || path.endsWith('.npy')) {
    const array = isArchive(file) ? tensorOf(file.bytes, key, path) : parseNpy(wholeOf(file), path);
    if (/^f/.test(array.dtype)) {
      throw new FuscoError('E_FORMAT', `${array.dtype} ${shapeText(array.shape)} is not integers`, { path });
    }
    return nest(array);
  }
  const value = jsonOf(new TextDecoder().decode(wholeOf(file)), path);
  const found = Array.isArray(value) ? value : (value as Record<string, unknown> | null)?.[key];
  if (isNested(found)) return found;
  throw new FuscoError('E_FORMAT', `it is no array of integers, nor an object with one at "${key}"`, {
    path,
  });
}

/**
 * One layer of an array whose layers have `depth` axes; a file with one axis less is a single layer.
 *
 * @param path .npy, .pt or JSON
 * @throws FuscoError E_FORMAT, E_OPTION if there is no such layer
 */
export async function readLayer(
  path: string,
  key: string,
  depth: number,
  layer: number | undefined,
): Promise<Nested> {
  const whole = await readNested(path, key);
  const found = axesOf(whole);
  if (found === 0) {
    throw new FuscoError('E_FORMAT', `${key} holds numbers and lists side by side`, { path });
  }
  if (found === depth && layer === undefined) return whole;
  if (found !== depth + 1) {
    const wanted = layer === undefined ? `${depth} or ${depth + 1}` : `${depth + 1}`;
    throw new FuscoError('E_FORMAT', `${key} has ${found} axes, not ${wanted}`, { path });
  }
  const at = layer ?? (whole.length === 1 ? 0 : -1);
  const chosen = whole[at];
  if (Array.isArray(chosen)) return chosen as Nested;
  throw new FuscoError('E_OPTION', `give --layer, 0..${whole.length - 1}`, { path });
}

function bad(path: string, text: string): FuscoError {
  return new FuscoError('E_PLACEMENT', text, { path });
}

function checkPhysical(physical: number, ranks: number, path: string): void {
  if (physical === 0 || physical % ranks !== 0) {
    throw bad(path, `${physical} physical experts do not divide among ${ranks} ranks`);
  }
}

/** Ranks of each expert from its slots. */
function joinSlots(
  slots: readonly (readonly number[])[],
  physical: number,
  ranks: number,
  path: string,
): Converted {
  let merged = 0;
  const map = slots.map((list, expert) => {
    const hosts = new Set(list.map((slot) => Math.floor((slot * ranks) / physical)));
    if (hosts.size === 0) throw bad(path, `expert ${expert} lives nowhere`);
    merged += list.length - hosts.size;
    const sorted = [...hosts].sort((a, b) => a - b);
    return sorted.length === 1 ? sorted[0]! : sorted;
  });
  return { map, merged, physical };
}

/** From [physical] logical ids: EPLB's phy2log, SGLang's physical_to_logical_map. Throws E_PLACEMENT. */
export function fromPhysical(layer: Nested, ranks: number, path: string): Converted {
  const ids = layer as readonly number[];
  checkPhysical(ids.length, ranks, path);
  const experts = ids.reduce((most, id) => Math.max(most, id), -1) + 1;
  if (experts > MAX_INSTANCES) throw bad(path, `expert ${experts - 1} >= ${MAX_INSTANCES}`);
  const slots: number[][] = Array.from({ length: experts }, () => []);
  ids.forEach((id, slot) => {
    if (id < 0) throw bad(path, `slot ${slot} holds expert ${id}`);
    slots[id]!.push(slot);
  });
  return joinSlots(slots, ids.length, ranks, path);
}

/** From [logical][replicas] slots, -1 if there is none: EPLB's log2phy. Throws E_PLACEMENT. */
export function fromLogical(layer: Nested, ranks: number, path: string): Converted {
  const slots = (layer as readonly (readonly number[])[]).map((list) => list.filter((slot) => slot !== -1));
  const all = slots.flat().sort((a, b) => a - b);
  const hole = all.findIndex((slot, i) => slot !== i);
  if (hole >= 0)
    throw bad(path, `the slots are not 0..${all.length - 1}, each once: ${all[hole]} at ${hole}`);
  checkPhysical(all.length, ranks, path);
  return joinSlots(slots, all.length, ranks, path);
}

/** Throws E_PLACEMENT unless `logcnt` says how many slots each expert has. */
export function checkReplicas(counts: Nested, found: readonly number[], path: string): void {
  const at = found.findIndex((replicas, expert) => counts[expert] !== replicas);
  if (at >= 0) throw bad(path, `expert ${at} has ${String(counts[at])} replicas, the map ${found[at]}`);
  if (counts.length !== found.length)
    throw bad(path, `${counts.length} experts, the map has ${found.length}`);
}

/** Slots of each expert in a layer of either form. */
export function slotCounts(format: Format, layer: Nested): number[] {
  if (format === 'log2phy') {
    return (layer as readonly (readonly number[])[]).map((list) => list.filter((slot) => slot !== -1).length);
  }
  const counts: number[] = [];
  for (const id of layer as readonly number[]) counts[id] = (counts[id] ?? 0) + 1;
  return Array.from(counts, (count) => count ?? 0);
}
