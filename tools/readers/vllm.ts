// What vLLM returns with `--enable-return-routed-experts`: ids [tokens, layers, topk] of a request.
//
//   JSONL     a response a line: "prompt_routed_experts" next to "choices"[]."routed_experts", each null, nested lists
//             (0.21) or a .npy file in base64 (later); or {"routed_experts": …} alone, as clients store it
//   .npz      routed_experts and, if there, prompt_routed_experts, as clients store the arrays
//   .npy      one such array; it looks like [ranks, tokens, topk], so it must be asked for
//
// Requests are one batch, in order, prompt before choices. -1 marks positions that the prefix cache served.

import type { RoutingTable } from '../../planner/routing.ts';
import { type FileSource, refuse } from './file.ts';
import { readJsonLines } from './jsonLines.ts';
import { layerOfLists, layersOfLists } from './nested.ts';
import { type NdArray, parseNpy, shapeText } from './npy.ts';
import { layerPiece, type TraceChoice, TraceCollector } from './trace.ts';

const PROMPT = 'prompt_routed_experts';
const ROUTED = 'routed_experts';

/** True for a line of responses. */
export function isVllmRecord(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return ROUTED in value || PROMPT in value || ('choices' in value && Array.isArray(value.choices));
}

/** True for an archive of the arrays, by the names of its members. */
export function isVllmArchive(names: Iterable<string>): boolean {
  const list = [...names];
  return list.length > 0 && list.every((name) => name === ROUTED || name === PROMPT);
}

function addArray(collector: TraceCollector, request: number, array: NdArray, path: string): void {
  if (array.shape.length !== 3 || /^f/.test(array.dtype)) {
    refuse(path, `${array.dtype} ${shapeText(array.shape)} is not integers (tokens, layers, topk)`);
  }
  for (let layer = 0; layer < array.shape[1]!; layer++) {
    if (collector.wants(request, layer)) collector.add(0, layerPiece(array, 1, layer));
  }
}

function decodeBase64(text: string, where: string, path: string): NdArray {
  const bytes = Buffer.from(text, 'base64');
  // Node passes over what is no base64; encoding again shows it.
  if (bytes.toString('base64').replace(/=+$/, '') !== text.replace(/=+$/, ''))
    refuse(path, `${where}: it is not base64`);
  return parseNpy(Uint8Array.from(bytes), `${path}: ${where}`);
}

function addValue(
  collector: TraceCollector,
  request: number,
  value: unknown,
  where: string,
  path: string,
): void {
  if (value === null || value === undefined) return;
  if (typeof value === 'string') {
    addArray(collector, request, decodeBase64(value, where, path), path);
    return;
  }
  const layers = layersOfLists(value, where, path);
  for (let layer = 0; layer < layers; layer++) {
    if (collector.wants(request, layer)) collector.add(0, layerOfLists(value, layer, where, path));
  }
}

function addRecord(
  collector: TraceCollector,
  value: unknown,
  request: number,
  where: string,
  path: string,
): void {
  if (!isVllmRecord(value)) refuse(path, `${where}: it is no response with "choices" or "${ROUTED}"`);
  const record = value as Record<string, unknown>;
  addValue(collector, request, record[PROMPT], `${where}, ${PROMPT}`, path);
  addValue(collector, request, record[ROUTED], `${where}, ${ROUTED}`, path);
  const choices = record.choices ?? [];
  if (!Array.isArray(choices)) refuse(path, `${where}: "choices" is not a list`);
  for (const [i, choice] of choices.entries()) {
    addValue(
      collector,
      request,
      (choice as Record<string, unknown> | null)?.[ROUTED],
      `${where}, choice ${i}`,
      path,
    );
  }
}

/** Requests are numbered from 0, as lines of the file. */
function collect(path: string, choice: TraceChoice): TraceCollector {
  return new TraceCollector(path, choice, 'request', true);
}

/** One layer of all requests, or of the one that `choice.step` names: a single table. Throws E_FOREIGN and file errors. */
export function readVllmLines(file: FileSource, choice: TraceChoice): RoutingTable[] {
  const collector = collect(file.path, choice);
  let request = 0;
  for (const { value, line } of readJsonLines(file, choice.progress)) {
    addRecord(collector, value, request++, `line ${line}`, file.path);
  }
  return collector.tables();
}

/** One response that was stored as a JSON file of its own. */
export function readVllmResponse(value: unknown, path: string, choice: TraceChoice): RoutingTable[] {
  const collector = collect(path, choice);
  addRecord(collector, value, 0, 'the response', path);
  return collector.tables();
}

/** One layer of arrays [tokens, layers, topk], the prompt's before the generated tokens'. */
export function readVllmArrays(
  arrays: ReadonlyMap<string, NdArray>,
  path: string,
  choice: TraceChoice,
): RoutingTable[] {
  const collector = collect(path, choice);
  const names = [...arrays.keys()].sort();
  for (const name of names) addArray(collector, 0, arrays.get(name)!, `${path}/${name}`);
  return collector.tables();
}
