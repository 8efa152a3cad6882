// Expert statistics of TensorRT-LLM (`EXPERT_STATISTIC_PATH`): a directory with meta_info.json and, per rank, arrays
// under the key "{iter}_{layer}":
//
//   rank{r}_raw.safetensors   token_selected_experts [tokens, topk]
//   rank{r}.safetensors       counts [experts], added up over all ranks by their reader

import { basename } from 'node:path';
import { refuseOptions } from './choice.ts';
import { COUNTS_HINT, refuse, wholeOf } from './file.ts';
import { readSafetensors } from './safetensors.ts';
import { pieceOf, TraceCollector, type TraceReader } from './trace.ts';

export const TRTLLM_FILE = /^rank([0-9]+)_raw\.safetensors(\.gz)?$/;
const KEY = /^([0-9]{1,9})_([0-9]{1,9})$/;

/** True for the names of arrays of expert statistics. */
export function isTrtllmArchive(names: Iterable<string>): boolean {
  return [...names].every((name) => KEY.test(name));
}

/** Iteration and layer of a key. */
export function parseKey(key: string, path: string): { iter: number; layer: number } {
  const parts = KEY.exec(key);
  if (parts === null) refuse(path, `array ${JSON.stringify(key.slice(0, 60))} is not named ITER_LAYER`);
  return { iter: Number(parts[1]), layer: Number(parts[2]) };
}

/**
 * The routing of one iteration and layer, one table per rank. The rank is in the file's name; 0 if it is not.
 *
 * @throws FuscoError E_FOREIGN, E_RANKS, E_FILE_READ, E_MEMORY
 */
export const readTrtllm: TraceReader = (files, label, choice) => {
  refuseOptions(choice, ['array', 'axes', 'physicalIds'], 'expert statistics', label);
  const collector = new TraceCollector(label, choice, { stepName: 'iteration' });
  for (const file of files) {
    const { path } = file;
    const rank = Number(TRTLLM_FILE.exec(basename(path))?.[1] ?? 0);
    collector.addRank(rank);
    for (const [key, array] of readSafetensors(wholeOf(file), path)) {
      const { iter, layer } = parseKey(key, path);
      if (array.shape.length === 1) refuse(path, `it only counts: ${COUNTS_HINT}`);
      const place = { step: iter, layer, rank };
      if (collector.wants(place)) collector.add(place, pieceOf(array, `${path}/${key}`), key, path);
    }
  }
  return collector.finish();
};
