// Recorded routing: pieces of [tokens, topk] that belong to a step, a layer and a rank, of which a plan takes one step
// and one layer. Readers of other programs' files add pieces; this keeps the wanted ones and says what there is.

import { MAX_RANKS, MAX_TOPK } from '../../planner/format/layout.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type FileSource, refuse } from './file.ts';
import type { ReadProgress } from './jsonLines.ts';
import type { NdArray } from './npy.ts';

/** What to take of a file that holds more than one routing. */
export interface TraceChoice {
  /** Layer, as the file numbers it. */
  readonly layer?: number | undefined;
  /** Training step, forward pass, iteration or request, as the file numbers it. */
  readonly step?: number | undefined;
  readonly progress?: ReadProgress | undefined;
  /** Called for everything that the recording holds, whatever is chosen; `joins`: without a choice, all steps are one. */
  readonly onFound?: ((step: number, layer: number, joins: boolean) => void) | undefined;
}

/** Reads the files of one recording, in any order; `label` names the recording in errors. Throws E_FOREIGN. */
export type TraceReader = (files: Iterable<FileSource>, label: string, choice: TraceChoice) => RoutingTable[];

/** Ids of one piece, row by row. */
export interface Piece {
  readonly ids: ArrayLike<number | bigint>;
  readonly tokens: number;
  readonly topk: number;
}

/** More than any model has; a header without data can declare any number. */
const MAX_LAYERS = 1 << 16;

/** Numbers as a list of at most a few: `3, 4, 5, … 61`. */
function listed(values: ReadonlySet<number>): string {
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length <= 8) return sorted.join(', ');
  return `${sorted.slice(0, 6).join(', ')}, … ${sorted.at(-1)}`;
}

/** Gathers the pieces of one file or directory. */
export class TraceCollector {
  readonly #path: string;
  readonly #choice: TraceChoice;
  /** Whether all steps belong together, as requests of one batch do, unless one is chosen. */
  readonly #joinsSteps: boolean;
  readonly #stepName: string;
  readonly #layers = new Set<number>();
  readonly #steps = new Set<number>();
  readonly #pieces = new Map<number, Piece[]>();
  #topk = 0;

  constructor(path: string, choice: TraceChoice, stepName: string, joinsSteps = false) {
    this.#path = path;
    this.#choice = choice;
    this.#stepName = stepName;
    this.#joinsSteps = joinsSteps;
  }

  /**
   * Whether a piece of this layer and step is wanted; call it before making the piece. Throws
   * E_FOREIGN for more layers than a file may have.
   */
  wants(step: number, layer: number): boolean {
    this.#layers.add(layer);
    this.#steps.add(step);
    this.#choice.onFound?.(step, layer, this.#joinsSteps);
    if (this.#layers.size > MAX_LAYERS) this.#fail(`it holds more than ${MAX_LAYERS} layers`);
    const choice = this.#choice;
    const first = (set: ReadonlySet<number>) => set.values().next().value;
    const isLayer = choice.layer === undefined ? layer === first(this.#layers) : layer === choice.layer;
    if (!isLayer) return false;
    if (choice.step !== undefined) return step === choice.step;
    return this.#joinsSteps || step === first(this.#steps);
  }

  /** Adds a wanted piece. Throws E_FOREIGN for a rank or topk out of range. */
  add(rank: number, piece: Piece): void {
    if (!Number.isInteger(rank) || rank < 0 || rank >= MAX_RANKS)
      this.#fail(`rank ${rank} is not in 0..${MAX_RANKS - 1}`);
    if (piece.topk < 1 || piece.topk > MAX_TOPK) this.#fail(`topk ${piece.topk} is not in 1..${MAX_TOPK}`);
    if (this.#topk !== 0 && piece.topk !== this.#topk)
      this.#fail(`topk ${piece.topk} after topk ${this.#topk}`);
    this.#topk = piece.topk;
    const list = this.#pieces.get(rank);
    if (list === undefined) this.#pieces.set(rank, [piece]);
    else list.push(piece);
  }

  #fail(text: string): never {
    refuse(this.#path, text);
  }

  #checkChoice(): void {
    const { layer, step } = this.#choice;
    if (this.#layers.size === 0) this.#fail('it holds no routing');
    if (layer !== undefined && !this.#layers.has(layer))
      this.#fail(`layer ${layer} is not among ${listed(this.#layers)}`);
    if (step !== undefined && !this.#steps.has(step)) {
      this.#fail(`${this.#stepName} ${step} is not among ${listed(this.#steps)}`);
    }
    if (layer === undefined && this.#layers.size > 1)
      this.#fail(`it holds several layers (${listed(this.#layers)}): give --layer`);
    if (step === undefined && this.#steps.size > 1 && !this.#joinsSteps) {
      this.#fail(`it holds several steps (${this.#stepName} ${listed(this.#steps)}): give --step`);
    }
  }

  /**
   * One table per rank that the file knows, in the order of the ranks, the pieces of a rank in their order.
   *
   * @throws FuscoError E_FOREIGN if nothing was recorded, a choice is missing or cannot be met, or a rank is missing
   */
  tables(): RoutingTable[] {
    this.#checkChoice();
    const ranks = [...this.#pieces.keys()].sort((a, b) => a - b);
    if (ranks.length === 0) this.#fail('it holds no routing of this layer and step');
    const hole = ranks.findIndex((rank, i) => rank !== i);
    // A file of one rank alone is that rank's share: the caller splits it or asks for the others.
    if (hole >= 0 && ranks.length > 1)
      this.#fail(`rank ${hole} is missing, the highest is rank ${ranks.at(-1)}`);
    return ranks.map((rank) => joinPieces(this.#pieces.get(rank)!, this.#path));
  }
}

/** The rows of all pieces as one table. Throws E_FOREIGN for an id that is no 32-bit integer. */
function joinPieces(pieces: readonly Piece[], path: string): RoutingTable {
  const topk = pieces[0]!.topk;
  const tokens = pieces.reduce((sum, piece) => sum + piece.tokens, 0);
  const ids = new Int32Array(tokens * topk);
  let at = 0;
  for (const piece of pieces) {
    const { ids: from } = piece;
    for (let i = 0; i < from.length; i++) {
      const id = Number(from[i]);
      if ((id | 0) !== id) refuse(path, `id ${id} is not a 32-bit integer`);
      ids[at++] = id;
    }
  }
  return { ids, tokens, topk };
}

/** An integer array [tokens, topk] as a piece. Throws E_FOREIGN for other shapes and dtypes. */
export function pieceOf(array: NdArray, path: string): Piece {
  const [tokens, topk] = array.shape;
  if (array.shape.length !== 2 || /^f/.test(array.dtype)) {
    refuse(path, `${array.dtype} [${array.shape.join(', ')}] is not integers [tokens, topk]`);
  }
  return { ids: array.data, tokens: tokens!, topk: topk! };
}

/** Layer `index` of an integer array whose axis `axis` of three is the layer. */
export function layerPiece(array: NdArray, axis: 0 | 1, index: number): Piece {
  const [a, b, topk] = array.shape as [number, number, number];
  if (axis === 0)
    return { ids: array.data.subarray(index * b * topk, (index + 1) * b * topk), tokens: b, topk };
  // Not 32-bit integers: ids that are none must still be seen as such where pieces are joined.
  const ids = new Float64Array(a * topk);
  for (let token = 0; token < a; token++) {
    for (let k = 0; k < topk; k++) ids[token * topk + k] = Number(array.data[(token * b + index) * topk + k]);
  }
  return { ids, tokens: a, topk };
}
