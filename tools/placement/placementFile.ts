// Placement files of several tools: arrays, or fields by name.
//
//   phy2log             [physical slots] logical experts, -1 for an empty slot. EPLB: phy2log; vLLM and SGLang:
//                       physical_to_logical_map; TensorRT-LLM: the lists of initial_global_assignments (YAML)
//   log2phy             [logical][replicas] slots, -1 behind the last. EPLB: log2phy; vLLM: logical_to_physical_map;
//                       SGLang: logical_to_all_physical_map
//   expert_map          [ranks][experts] number of the expert on its rank, -1 if it is not there (vLLM)
//   expert_to_ep_rank   [experts] ranks
//   ascend              {"layer_list": [{"layer_id", "device_list": [{"device_id", "device_expert": [experts]}]}]}
//
// Each may have an axis of layers in front.

import { parse as parseYaml } from 'yaml';
import { FuscoError } from '../../planner/errors.ts';
import { type FileSource, wholeOf } from '../readers/file.ts';
import { isCount, jsonOf } from '../readers/json.ts';
import { isInteger, type NdArray, parseNpy, shapeText } from '../readers/npy.ts';
import { readNpz } from '../readers/npz.ts';
import { listed } from '../readers/piece.ts';
import { EP_RANK_KEY } from '../readers/placementMap.ts';
import { readSafetensors } from '../readers/safetensors.ts';
import { openFile } from '../readers/source.ts';
import { readTorch, TorchTensor } from '../readers/torch.ts';
import { axesOf, isNested, type Nested, nest } from './nested.ts';

/** The kinds of placements of a layer, without the axis of layers. */
export const FORMATS = ['phy2log', 'log2phy', 'expert_map', 'expert_to_ep_rank', 'ascend'] as const;
export type Format = (typeof FORMATS)[number];

/** Axes of one layer of each format that is an array. */
const DEPTHS: Readonly<Record<Exclude<Format, 'ascend'>, number>> = {
  phy2log: 1,
  log2phy: 2,
  expert_map: 2,
  expert_to_ep_rank: 1,
};

/** The names under which tools keep each array. */
export const NAMES = {
  phy2log: ['phy2log', 'physical_to_logical_map', 'last_physical_to_logical_map'],
  log2phy: [
    'log2phy',
    'logical_to_all_physical_map',
    'logical_to_physical_map',
    'last_logical_to_all_physical_map',
  ],
  expert_map: ['expert_map'],
  expert_to_ep_rank: [EP_RANK_KEY],
  /** Replicas of each expert. */
  logcnt: ['logcnt', 'logical_replica_count'],
} as const;

const ASSIGNMENTS = 'initial_global_assignments';
const LAYER_LIST = 'layer_list';
/** Parsing takes much more memory than the text. */
const MAX_YAML_BYTES = 1 << 24;

type Fields = ReadonlyMap<string, unknown>;
/** The contents of a file. */
type Content = { readonly array: Nested } | { readonly fields: Fields };

function formatError(path: string, text: string): FuscoError {
  return new FuscoError('E_FORMAT', text, {
    path,
    hint: 'docs/foreign-files.md lists the placements that are read; --format says which one a bare array is.',
  });
}

function optionError(path: string, text: string, hint: string): FuscoError {
  return new FuscoError('E_OPTION', text, { path, hint });
}

/** Nested lists of an array, a tensor, or lists already; undefined for anything else. */
function nestedOf(value: unknown, path: string): Nested | undefined {
  const array = value instanceof TorchTensor ? value.toArray() : value;
  if (Array.isArray(array)) return isNested(array) ? array : undefined;
  if (typeof array !== 'object' || array === null || !('dtype' in array)) return undefined;
  const { dtype, shape } = array as NdArray;
  if (isInteger(array as NdArray)) return nest(array as NdArray);
  throw formatError(path, `${dtype} ${shapeText(shape)} is not integers`);
}

function fieldsOf(value: unknown): Fields | undefined {
  if (value instanceof Map) return new Map([...value].map(([key, item]) => [String(key), item]));
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? new Map(Object.entries(value)) : undefined;
}

