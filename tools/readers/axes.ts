// What the axes of an array of ids are, and the pieces [tokens, topk] that it holds.

import { FuscoError } from '../../planner/errors.ts';
import type { Axis, AxisName, ReadChoice } from './choice.ts';
import { refuse } from './file.ts';
import { isInteger, type NdArray, shapeText } from './npy.ts';
import type { Piece, Place } from './piece.ts';
import type { TraceCollector } from './trace.ts';

/** What is known about an array in addition to its shape. */
export interface AxesContext {
  /** Names the array in errors. */
  readonly path: string;
  /** Whether the array is known to have an axis of layers, as the routed experts of a response do. */
  readonly hasLayers: boolean;
  /** Whether three axes without layers are ranks, tokens and topk, as NumPy files of this project are. */
  readonly hasRanks: boolean;
  /** Whether the file's format states the order of the axes. */
  readonly isStated: boolean;
}

const LAYERS = ['tokens', 'layers', 'topk'] as const;
const RANKS = ['ranks', 'tokens', 'topk'] as const;
const REQUESTS = ['requests', 'tokens', 'layers', 'topk'] as const;

function shapeError(path: string, text: string, hint: string): FuscoError {
  return new FuscoError('E_ROUTING_SHAPE', text, { path, hint });
}

/** The axes that the choice names. Throws E_ROUTING_SHAPE unless they fit the shape. */
function namedAxes(axes: readonly Axis[], shape: readonly number[], path: string): AxisName[] {
  const fits =
    axes.length === shape.length && axes.every(({ size }, i) => size === undefined || size === shape[i]);
  if (fits) return axes.map(({ name }) => name);
  const text = axes.map(({ name, size }) => (size === undefined ? name : `${name}=${size}`)).join(',');
  throw shapeError(
    path,
    `shape ${shapeText(shape)} is not ${text}`,
    'Name every axis of the array in --axes.',
  );
}

/**
 * The axes of an array of ids, from its shape and the request. A guess is reported.
 *
 * @throws FuscoError E_ROUTING_SHAPE for a shape that no order of axes explains, or several do
 */
export function axesOf(
  shape: readonly number[],
  choice: ReadChoice,
  context: AxesContext,
): readonly AxisName[] {
  const { path, hasLayers, hasRanks, isStated } = context;
  if (choice.axes !== undefined) return namedAxes(choice.axes, shape, path);
  const guess = (axes: readonly AxisName[]) => {
    choice.notice?.(
      `${path}: axes ${shapeText(shape)} read as ${axes.join(', ')} (--axes sets another order)`,
    );
    return axes;
  };
  const wantsLayers = hasLayers || choice.layer !== undefined;
  if (shape.length === 2 && !isStated) return ['tokens', 'topk'];
  if (shape.length === 3 && wantsLayers) return isStated ? LAYERS : guess(LAYERS);
  if (shape.length === 3 && hasRanks) return choice.ranks === shape[0] ? RANKS : guess(RANKS);
  if (shape.length === 4 && wantsLayers) return guess(REQUESTS);
  if (shape.length === 3) {
    const text = `shape ${shapeText(shape)} may be (tokens, layers, topk) or (ranks, tokens, topk)`;
    throw shapeError(path, text, 'Say it with --axes tokens,layers,topk, or the order that the array has.');
  }
  const wanted = isStated ? '(tokens, layers, topk)' : '(ranks, tokens, topk) or (tokens, topk)';
  throw shapeError(
    path,
    `shape ${shapeText(shape)} is not ${wanted}`,
    'Ids are [tokens, topk] or [ranks, tokens, topk]; --axes names other axes, for example tokens,layers,topk.',
  );
}

