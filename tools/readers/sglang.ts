// Dumps of SGLang's expert-distribution recorder, files of torch.save named expert_distribution_recorder_{time}_{rank}.pt.
//
//   per_token   {"records": [{"forward_pass_id", "rank", "gatherer_key", "topk_ids_of_layer" [layers, tokens, 8], …}],
//                "last_physical_to_logical_map" [layers, physical]}
//   per_pass    the same records without topk_ids_of_layer: counts only
//   stat        {"rank", "logical_count" [steps, layers, experts], …}: counts only
//
// The recorder sees physical experts. The map of the dump converts them to logical ones, unless the choice keeps them. It
// is the map at the end of the recording: ids that it cannot explain were recorded under another map. The recorder
// reserves 8 columns per token and leaves unused ones at -1; columns that are -1 in every token are removed.

import { FuscoError } from '../../planner/errors.ts';
import { type ReadChoice, refuseOptions } from './choice.ts';
import { COUNTS_HINT, type FileSource, refuse } from './file.ts';
import { isInteger, type NdArray } from './npy.ts';
import type { Piece, Place } from './piece.ts';
import { readTorch, TorchTensor } from './torch.ts';
import { TraceCollector, type TraceReader } from './trace.ts';

function integerTensor(value: unknown, axes: number, name: string, path: string): TorchTensor {
  if (!(value instanceof TorchTensor) || value.shape.length !== axes || !isInteger(value)) {
    refuse(path, `${name} is not a tensor of integers with ${axes} axes`);
  }
  return value;
}

function integerOf(record: ReadonlyMap<unknown, unknown>, name: string, path: string): number {
  const value = record.get(name);
  if (!Number.isSafeInteger(value)) refuse(path, `a record's ${name} is not an integer`);
  return value as number;
}

const MAP = 'last_physical_to_logical_map';
const MAP_HINT =
  'Record without rebalancing, or stop before the map changes; --physical-ids keeps the ids as recorded.';

/** Where a piece was recorded, for errors. */
interface Spot {
  readonly where: string;
  readonly path: string;
}

function mapError(spot: Spot, token: number, text: string): FuscoError {
  return new FuscoError('E_FOREIGN', `${spot.where}, token ${token} ${text}`, {
    path: spot.path,
    hint: MAP_HINT,
  });
}

/** Throws E_FOREIGN if two slots of a token hold one expert: the router chose them under another map. */
function refuseTwice(row: readonly number[], slots: readonly number[], token: number, spot: Spot): void {
  for (const [k, expert] of row.entries()) {
    const first = row.indexOf(expert);
    if (expert === -1 || first === k || slots[first] === slots[k]) continue;
    const text = `chose slots ${slots[first]} and ${slots[k]}, which both hold expert ${expert} in ${MAP}: the map changed while recording`;
    throw mapError(spot, token, text);
  }
}

/** Physical ids of one layer as logical ones. Throws E_FOREIGN for ids that the map cannot explain. */
function toLogical({ ids, tokens, topk }: Piece, map: NdArray, layer: number, spot: Spot): Piece {
  const physical = map.shape[1]!;
  const logical = new Float64Array(tokens * topk);
  for (let token = 0; token < tokens; token++) {
    const slots = Array.from({ length: topk }, (_, k) => Number(ids[token * topk + k]));
    const row = slots.map((slot) => {
      if (slot === -1) return -1;
      if (slot < 0 || slot >= physical)
        refuse(spot.path, `physical expert ${slot} of layer ${layer} is not in 0..${physical - 1}`);
      const expert = Number(map.data[layer * physical + slot]);
      if (expert < 0) throw mapError(spot, token, `chose slot ${slot}, which holds no expert in ${MAP}`);
      return expert;
    });
    refuseTwice(row, slots, token, spot);
    logical.set(row, token * topk);
  }
  return { ids: logical, tokens, topk };
}