function yamlOf(text: string, path: string): unknown {
  if (text.length > MAX_YAML_BYTES)
    throw formatError(path, `${text.length} characters of YAML > ${MAX_YAML_BYTES}`);
  try {
    // No aliases: a few of them can represent any amount of data.
    return parseYaml(text, { mapAsMap: true, maxAliasCount: 0, logLevel: 'error' });
  } catch (cause) {
    // A stack overflow is a RangeError.
    throw formatError(
      path,
      `it is neither JSON nor YAML: ${String((cause as Error).message).split('\n')[0]}`,
    );
  }
}

function contentOf(file: FileSource): unknown {
  const { kind, bytes, path } = file;
  if (kind === 'npy') return parseNpy(wholeOf(file), path);
  if (kind === 'npz') return readNpz(bytes, path);
  if (kind === 'torch') return readTorch(bytes, path);
  if (kind === 'safetensors') return readSafetensors(wholeOf(file), path);
  const text = new TextDecoder().decode(wholeOf(file));
  return kind === 'json' ? jsonOf(text, path) : yamlOf(text, path);
}

async function readContent(path: string): Promise<Content> {
  using file = openFile(path);
  const value = contentOf(file);
  const array = nestedOf(value, path);
  if (array !== undefined) return { array };
  const fields = fieldsOf(value);
  if (fields !== undefined) return { fields };
  throw formatError(path, 'it is no array of integers, nor an object that holds a placement');
}

/** The formats that the names of an object stand for. */
function formatsOf(fields: Fields): Format[] {
  const named = (['phy2log', 'log2phy', 'expert_map', 'expert_to_ep_rank'] as const).filter((format) =>
    NAMES[format].some((name) => fields.has(name)),
  );
  if (fields.has(ASSIGNMENTS)) return ['phy2log'];
  return fields.has(LAYER_LIST) ? ['ascend'] : named;
}

/** The one of several layers, by its number. Throws E_OPTION. */
function pick<T>(layers: ReadonlyMap<number, T>, layer: number | undefined, path: string): T {
  const only = layers.size === 1 ? [...layers.keys()][0] : undefined;
  const found = layers.get(layer ?? only ?? -1);
  if (found !== undefined) return found;
  const text = layer === undefined ? 'several layers' : `layer ${layer} does not exist`;
  throw optionError(
    path,
    `${text}: give --layer, one of ${listed(layers.keys())}`,
    'Choose a layer of the file with --layer.',
  );
}

/** One layer of an array whose layers have `depth` axes; an array with one axis less is a single layer. */
function layerOfArray(
  whole: Nested,
  name: string,
  depth: number,
  layer: number | undefined,
  path: string,
): Nested {
  const found = axesOf(whole);
  if (found === 0) throw formatError(path, `${name} holds numbers and lists side by side`);
  if (found === depth && layer === undefined) return whole;
  if (found !== depth + 1) {
    const wanted = layer === undefined ? `${depth} or ${depth + 1}` : `${depth + 1}`;
    throw formatError(path, `${name} has ${found} axes, not ${wanted}`);
  }
  const at = layer ?? (whole.length === 1 ? 0 : -1);
  const chosen = whole[at];
  if (Array.isArray(chosen)) return chosen as Nested;
  throw optionError(path, `give --layer, 0..${whole.length - 1}`, 'Choose a layer of the file with --layer.');
}

/** The array that an object keeps under one of the names. Throws E_FORMAT. */
function namedArray(fields: Fields, names: readonly string[], path: string): Nested {
  const name = names.find((candidate) => fields.has(candidate));
  const array = name === undefined ? undefined : nestedOf(fields.get(name), path);
  if (array !== undefined) return array;
  throw formatError(
    path,
    `it is no array of integers, nor an object with one at ${JSON.stringify(names[0])}`,
  );
}

/**
 * One layer of an array of a .npy, .npz, .pt, .safetensors, JSON or YAML file, which is the whole file or is kept under
 * one of `names`.
 *
 * @param depth axes of one layer
 * @throws FuscoError E_FORMAT, E_FOREIGN, E_OPTION if there is no such layer
 */
export async function readLayer(
  path: string,
  names: readonly string[],
  depth: number,
  layer: number | undefined,
): Promise<Nested> {
  const content = await readContent(path);
  const whole = 'array' in content ? content.array : namedArray(content.fields, names, path);
  return layerOfArray(whole, names[0]!, depth, layer, path);
}

