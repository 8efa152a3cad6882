// Routed experts inside a response, in the forms that servers give them:
//
//   nested lists     [tokens][layers][topk]
//   a .npy file      in base64
//   an object        {"data": base64, "shape": [tokens, layers, topk], "dtype": "uint8"}, and other fields
//   raw int32        in base64, little-endian, without a shape: the axes and their sizes must be given

import { FuscoError } from '../../planner/errors.ts';
import type { Axis } from './choice.ts';
import { refuse } from './file.ts';
import { isCount, shown } from './json.ts';
import { itemBytes, MAGIC, type NdArray, type NdDtype, parseNpy, shapeText, viewElements } from './npy.ts';

/** Where a value is, for errors. */
export interface ValuePlace {
  readonly where: string;
  readonly path: string;
}

const DTYPES: ReadonlyMap<string, NdDtype> = new Map([
  ['uint8', 'u8'],
  ['int8', 'i8'],
  ['uint16', 'u16'],
  ['int16', 'i16'],
  ['uint32', 'u32'],
  ['int32', 'i32'],
  ['uint64', 'u64'],
  ['int64', 'i64'],
]);
const MAX_AXES = 5;

function decodeBase64(text: string, { where, path }: ValuePlace): Uint8Array {
  const bytes = Buffer.from(text, 'base64');
  // Node skips invalid base64; encoding the result again detects this.
  if (bytes.toString('base64').replace(/=+$/, '') !== text.replace(/=+$/, ''))
    refuse(path, `${where}: it is not base64`);
  return Uint8Array.from(bytes);
}

/** Whether a value is an array with its shape and dtype. */
function isPayload(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && 'data' in value && 'shape' in value;
}

function payloadArray({ data, shape, dtype }: Record<string, unknown>, place: ValuePlace): NdArray {
  const { where, path } = place;
  const known = DTYPES.get(String(dtype).replace(/^(torch|numpy|np)\./, ''));
  if (known === undefined)
    refuse(path, `${where}: dtype ${shown(dtype)} is not one of ${[...DTYPES.keys()].join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isCount) || shape.length > MAX_AXES)
    refuse(path, `${where}: "shape" is not a list of sizes`);
  if (typeof data !== 'string') refuse(path, `${where}: "data" is not base64`);
  const bytes = decodeBase64(data, place);
  const size = shape.reduce((product, n) => product * n, itemBytes(known));
  if (size !== bytes.length)
    refuse(path, `${where}: ${bytes.length} bytes, ${known} ${shapeText(shape)} takes ${size}`);
  return viewElements(known, shape, bytes, path);
}

/** Sizes of the axes of raw ids: the given ones, and at most one that follows from the number of ids. */
function rawShape(count: number, axes: readonly Axis[], tokens: number | undefined): number[] | undefined {
  const sizes = axes.map(({ name, size }) => size ?? (name === 'tokens' ? tokens : undefined));
  const open = sizes.filter((size) => size === undefined).length;
  const product = sizes.reduce<number>((all, size) => all * (size ?? 1), 1);
  if (open > 1 || product === 0 || count % product !== 0 || (open === 0 && product !== count))
    return undefined;
  return sizes.map((size) => size ?? count / product);
}

/**
 * Raw int32 ids. `tokens` is their number as the response states it, if it does.
 *
 * @throws FuscoError E_FOREIGN without the sizes of all axes but one, or if they do not fit
 */
function rawArray(
  bytes: Uint8Array,
  axes: readonly Axis[] | undefined,
  tokens: number | undefined,
  { where, path }: ValuePlace,
): NdArray {
  const count = bytes.length / 4;
  const shape = axes === undefined || !Number.isInteger(count) ? undefined : rawShape(count, axes, tokens);
  if (shape !== undefined) return viewElements('i32', shape, bytes, path);
  const stated = tokens === undefined ? '' : `, of ${tokens} tokens`;
  throw new FuscoError(
    'E_FOREIGN',
    `${where}: ${bytes.length} bytes of int32 ids without a shape${stated}, as SGLang's responses have them`,
    { path, hint: 'Give the sizes of the layers and of topk, for example --axes tokens,layers=48,topk=8.' },
  );
}

/** Lengths of the lists of lists, by those of the first of each. */
function depthOf(value: unknown): number[] {
  const shape: number[] = [];
  for (let level = value; Array.isArray(level) && shape.length <= MAX_AXES; level = level[0]) {
    shape.push(level.length);
  }
  return shape;
}

/** Nested lists of integers as an array; all lists of one depth have one length. Throws E_FOREIGN. */
export function arrayOfLists(value: unknown, { where, path }: ValuePlace): NdArray {
  const shape = depthOf(value);
  if (shape.length === 0 || shape.length > MAX_AXES) refuse(path, `${where}: it is not a list of tokens`);
  const data: number[] = [];
  const fail = (item: unknown, wanted: string, token: number): never =>
    refuse(path, `${where}: token ${token} has ${shown(item)} in place of ${wanted}`);
  const addId = (item: unknown, token: number): void => {
    if (!Number.isSafeInteger(item)) fail(item, 'an integer', token);
    const id = item as number;
    if ((id | 0) !== id) refuse(path, `${where}: id ${id} of token ${token} is not a 32-bit integer`);
    data.push(id);
  };
  const addList = (list: unknown, depth: number, token: number): void => {
    const length = shape[depth]!;
    if (!Array.isArray(list) || list.length !== length)
      fail(list, `a list of ${length}, as in token 0`, token);
    for (let i = 0; i < length; i++) {
      const item = (list as unknown[])[i];
      const at = depth === 0 ? i : token;
      if (depth + 1 < shape.length) addList(item, depth + 1, at);
      else addId(item, at);
    }
  };
  addList(value, 0, 0);
  return { dtype: 'i32', shape, data: Int32Array.from(data) };
}

/**
 * The array of a value in any form.
 *
 * @param axes the requested axes; needed for raw ids
 * @param tokens number of tokens that the response states
 * @throws FuscoError E_FOREIGN, E_FORMAT
 */
export function arrayOfValue(
  value: unknown,
  axes: readonly Axis[] | undefined,
  tokens: number | undefined,
  place: ValuePlace,
): NdArray {
  if (typeof value === 'string') {
    const bytes = decodeBase64(value, place);
    if (bytes[0] === MAGIC[0]) return parseNpy(bytes, `${place.path}: ${place.where}`);
    return rawArray(bytes, axes, tokens, place);
  }
  return isPayload(value) ? payloadArray(value, place) : arrayOfLists(value, place);
}
