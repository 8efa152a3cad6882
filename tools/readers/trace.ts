// Recorded routing: pieces of [tokens, topk] that belong to a step, a layer and a rank, of which a plan takes one step
// and one layer. Readers of other programs' files add pieces; this keeps the wanted ones, decides which ranks make up
// the group, and says what there is.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_TOPK } from '../../planner/format/layout.ts';
import type { IdArray } from '../../planner/routing.ts';
import type { ReadChoice } from './choice.ts';
import { type FileSource, refuse } from './file.ts';
import { maskPiece } from './masks.ts';
import type { NdArray } from './npy.ts';
import type { Origin, RecordedTable } from './origins.ts';
import { listed, type Piece, type Place, type Recorded, type SeenRank } from './piece.ts';
import { wantedRanks } from './traceRanks.ts';

/** Reads the files of one recording, in any order; `label` names the recording in errors. Throws E_FOREIGN. */
export type TraceReader = (files: Iterable<FileSource>, label: string, choice: ReadChoice) => Recorded;

/** Set where the chosen layer holds nothing: takes the numbers of the layers that hold something. */
export interface LayerSearch {
  readonly layersWithExperts?: Set<number>;
}

/** A piece with the place that it comes from. */
export interface Placed {
  readonly piece: Piece;
  readonly origin: Origin;
}

const NOTHING: RecordedTable = { ids: new Int32Array(0), tokens: 0, topk: 1, origins: [] };
/** More than any model has; a header without data can declare any number. */
const MAX_LAYERS = 1 << 16;
const NO_RANK = -1;

export interface CollectorOptions {
  /** What the file calls a step: forward pass, iteration, request. */
  readonly stepName: string;
  /** Whether all steps belong together, as requests of one batch do, unless one is chosen. */
  readonly joinsSteps?: boolean;
  /** Whether the ranks that the file states are the group, so that none can have recorded nothing. */
  readonly statesRanks?: boolean;
}

/** Gathers the pieces of one file or directory. */
export class TraceCollector {
  readonly #path: string;
  readonly #choice: ReadChoice;
  readonly #options: CollectorOptions;
  readonly #layers = new Set<number>();
  readonly #steps = new Set<number>();
  readonly #ranks = new Map<number, SeenRank>();
  readonly #pieces = new Map<number, Placed[]>();
  /** Layers with an id, where all layers are looked through because the chosen one has none. */
  readonly #layersWithExperts: Set<number> | undefined;
  #topk = 0;

  constructor(path: string, choice: ReadChoice & LayerSearch, options: CollectorOptions) {
    this.#path = path;
    this.#choice = choice;
    this.#options = options;
    this.#layersWithExperts = choice.layersWithExperts;
  }

