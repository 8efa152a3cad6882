// Routing in whatever file there is: whose it is, is told by its first bytes and by the names of a directory, never by
// trust in an extension.

import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { readError, readWhole } from './file.ts';
import { readJsonLines } from './lines.ts';
import { isMegatronRecord, MEGATRON_FILE, readMegatron } from './megatron.ts';
import { parseNpy } from './npy.ts';
import { readNpz } from './npz.ts';
import { readRouting, toTables } from './routing.ts';
import { isSafetensors } from './safetensors.ts';
import { COUNTS_HINT, readSglang } from './sglang.ts';
import { isTorchArchive, openTorch } from './torch.ts';
import type { TraceChoice } from './trace.ts';
import { readTrtllm, TRTLLM_FILE } from './trtllm.ts';
import { isVllmArchive, isVllmRecord, readVllmArrays, readVllmLines, readVllmResponse } from './vllm.ts';
import { isZip } from './zip.ts';

/** Names of `--format`; `numpy` is .npy, .npz or a directory of rank{r}.npy. */
export const ROUTING_FORMATS = ['auto', 'numpy', 'sglang', 'vllm', 'megatron', 'trtllm'] as const;
export type RoutingFormat = (typeof ROUTING_FORMATS)[number];

/** What a file is, whoever wrote it. */
type Kind = 'npy' | 'npz' | 'vllm npz' | 'torch' | 'safetensors' | 'json' | 'unknown';

const KINDS: Readonly<Record<RoutingFormat, readonly Kind[]>> = {
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

const HEAD_BYTES = 64;
/** A JSON file that is not one value a line is read whole. */
const MAX_JSON_BYTES = 2 ** 28;

function refuse(path: string, text: string): never {
  throw new FuscoError('E_FOREIGN', text, { path });
}

/** The first bytes of a file. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
async function readHead(path: string): Promise<Uint8Array> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const { buffer, bytesRead } = await file.read(new Uint8Array(HEAD_BYTES), 0, HEAD_BYTES, 0);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw readError(path, error);
  } finally {
    await file?.close();
  }
}

async function kindOf(path: string): Promise<Kind> {
  const head = await readHead(path);
  if (head[0] === 0x93) return 'npy';
  if (isZip(head)) {
    const { names } = openTorch(await readWhole(path), path);
    if (isTorchArchive(names)) return 'torch';
    return isVllmArchive(names.map((name) => name.replace(/\.npy$/, ''))) ? 'vllm npz' : 'npz';
  }
  if (isSafetensors(head)) return 'safetensors';
  if (head[0] === 0x80 && head[1]! >= 2 && head[1]! <= 5) {
    refuse(path, 'a bare pickle, perhaps of torch.save before 1.6: save it again with a newer PyTorch');
  }
  return /^\uFEFF?\s*[{[]/.test(Buffer.from(head).toString('utf8')) ? 'json' : 'unknown';
}

/** The value of the first line; undefined where the line alone is no JSON. */
async function firstLine(path: string): Promise<unknown> {
  try {
    for await (const { value } of readJsonLines(path)) return value;
  } catch (error) {
    if (!(error instanceof FuscoError) || error.code !== 'E_FOREIGN') throw error;
  }
  return undefined;
}

async function readJsonRouting(path: string, choice: RoutingChoice): Promise<RoutingTable[]> {
  const { format } = choice;
  const first = await firstLine(path);
  if (first === undefined) return readJsonWhole(path, choice);
  if (format === 'megatron' || (format !== 'vllm' && isMegatronRecord(first))) {
    return readMegatron([path], path, choice);
  }
  return format === 'vllm' || isVllmRecord(first) ? readVllmLines(path, choice) : refuseJson(first, path);
}

async function readJsonWhole(path: string, choice: RoutingChoice): Promise<RoutingTable[]> {
  const bytes = await readWhole(path);
  if (bytes.length > MAX_JSON_BYTES) {
    refuse(path, `${bytes.length} bytes of JSON > ${MAX_JSON_BYTES}: store one record a line`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new FuscoError('E_FOREIGN', 'it is neither JSON nor one JSON value a line', { path, cause });
  }
  return isVllmRecord(value) ? readVllmResponse(value, path, choice) : refuseJson(value, path);
}

function refuseJson(value: unknown, path: string): never {
  if (typeof value === 'object' && value !== null && 'logical_count' in value) {
    refuse(path, `it only counts: ${COUNTS_HINT}`);
  }
  return refuse(path, 'JSON that is neither a router trace (top_indices) nor responses (routed_experts)');
}

async function readVllmFile(path: string, kind: Kind, choice: RoutingChoice): Promise<RoutingTable[]> {
  const bytes = await readWhole(path);
  const arrays = kind === 'npy' ? new Map([['routed_experts', parseNpy(bytes, path)]]) : readNpz(bytes, path);
  return readVllmArrays(arrays, path, choice);
}

/** The tables that another program's file holds; undefined for a file of NumPy's. */
async function readFile(path: string, choice: RoutingChoice): Promise<RoutingTable[] | undefined> {
  const format = choice.format ?? 'auto';
  const kind = await kindOf(path);
  // What is nobody's goes to the NumPy reader, whose refusal says what it starts with.
  if (kind === 'unknown' && (format === 'auto' || format === 'numpy')) return undefined;
  if (!KINDS[format].includes(kind)) refuse(path, `it does not start like a file of ${format}`);
  if (kind === 'torch') return readSglang([path], path, choice);
  if (kind === 'safetensors') return readTrtllm([path], path, choice);
  if (kind === 'json') return readJsonRouting(path, choice);
  return format === 'vllm' || (kind === 'vllm npz' && format === 'auto')
    ? readVllmFile(path, kind, choice)
    : undefined;
}

/** The tables of the recording in a directory; undefined where there is none. */
async function readDirectory(path: string, choice: RoutingChoice): Promise<RoutingTable[] | undefined> {
  const format = choice.format ?? 'auto';
  const names = (await readdir(path)).sort();
  const readers = [
    ['megatron', readMegatron, (name: string) => MEGATRON_FILE.test(name)],
    ['trtllm', readTrtllm, (name: string) => TRTLLM_FILE.test(name)],
    ['sglang', readSglang, (name: string) => name.endsWith('.pt')],
  ] as const;
  for (const [name, read, belongs] of readers) {
    const files = names.filter(belongs).map((file) => join(path, file));
    if (files.length > 0 && (format === 'auto' || format === name)) return read(files, path, choice);
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
  let isDirectory: boolean;
  try {
    isDirectory = (await stat(path)).isDirectory();
  } catch (error) {
    throw readError(path, error);
  }
  const tables = isDirectory ? await readDirectory(path, choice) : await readFile(path, choice);
  if (tables === undefined) {
    refuseChoice(path, choice);
    return readRouting(path, choice.ranks);
  }
  const only = tables.length === 1 ? tables[0] : undefined;
  if (only !== undefined && choice.ranks !== 1) {
    const { ids, tokens, topk } = only;
    const array = { dtype: 'i32', shape: [tokens, topk], data: ids as Int32Array<ArrayBuffer> } as const;
    return toTables({ kind: 'whole', array, path }, path, choice.ranks);
  }
  if (choice.ranks !== undefined && choice.ranks !== tables.length) {
    throw new FuscoError('E_RANKS', `holds ${tables.length} ranks, not the ${choice.ranks} asked for`, {
      path,
    });
  }
  return tables;
}
