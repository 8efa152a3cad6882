// Router traces of Megatron-Core (`--moe-routing-trace-path`): router_trace_rank{r}.jsonl, one record per step, block
// and layer: {"step", "stage": "pre_dispatch", "block": "decoder", "layer", "rank", "num_tokens", "topk",
// "top_indices": [num_tokens][topk]}. Layers of multi-token prediction ("block": "mtp") number their layers again and
// are passed over.

import { refuse } from './file.ts';
import { shown } from './json.ts';
import { readJsonLines } from './jsonLines.ts';
import { pieceOfLists } from './nested.ts';
import { TraceCollector, type TraceReader } from './trace.ts';

export const MEGATRON_FILE = /^router_trace_rank([0-9]+)\.jsonl$/;

/** True for a record of a router trace. */
export function isMegatronRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'top_indices' in value && 'layer' in value;
}

function addRecord(collector: TraceCollector, value: unknown, where: string, path: string): void {
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
  if (block === 'mtp') return;
  if (block !== undefined && block !== 'decoder') fail(`block ${shown(block)} is neither decoder nor mtp`);
  if (stage !== undefined && stage !== 'pre_dispatch') fail(`stage ${shown(stage)} is not pre_dispatch`);
  const [step, layer, rank] = [integer('step'), integer('layer'), integer('rank')];
  if (!collector.wants(step, layer)) return;
  const piece = pieceOfLists(record.top_indices, where, path);
  const [tokens, topk] = [integer('num_tokens'), integer('topk')];
  if (piece.tokens !== tokens || (tokens > 0 && piece.topk !== topk)) {
    fail(`top_indices is [${piece.tokens}, ${piece.topk}], num_tokens and topk say [${tokens}, ${topk}]`);
  }
  collector.add(rank, { ...piece, topk });
}

/**
 * The routing of one step and layer of a trace, one table per rank.
 *
 * @param files of one trace, in any order
 * @throws FuscoError E_FOREIGN, E_FILE_READ
 */
export const readMegatron: TraceReader = (files, label, choice) => {
  const collector = new TraceCollector(label, choice, 'step');
  for (const file of files) {
    for (const { value, line } of readJsonLines(file, choice.progress)) {
      addRecord(collector, value, `line ${line}`, file.path);
    }
  }
  return collector.tables();
};