  #seen(rank: number): SeenRank {
    if (!Number.isInteger(rank) || rank < 0 || rank >= MAX_RANKS)
      this.#fail(`rank ${rank} is not in 0..${MAX_RANKS - 1}`);
    const seen = this.#ranks.get(rank) ?? { layers: new Set(), isCut: false };
    this.#ranks.set(rank, seen);
    return seen;
  }

  /** Records that a rank has a file, independent of its contents; `isCut` if the end of the file is missing. */
  addRank(rank: number, isCut = false): void {
    const seen = this.#seen(rank);
    seen.isCut ||= isCut;
  }

  /**
   * Whether a piece of this place is wanted; call it before making the piece. Throws E_FOREIGN for more layers than a
   * file may have, or a rank out of range.
   */
  wants({ step, layer, rank }: Place): boolean {
    this.#layers.add(layer);
    this.#steps.add(step);
    if (this.#layers.size > MAX_LAYERS) this.#fail(`it holds more than ${MAX_LAYERS} layers`);
    if (rank !== undefined) this.#seen(rank).layers.add(layer);
    const choice = this.#choice;
    choice.onFound?.(step, layer, this.#options.joinsSteps === true);
    const first = (set: ReadonlySet<number>) => set.values().next().value;
    const isLayer = choice.layer === undefined ? layer === first(this.#layers) : layer === choice.layer;
    if (!isLayer && this.#layersWithExperts === undefined) return false;
    if (choice.step !== undefined) return step === choice.step;
    return this.#options.joinsSteps === true || step === first(this.#steps);
  }

  /** A piece with the ids masked that the choice says mean no expert. */
  masked(piece: Piece): Piece {
    return maskPiece(piece, this.#choice);
  }

  /** Adds a wanted piece, with its masks. Throws E_FOREIGN for a topk out of range. */
  add(place: Place, piece: Piece, where: string, path = this.#path): void {
    this.addMasked(place, this.masked(piece), where, path);
  }

  /** Adds a wanted piece as it is. */
  addMasked({ layer, rank = NO_RANK }: Place, piece: Piece, where: string, path = this.#path): void {
    if (this.#layersWithExperts !== undefined) {
      if (hasExpert(piece)) this.#layersWithExperts.add(layer);
      return;
    }
    const { topk } = piece;
    // A map of 0 and 1 has a column for every expert.
    const most = this.#choice.multiHot === false ? MAX_TOPK : MAX_INSTANCES;
    if (topk < 1 || topk > most) this.#fail(`topk ${topk} is not in 1..${MAX_TOPK}`);
    if (this.#topk !== 0 && topk !== this.#topk)
      this.#fail(`${where}: topk ${topk} after topk ${this.#topk}`);
    this.#topk = topk;
    const entry = { piece, origin: { path, where, first: 0, tokens: piece.tokens } };
    const list = this.#pieces.get(rank);
    if (list === undefined) this.#pieces.set(rank, [entry]);
    else list.push(entry);
  }

  /** Whether some piece of the file is of the layer. */
  hasLayer(layer: number): boolean {
    return this.#layers.has(layer);
  }

  #fail(text: string, hint?: string): never {
    throw new FuscoError('E_FOREIGN', text, { path: this.#path, ...(hint === undefined ? {} : { hint }) });
  }

  #checkChoice(): void {
    const { layer, step } = this.#choice;
    const { stepName, joinsSteps } = this.#options;
    if (this.#layers.size === 0) this.#fail('it holds no routing');
    if (layer !== undefined && !this.#layers.has(layer))
      this.#fail(
        `layer ${layer} is not among ${listed(this.#layers)}`,
        'Choose a recorded layer with --layer.',
      );
    if (step !== undefined && !this.#steps.has(step)) {
      this.#fail(
        `${stepName} ${step} is not among ${listed(this.#steps)}`,
        'Choose a recorded one with --step.',
      );
    }
    if (layer === undefined && this.#layers.size > 1)
      this.#fail(
        `it holds several layers (${listed(this.#layers)}): give --layer`,
        'A plan is of one layer: choose it with --layer.',
      );
    if (step === undefined && this.#steps.size > 1 && joinsSteps !== true) {
      this.#fail(
        `it holds several steps (${stepName} ${listed(this.#steps)}): give --step`,
        'A plan is of one step: choose it with --step.',
      );
    }
  }

  /**
   * The pieces of each rank as one table, in the order of the ranks; of a file without ranks one table.
   *
   * @throws FuscoError E_FOREIGN if nothing was recorded, or a choice is missing or cannot be met; E_RANKS, E_FOREIGN if
   *   the ranks of the group do not follow from the recording and the choice
   */
  finish(): Recorded {
    this.#checkChoice();
    if (this.#layersWithExperts !== undefined) return { kind: 'batch', table: NOTHING };
    if (this.#pieces.size === 0) this.#fail('it holds no routing of this layer and step');
    const batch = this.#pieces.get(NO_RANK);
    if (batch !== undefined) return { kind: 'batch', table: tableOf(batch, this.#path) };
    const isStated = this.#options.statesRanks === true;
    const ranks = isStated ? [...this.#ranks.keys()].sort((a, b) => a - b) : this.#wantedRanks();
    const none: RecordedTable = { ...NOTHING, topk: this.#topk };
    const tables = ranks.map((rank) => {
      const pieces = this.#pieces.get(rank);
      return pieces === undefined ? none : tableOf(pieces, this.#path);
    });
    return { kind: 'ranks', tables, isStated };
  }

  #wantedRanks(): number[] {
    const layer = this.#choice.layer ?? [...this.#layers][0]!;
    return wantedRanks({
      path: this.#path,
      layer,
      seen: this.#ranks,
      recorded: new Set(this.#pieces.keys()),
      choice: this.#choice,
    });
  }
}

/** Whether a piece holds an id that is not -1. */
function hasExpert({ ids }: Piece): boolean {
  for (let i = 0; i < ids.length; i++) if (Number(ids[i]) !== -1) return true;
  return false;
}

/** The ids of one piece if they are a typed array of integers, which needs no copy. */
function integersOf({ ids }: Piece): IdArray | undefined {
  const isIntegers = ArrayBuffer.isView(ids) && !(ids instanceof Float64Array);
  return isIntegers ? (ids as unknown as IdArray) : undefined;
}

/** The rows of all pieces as one table. Throws E_FOREIGN for an id that is no 32-bit integer. */
export function tableOf(placed: readonly Placed[], path: string): RecordedTable {
  const [first] = placed;
  const { topk, isBool } = first!.piece;
  const origins = placed.map(({ origin }) => origin);
  const tokens = placed.reduce((sum, { piece }) => sum + piece.tokens, 0);
  const whole = placed.length === 1 ? integersOf(first!.piece) : undefined;
  if (whole !== undefined) return { ids: whole, tokens, topk, origins, isBool };
  const ids = new Int32Array(tokens * topk);
  let at = 0;
  for (const { piece, origin } of placed) {
    const { ids: from } = piece;
    for (let i = 0; i < from.length; i++) {
      const id = Number(from[i]);
      if ((id | 0) !== id) {
        const where = [origin.where, `token ${Math.floor(i / topk)}`]
          .filter((text) => text !== '')
          .join(', ');
        refuse(path, `${where}: id ${id} is not a 32-bit integer`);
      }
      ids[at++] = id;
    }
  }
  return { ids, tokens, topk, origins, isBool };
}

/** An integer array [tokens, topk] as a piece. Throws E_FOREIGN for other shapes and dtypes. */
export function pieceOf(array: NdArray, path: string): Piece {
  const [tokens, topk] = array.shape;
  if (array.shape.length !== 2 || /^f/.test(array.dtype)) {
    refuse(path, `${array.dtype} [${array.shape.join(', ')}] is not integers [tokens, topk]`);
  }
  return { ids: array.data, tokens: tokens!, topk: topk! };
}
