// Dumps of SGLang's expert-distribution recorder, files of torch.save named expert_distribution_recorder_{time}_{rank}.pt.
//
//   per_token   {"records": [{"forward_pass_id", "rank", "gatherer_key", "topk_ids_of_layer" [layers, tokens, 8], …}],
//                "last_physical_to_logical_map" [layers, physical]}
//   per_pass    the same records without topk_ids_of_layer: counts only
//   stat        {"rank", "logical_count" [steps, layers, experts], …}: counts only
//
// The recorder sees physical experts; the map of the dump turns them into logical ones. It reserves 8 columns a token
// and leaves those that a model does not use at -1: columns that are -1 in every token are cut off.

import { COUNTS_HINT, type FileSource, refuse } from './file.ts';
import type { NdArray } from './npy.ts';
import { readTorch, TorchTensor } from './torch.ts';
import { layerPiece, type Piece, TraceCollector, type TraceReader } from './trace.ts';

function integerTensor(value: unknown, axes: number, name: string, path: string): TorchTensor {
  if (!(value instanceof TorchTensor) || value.shape.length !== axes || /^f/.test(value.dtype)) {
    refuse(path, `${name} is not a tensor of integers with ${axes} axes`);
  }
  return value;
}

function integerOf(record: ReadonlyMap<unknown, unknown>, name: string, path: string): number {
  const value = record.get(name);
  if (!Number.isSafeInteger(value)) refuse(path, `a record's ${name} is not an integer`);
  return value as number;
}

/** Physical ids of one layer as logical ones. Throws E_FOREIGN for an id that the map does not have. */
function toLogical({ ids, tokens, topk }: Piece, map: NdArray, layer: number, path: string): Piece {
  const physical = map.shape[1]!;
  const logical = Float64Array.from(ids, (id) => {
    const slot = Number(id);
    if (slot === -1) return -1;
    if (slot < 0 || slot >= physical)
      refuse(path, `physical expert ${slot} of layer ${layer} is not in 0..${physical - 1}`);
    return Number(map.data[layer * physical + slot]);
  });
  return { ids: logical, tokens, topk };
}

/** How many columns hold an id in some token. */
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

/** The wanted pieces of one dump, with logical ids. */
function piecesOf({ bytes, path }: FileSource, collector: TraceCollector): { rank: number; piece: Piece }[] {
  const dump = readTorch(bytes, path);
  const records = dump instanceof Map ? dump.get('records') : undefined;
  if (!(dump instanceof Map) || !Array.isArray(records)) {
    const counts = dump instanceof Map && dump.has('logical_count');
    refuse(
      path,
      counts ? `it only counts: ${COUNTS_HINT}` : 'it is no dump of the expert-distribution recorder',
    );
  }
  const map = integerTensor(
    dump.get('last_physical_to_logical_map'),
    2,
    'last_physical_to_logical_map',
    path,
  ).toArray();
  const found: { rank: number; piece: Piece }[] = [];
  for (const record of records) {
    if (!(record instanceof Map)) refuse(path, 'a record is not a dict');
    if (!record.has('topk_ids_of_layer'))
      refuse(path, `its records only count (mode per_pass): ${COUNTS_HINT}`);
    const tensor = integerTensor(record.get('topk_ids_of_layer'), 3, 'topk_ids_of_layer', path);
    const [step, rank] = [integerOf(record, 'forward_pass_id', path), integerOf(record, 'rank', path)];
    const layers = tensor.shape[0]!;
    if (layers !== map.shape[0])
      refuse(path, `${layers} layers recorded, ${map.shape[0]} in last_physical_to_logical_map`);
    let array: NdArray | undefined;
    for (let layer = 0; layer < layers; layer++) {
      if (!collector.wants(step, layer)) continue;
      array ??= tensor.toArray();
      found.push({ rank, piece: toLogical(layerPiece(array, 0, layer), map, layer, path) });
    }
  }
  return found;
}

/**
 * The routing of one forward pass and layer, one table per rank that was dumped.
 *
 * @param files the dumps of one recording, one per rank
 * @throws FuscoError E_FOREIGN, E_FORMAT, E_FILE_READ, E_MEMORY
 */
export const readSglang: TraceReader = (files, label, choice) => {
  const collector = new TraceCollector(label, choice, 'forward pass');
  const found: { rank: number; piece: Piece }[] = [];
  for (const file of files) found.push(...piecesOf(file, collector));
  const columns = found.reduce((most, { piece }) => Math.max(most, usedColumns(piece)), 1);
  for (const { rank, piece } of found) {
    collector.add(rank, firstColumns(piece, Math.min(columns, piece.topk)));
  }
  return collector.tables();
};
