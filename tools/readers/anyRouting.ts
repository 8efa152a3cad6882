// Routing in whatever file there is: whose it is, is told by its first bytes and by the names of a directory, never by
// trust in an extension.

import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import {
  COUNTS_HINT,
  type DirectorySource,
  type FileKind,
  type FileSource,
  refuse,
  wholeOf,
} from './file.ts';
import { readJsonLines } from './jsonLines.ts';
import { isMegatronRecord, MEGATRON_FILE, readMegatron } from './megatron.ts';
import { parseNpy } from './npy.ts';
import { readNpz } from './npz.ts';
import { routingOf, splitBetween } from './numpyRouting.ts';
import { readSglang } from './sglang.ts';
import { openMatching, openSource } from './source.ts';
import type { TraceChoice } from './trace.ts';
import { readTrtllm, TRTLLM_FILE } from './trtllm.ts';
import { isVllmRecord, readVllmArrays, readVllmLines, readVllmResponse } from './vllm.ts';

/** Names of `--format`; `numpy` is .npy, .npz or a directory of rank{r}.npy. */
export const ROUTING_FORMATS = ['auto', 'numpy', 'sglang', 'vllm', 'megatron', 'trtllm'] as const;
export type RoutingFormat = (typeof ROUTING_FORMATS)[number];

/** The kinds of file that each format takes. */
const KINDS: Readonly<Record<RoutingFormat, readonly FileKind[]>> = {
  auto: ['npy', 'npz', 'vllm npz', 'torch', 'safetensors', 'json'],
  numpy: ['npy', 'npz', 'vllm npz'],
  sglang: ['torch'],
  vllm: ['json', 'npy', 'npz', 'vllm npz'],
  megatron: ['json'],
  trtllm: ['safetensors'],
};

export interface RoutingChoice extends TraceChoice {
  /** Default auto. */
  readonly format?: RoutingFormat | undefined;
  /** As readRouting takes it. */
  readonly ranks?: number | undefined;
}

/** A JSON file that is not one value a line is read whole. */
const MAX_JSON_BYTES = 2 ** 28;

/** The value of the first line; undefined if the line alone is not JSON. */
function firstLine(file: FileSource): unknown {
  try {
    for (const { value } of readJsonLines(file)) return value;
  } catch (error) {
    if (!(error instanceof FuscoError) || error.code !== 'E_FOREIGN') throw error;
  }
  return undefined;
}

function readJsonRouting(file: FileSource, choice: RoutingChoice): RoutingTable[] {
  const { format } = choice;
  const first = firstLine(file);
  if (first === undefined) return readJsonWhole(file, choice);
  if (format === 'megatron' || (format !== 'vllm' && isMegatronRecord(first))) {
    return readMegatron([file], file.path, choice);
  }
  return format === 'vllm' || isVllmRecord(first)
    ? readVllmLines(file, choice)
    : refuseJson(first, file.path);
}

function readJsonWhole(file: FileSource, choice: RoutingChoice): RoutingTable[] {
  const { path, bytes } = file;
  if (bytes.length > MAX_JSON_BYTES) {
    refuse(path, `${bytes.length} bytes of JSON > ${MAX_JSON_BYTES}: store one record a line`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(wholeOf(file)));
  } catch (cause) {
    refuse(path, 'it is neither JSON nor one JSON value a line', cause);
  }
  return isVllmRecord(value) ? readVllmResponse(value, path, choice) : refuseJson(value, path);
}

function refuseJson(value: unknown, path: string): never {
  if (typeof value === 'object' && value !== null && 'logical_count' in value) {
    refuse(path, `it only counts: ${COUNTS_HINT}`);
  }
  return refuse(path, 'JSON that is neither a router trace (top_indices) nor responses (routed_experts)');
}

function readVllmFile(file: FileSource, choice: RoutingChoice): RoutingTable[] {
  const { kind, bytes, path } = file;
  const arrays =
    kind === 'npy' ? new Map([['routed_experts', parseNpy(wholeOf(file), path)]]) : readNpz(bytes, path);
  return readVllmArrays(arrays, path, choice);
}

/** The tables that another program's file holds; undefined for a file of NumPy's. */
function readFile(file: FileSource, choice: RoutingChoice): RoutingTable[] | undefined {
  const { kind, path } = file;
  const format = choice.format ?? 'auto';
  // What is nobody's goes to the NumPy reader, whose refusal says what it starts with.
  if (kind === 'unknown' && (format === 'auto' || format === 'numpy')) return undefined;
  if (kind === 'pickle') {
    refuse(path, 'a bare pickle, perhaps of torch.save before 1.6: save it again with a newer PyTorch');
  }
  if (!KINDS[format].includes(kind)) refuse(path, `it does not start like a file of ${format}`);
  if (kind === 'torch') return readSglang([file], path, choice);
  if (kind === 'safetensors') return readTrtllm([file], path, choice);
  if (kind === 'json') return readJsonRouting(file, choice);
  return format === 'vllm' || (kind === 'vllm npz' && format === 'auto')
    ? readVllmFile(file, choice)
    : undefined;
}

/** The tables of the recording in a directory; undefined if it holds none. */
function readDirectory(directory: DirectorySource, choice: RoutingChoice): RoutingTable[] | undefined {
  const { path, names } = directory;
  const format = choice.format ?? 'auto';
  const readers = [
    ['megatron', readMegatron, MEGATRON_FILE],
    ['trtllm', readTrtllm, TRTLLM_FILE],
    ['sglang', readSglang, /\.pt$/],
  ] as const;
  for (const [name, read, wanted] of readers) {
    if (names.some((file) => wanted.test(file)) && (format === 'auto' || format === name)) {
      return read(openMatching(directory, wanted), path, choice);
    }
  }
  if (format === 'auto' || format === 'numpy') return undefined;
  return refuse(path, `the directory holds no files of ${format}`);
}

/** Options that mean nothing to a file of NumPy's. Throws E_OPTION. */
function refuseChoice(path: string, { layer, step }: RoutingChoice): void {
  if (layer === undefined && step === undefined) return;
  const option = layer === undefined ? '--step' : '--layer';
  throw new FuscoError(
    'E_OPTION',
    `${option}: this file holds one layer and one step (--format vllm reads arrays of layers)`,
    { path },
  );
}

/**
 * The routing tables of all ranks, from a file or directory of NumPy's, SGLang's, vLLM's, Megatron's or
 * TensorRT-LLM's. A recording of one rank is split like an array [tokens, topk].
 *
 * @throws FuscoError what readRouting throws, and E_FOREIGN for another program's file that is damaged, not understood,
 *   or holds several layers or steps of which none was chosen
 */
export async function readAnyRouting(path: string, choice: RoutingChoice = {}): Promise<RoutingTable[]> {
  const { ranks } = choice;
  using source = openSource(path);
  const tables = source.kind === 'directory' ? readDirectory(source, choice) : readFile(source, choice);
  if (tables === undefined) {
    refuseChoice(path, choice);
    return routingOf(source, ranks);
  }
  if (tables.length === 1 && ranks !== 1) return splitBetween(tables[0]!, path, ranks);
  if (ranks !== undefined && ranks !== tables.length) {
    throw new FuscoError('E_RANKS', `holds ${tables.length} ranks, not the ${ranks} asked for`, { path });
  }
  return tables;
}