/** Throws E_ROUTING_DTYPE unless the elements can be ids, or a map of 0 and 1. */
export function checkIds(array: Pick<NdArray, 'dtype' | 'declared'>, path: string): void {
  if (isInteger(array) || array.declared === 'bool') return;
  const found = array.declared === 'float' ? 'bf16 or fp8' : array.dtype;
  throw new FuscoError('E_ROUTING_DTYPE', `ids are ${found}, not integers`, {
    path,
    hint: 'Give the array of the ids, which are integers of 8 to 64 bits; weights have no ids.',
  });
}

/** More places than layers, steps and ranks of any recording, of which each would take memory. */
const MAX_PLACES = 1 << 16;

/** Elements of an array in the order that its axes give them. */
class Strided {
  readonly #array: NdArray;
  readonly #axes: readonly AxisName[];
  readonly #strides: readonly number[];

  constructor(array: NdArray, axes: readonly AxisName[]) {
    this.#array = array;
    this.#axes = axes;
    const { shape } = array;
    this.#strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, n) => product * n, 1));
  }

  /** Size of an axis; 1 for one that the array does not have. */
  size(name: AxisName): number {
    const at = this.#axes.indexOf(name);
    return at < 0 ? 1 : this.#array.shape[at]!;
  }

  #stride(name: AxisName): number {
    const at = this.#axes.indexOf(name);
    return at < 0 ? 0 : this.#strides[at]!;
  }

  /** Ids [tokens, topk] at a place: a view if they are stored in this order. */
  piece(at: Partial<Record<AxisName, number>>): Piece {
    const { data, declared } = this.#array;
    const [tokens, topk] = [this.size('tokens'), this.size('topk')];
    const isBool = declared === 'bool';
    const start = this.#axes.reduce((sum, name) => sum + (at[name] ?? 0) * this.#stride(name), 0);
    const [byToken, byK] = [this.#stride('tokens'), this.#stride('topk')];
    if (byK === 1 && (byToken === topk || tokens <= 1)) {
      return { ids: data.subarray(start, start + tokens * topk), tokens, topk, isBool };
    }
    // Not 32-bit integers, so that invalid ids are still recognized where pieces are joined.
    const ids = new Float64Array(tokens * topk);
    for (let token = 0, to = 0; token < tokens; token++) {
      for (let k = 0; k < topk; k++, to++) ids[to] = Number(data[start + token * byToken + k * byK]);
    }
    return { ids, tokens, topk, isBool };
  }
}

/** Where the pieces of an array belong, if its axes do not state it. */
export interface ArrayPlace {
  /** Number of the array among the steps or requests, and among the layers, of its file. */
  readonly step: number;
  readonly layer: number;
  /** Place inside the file for errors; empty for all of it. */
  readonly where: string;
  readonly path: string;
}

/** Adds the wanted pieces of an array to a recording. Throws E_FOREIGN, E_ROUTING_DTYPE. */
export function addArray(
  collector: TraceCollector,
  array: NdArray,
  axes: readonly AxisName[],
  { step: base, layer: onlyLayer, where, path }: ArrayPlace,
): void {
  checkIds(array, path);
  const strided = new Strided(array, axes);
  const stepAxis = axes.includes('steps') ? 'steps' : 'requests';
  const [ranks, steps, layers] = [strided.size('ranks'), strided.size(stepAxis), strided.size('layers')];
  if (array.data.length === 0 && ranks * steps > MAX_PLACES)
    refuse(path, `${shapeText(array.shape)} holds no ids`);
  for (let rank = 0; rank < ranks; rank++) {
    for (let step = 0; step < steps; step++) {
      for (let layer = 0; layer < layers; layer++) {
        const place: Place = {
          step: base + step,
          layer: axes.includes('layers') ? layer : onlyLayer,
          rank: axes.includes('ranks') ? rank : undefined,
        };
        if (!collector.wants(place)) continue;
        const inside = axes.includes(stepAxis) ? `${stepAxis.slice(0, -1)} ${step}` : '';
        const text = [where, inside].filter((part) => part !== '').join(', ');
        collector.add(place, strided.piece({ ranks: rank, [stepAxis]: step, layers: layer }), text, path);
      }
    }
  }
}
