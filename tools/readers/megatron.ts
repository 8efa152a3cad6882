// Router traces of Megatron-Core (`--moe-routing-trace-path`): router_trace_rank{r}.jsonl, one record per step, block and
// layer: {"step", "stage": "pre_dispatch", "block": "decoder", "layer", "rank", "num_tokens", "topk", "top_indices":
// [num_tokens][topk]}. Layers of multi-token prediction ("block": "mtp") restart the numbers of layers and are skipped.

import { basename } from 'node:path';
import { refuseOptions } from './choice.ts';
import { refuse } from './file.ts';
import { shown } from './json.ts';
import { readJsonLines } from './jsonLines.ts';
import { arrayOfLists } from './payload.ts';
import { pieceOf, TraceCollector, type TraceReader } from './trace.ts';

export const MEGATRON_FILE = /^router_trace_rank([0-9]+)\.jsonl(\.gz)?$/;

/** True for a record of a router trace. */
export function isMegatronRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'top_indices' in value && 'layer' in value;
}

/** Adds a record; returns its rank, or undefined if the record is skipped. */
function addRecord(
  collector: TraceCollector,
  value: unknown,
  where: string,
  path: string,
): number | undefined {
  const record = (value ?? {}) as Record<string, unknown>;
  const fail = (text: string): never => refuse(path, `${where}: ${text}`);
  const integer = (name: string): number => {
    const found = record[name];
    return Number.isSafeInteger(found)
      ? (found as number)
      : fail(`${JSON.stringify(name)} is not an integer`);
  };
  if (!isMegatronRecord(value)) fail('it is not a record with "layer" and "top_indices"');
  const { block, stage } = record;
  if (block === 'mtp') return undefined;
  if (block !== undefined && block !== 'decoder') fail(`block ${shown(block)} is neither decoder nor mtp`);
  if (stage !== undefined && stage !== 'pre_dispatch') fail(`stage ${shown(stage)} is not pre_dispatch`);
  const [step, layer, rank] = [integer('step'), integer('layer'), integer('rank')];
  const place = { step, layer, rank };
  if (!collector.wants(place)) return rank;
  const [tokens, topk] = [integer('num_tokens'), integer('topk')];
  const lists = arrayOfLists(record.top_indices, { where, path });
  const [rows, columns = topk] = lists.shape;
  if (rows !== tokens || (tokens > 0 && (columns !== topk || lists.shape.length !== 2))) {
    fail(`top_indices is [${lists.shape.join(', ')}], num_tokens and topk say [${tokens}, ${topk}]`);
  }
  const array = tokens === 0 ? { ...lists, shape: [0, topk] } : lists;
  collector.add(place, pieceOf(array, `${path}: ${where}`), where, path);
  return rank;
}

/**
 * The routing of one step and layer of a trace, one table per rank.
 *
 * @param files of one trace, in any order
 * @throws FuscoError E_FOREIGN, E_RANKS, E_FILE_READ
 */
export const readMegatron: TraceReader = (files, label, choice) => {
  refuseOptions(choice, ['array', 'axes', 'physicalIds'], 'a router trace', label);
  const collector = new TraceCollector(label, choice, { stepName: 'step' });
  for (const file of files) {
    const { path } = file;
    const named = MEGATRON_FILE.exec(basename(path))?.[1];
    const ranks = new Set(named === undefined ? [] : [Number(named)]);
    for (const rank of ranks) collector.addRank(rank);
    // The truncated record may be of any rank of the file.
    const onCut = () => {
      for (const rank of ranks) collector.addRank(rank, true);
    };
    for (const { value, line } of readJsonLines(file, choice, onCut)) {
      const rank = addRecord(collector, value, `line ${line}`, path);
      if (rank !== undefined) ranks.add(rank);
    }
  }
  return collector.finish();
};