/** Layer `index` of ids [layers, tokens, topk]. */
function layerPiece({ data, shape }: NdArray, index: number): Piece {
  const [, tokens, topk] = shape as [number, number, number];
  return { ids: data.subarray(index * tokens * topk, (index + 1) * tokens * topk), tokens, topk };
}

/** A requested piece of a dump, with logical ids unless the choice keeps the physical ones. */
interface Found extends Spot {
  readonly place: Place;
  readonly piece: Piece;
}

/** Number of columns that contain an id for some token. */
function usedColumns({ ids, tokens, topk }: Piece): number {
  for (let column = topk - 1; column >= 0; column--) {
    for (let token = 0; token < tokens; token++)
      if (Number(ids[token * topk + column]) !== -1) return column + 1;
  }
  return 0;
}

function firstColumns({ ids, tokens, topk }: Piece, columns: number): Piece {
  const kept = new Float64Array(tokens * columns);
  for (let token = 0; token < tokens; token++) {
    for (let k = 0; k < columns; k++) kept[token * columns + k] = Number(ids[token * topk + k]);
  }
  return { ids: kept, tokens, topk: columns };
}

/** The requested pieces of one dump. */
function piecesOf({ bytes, path }: FileSource, collector: TraceCollector, choice: ReadChoice): Found[] {
  const dump = readTorch(bytes, path);
  const records = dump instanceof Map ? dump.get('records') : undefined;
  if (!(dump instanceof Map) || !Array.isArray(records)) {
    const counts = dump instanceof Map && dump.has('logical_count');
    refuse(
      path,
      counts ? `it only counts: ${COUNTS_HINT}` : 'it is no dump of the expert-distribution recorder',
    );
  }
  const map = integerTensor(dump.get(MAP), 2, MAP, path).toArray();
  const found: Found[] = [];
  for (const [number, record] of records.entries()) {
    if (!(record instanceof Map)) refuse(path, 'a record is not a dict');
    if (!record.has('topk_ids_of_layer'))
      refuse(path, `its records only count (mode per_pass): ${COUNTS_HINT}`);
    const tensor = integerTensor(record.get('topk_ids_of_layer'), 3, 'topk_ids_of_layer', path);
    const [step, rank] = [integerOf(record, 'forward_pass_id', path), integerOf(record, 'rank', path)];
    const layers = tensor.shape[0]!;
    if (layers !== map.shape[0]) refuse(path, `${layers} layers recorded, ${map.shape[0]} in ${MAP}`);
    let array: NdArray | undefined;
    for (let layer = 0; layer < layers; layer++) {
      const place = { step, layer, rank };
      if (!collector.wants(place)) continue;
      array ??= tensor.toArray();
      const spot = { path, where: `record ${number}, forward pass ${step}` };
      const recorded = collector.masked(layerPiece(array, layer));
      const piece = choice.physicalIds === true ? recorded : toLogical(recorded, map, layer, spot);
      found.push({ place, piece, ...spot });
    }
  }
  return found;
}

/** True for the object of a dump of the recorder in any mode. */
export function isSglangDump(value: unknown): boolean {
  return value instanceof Map && (value.has('records') || value.has('logical_count'));
}

/**
 * The routing of one forward pass and layer, one table per rank that was dumped.
 *
 * @param files the dumps of one recording, one per rank
 * @throws FuscoError E_FOREIGN, E_RANKS, E_FORMAT, E_FILE_READ, E_MEMORY
 */
export const readSglang: TraceReader = (files, label, choice) => {
  refuseOptions(choice, ['array', 'axes'], "a recorder's dump", label);
  const collector = new TraceCollector(label, choice, { stepName: 'forward pass' });
  const found: Found[] = [];
  for (const file of files) found.push(...piecesOf(file, collector, choice));
  const columns = found.reduce((most, { piece }) => Math.max(most, usedColumns(piece)), 1);
  for (const { place, piece, where, path } of found) {
    collector.addMasked(place, firstColumns(piece, Math.min(columns, piece.topk)), where, path);
  }
  return collector.finish();
};