/** Slots of a layer of TensorRT-LLM's `initial_global_assignments`: {layer: [slots]}. */
function assignmentsOf(fields: Fields, layer: number | undefined, path: string): Nested {
  const layers = new Map<number, Nested>();
  for (const [key, value] of fieldsOf(fields.get(ASSIGNMENTS)) ?? []) {
    const slots = nestedOf(value, path);
    if (!/^[0-9]{1,9}$/.test(key) || slots === undefined || axesOf(slots) !== 1) {
      throw formatError(path, `${ASSIGNMENTS}: layer ${key.slice(0, 60)} is not a list of experts`);
    }
    layers.set(Number(key), slots);
  }
  if (layers.size === 0) throw formatError(path, `${ASSIGNMENTS} has no layers`);
  return pick(layers, layer, path);
}

/** Experts of each device of a layer of vllm-ascend's `layer_list`, in the order of the devices. */
function devicesOf(fields: Fields, layer: number | undefined, path: string): Nested {
  const list = fields.get(LAYER_LIST);
  const layers = new Map<number, unknown>();
  for (const item of Array.isArray(list) ? list : []) {
    const entry = fieldsOf(item);
    const id = entry?.get('layer_id');
    if (!isCount(id) || layers.has(id))
      throw formatError(path, `${LAYER_LIST}: a "layer_id" is missing or there twice`);
    layers.set(id, entry?.get('device_list'));
  }
  if (layers.size === 0) throw formatError(path, `${LAYER_LIST} has no layers`);
  const devices = pick(layers, layer, path);
  const experts: Nested[] = [];
  for (const item of Array.isArray(devices) ? devices : []) {
    const entry = fieldsOf(item);
    const [id, held] = [entry?.get('device_id'), entry?.get('device_expert')];
    const isList = isNested(held, 1);
    if (!isCount(id) || id >= (devices as unknown[]).length || experts[id] !== undefined || !isList) {
      throw formatError(path, 'a device has no "device_id" of its own, or no list "device_expert"');
    }
    experts[id] = held;
  }
  return experts;
}

/** A layer of a placement and its format. */
export interface PlacementLayer {
  readonly format: Format;
  readonly layer: Nested;
  /** Whether the format follows from the number of axes alone. */
  readonly isGuess?: boolean;
}

/** The format of a file: the requested one, if the file does not contradict it. Throws E_OPTION, E_FORMAT. */
function resolveFormat(content: Content, asked: Format | undefined, path: string): Format {
  if ('array' in content) {
    if (asked === undefined) {
      throw optionError(
        path,
        'a bare array does not say what it is: give --format',
        `Say which of ${FORMATS.join(', ')} the array is.`,
      );
    }
    // No phy2log has three axes.
    return asked === 'phy2log' && axesOf(content.array) === 3 ? 'expert_map' : asked;
  }
  const known = formatsOf(content.fields);
  if (asked === undefined && known[0] !== undefined) return known[0];
  // A list of what each device holds is a list of physical experts, device by device.
  if (asked === 'phy2log' && known[0] === 'ascend') return 'ascend';
  if (asked !== undefined && (known.length === 0 || known.includes(asked))) return asked;
  if (known[0] === undefined) throw formatError(path, 'none of its fields is a placement that is known');
  throw optionError(
    path,
    `it holds ${known.join(' and ')}, not ${asked}`,
    `Give --format ${known[0]}, or leave it out.`,
  );
}

/**
 * One layer of a placement file. A file that names its fields needs no format.
 *
 * @throws FuscoError E_FORMAT, E_FOREIGN, E_OPTION if there is no such layer or the format does not follow from the file
 */
export async function readPlacementLayer(
  path: string,
  asked: Format | undefined,
  layer: number | undefined,
): Promise<PlacementLayer> {
  const content = await readContent(path);
  const format = resolveFormat(content, asked, path);
  if (format === 'ascend') {
    if ('fields' in content) return { format, layer: devicesOf(content.fields, layer, path) };
    throw formatError(path, `it has no "${LAYER_LIST}"`);
  }
  if ('fields' in content && content.fields.has(ASSIGNMENTS)) {
    return { format, layer: assignmentsOf(content.fields, layer, path) };
  }
  const whole = 'array' in content ? content.array : namedArray(content.fields, NAMES[format], path);
  const isGuess = asked !== undefined && asked !== format;
  return { format, isGuess, layer: layerOfArray(whole, format, DEPTHS[format], layer, path) };
}
