// Reads routing from files of any supported format. The format is recognized by the first bytes of a file and by the
// names in a directory, never by an extension.

import { FuscoError } from '../../planner/errors.ts';
import { namedArrays, readArrays } from './arrays.ts';
import type { ReadChoice } from './choice.ts';
import {
  COUNTS_HINT,
  type DirectorySource,
  type FileKind,
  type FileSource,
  refuse,
  type Source,
  wholeOf,
} from './file.ts';
import { readJsonLines } from './jsonLines.ts';
import { maskPiece, readMultiHot } from './masks.ts';
import { isMegatronRecord, MEGATRON_FILE, readMegatron } from './megatron.ts';
import { parseNpy } from './npy.ts';
import { readNpz } from './npz.ts';
import { routingOf, splitBetween } from './numpyRouting.ts';
import type { RecordedTable } from './origins.ts';
import { listed, type Recorded } from './piece.ts';
import { isResponses, readResponseFile, readResponseLines } from './responses.ts';
import { readSafetensors } from './safetensors.ts';
import { isSglangDump, readSglang } from './sglang.ts';
import { openMatching, openSource } from './source.ts';
import { joinTables } from './tables.ts';
import { openTorch, readTorch } from './torch.ts';
import { tensorsOf } from './torchArrays.ts';
import { type LayerSearch, tableOf } from './trace.ts';
import { isTrtllmArchive, readTrtllm, TRTLLM_FILE } from './trtllm.ts';

/** Names of `--format`; `numpy` is .npy, .npz or a directory of rank{r}.npy. */
export const ROUTING_FORMATS = ['auto', 'numpy', 'sglang', 'vllm', 'megatron', 'trtllm'] as const;
export type RoutingFormat = (typeof ROUTING_FORMATS)[number];

/** The kinds of file that each format takes. */
const KINDS: Readonly<Record<RoutingFormat, readonly FileKind[]>> = {
  auto: ['npy', 'npz', 'torch', 'safetensors', 'json'],
  numpy: ['npy', 'npz'],
  sglang: ['torch', 'json'],
  vllm: ['json', 'npy', 'npz', 'torch', 'safetensors'],
  megatron: ['json'],
  trtllm: ['safetensors'],
};

export interface RoutingChoice extends ReadChoice {
  /** Default auto. */
  readonly format?: RoutingFormat | undefined;
}

type Choice = RoutingChoice & LayerSearch;

/** A JSON file that does not have one value per line is read as a whole. */
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

function readJsonRouting(file: FileSource, choice: Choice): Recorded {
  const { format } = choice;
  const first = firstLine(file);
  if (first === undefined) return readJsonWhole(file, choice);
  const isForResponses = format === 'vllm' || format === 'sglang';
  if (format === 'megatron' || (!isForResponses && isMegatronRecord(first))) {
    return readMegatron([file], file.path, choice);
  }
  return isForResponses || isResponses(first)
    ? readResponseLines(file, choice)
    : refuseJson(first, file.path);
}

function readJsonWhole(file: FileSource, choice: Choice): Recorded {
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
  return isResponses(value) ? readResponseFile(value, path, choice) : refuseJson(value, path);
}

function refuseJson(value: unknown, path: string): never {
  if (typeof value === 'object' && value !== null && 'logical_count' in value) {
    refuse(path, `it only counts: ${COUNTS_HINT}`);
  }
  return refuse(
    path,
    'JSON that is neither a router trace (top_indices) nor responses of vLLM or SGLang (routed_experts)',
  );
}

function readTorchRouting(file: FileSource, choice: Choice): Recorded {
  const { path, bytes } = file;
  const value = readTorch(bytes, path);
  if (choice.format === 'sglang' || isSglangDump(value)) return readSglang([file], path, choice);
  return readArrays(tensorsOf(value, path), path, choice, {
    hasLayers: choice.format === 'vllm',
    hasRanks: false,
  });
}

function readSafetensorsRouting(file: FileSource, choice: Choice): Recorded {
  const { path } = file;
  const bytes = wholeOf(file);
  const arrays = readSafetensors(bytes, path);
  if (choice.format === 'trtllm' || (choice.format !== 'vllm' && isTrtllmArchive(arrays.keys()))) {
    return readTrtllm([{ ...file, bytes }], path, choice);
  }
  return readArrays(namedArrays(arrays), path, choice, {
    hasLayers: choice.format === 'vllm',
    hasRanks: false,
  });
}

/** Members of an archive of one array per rank, which the NumPy reader takes. */
const RANK_FILE = /^rank[0-9]+\.npy$/;

function readNumpyRouting(file: FileSource, choice: Choice): Recorded {
  const { path, bytes, kind } = file;
  // Only the names: members are read once.
  const isPerRank = kind === 'npz' && openTorch(bytes, path).names.some((name) => RANK_FILE.test(name));
  if (isPerRank && choice.array === undefined) return readPerRank(file, choice);
  const arrays = kind === 'npy' ? new Map([['', parseNpy(wholeOf(file), path)]]) : readNpz(bytes, path);
  return readArrays(namedArrays(arrays), path, choice, {
    hasLayers: choice.format === 'vllm',
    hasRanks: choice.format !== 'vllm',
  });
}

/** One array [tokens, topk] per rank. */
function readPerRank(source: Source, choice: Choice): Recorded {
  const { path } = source;
  const given = (['layer', 'step', 'axes', 'array'] as const).find((name) => choice[name] !== undefined);
  if (given !== undefined) {
    throw new FuscoError('E_OPTION', `--${given}: it holds one array [tokens, topk] per rank`, {
      path,
      hint: `Leave out --${given}.`,
    });
  }
  const tables = routingOf(source).map((table, rank) => {
    const origin = { path: `${path}/rank${rank}.npy`, where: '', first: 0, tokens: table.tokens };
    return tableOf([{ piece: maskPiece(table, choice), origin }], origin.path);
  });
  return { kind: 'ranks', tables, isStated: true };
}

/** The description of a file that no reader accepts. */
function refuseUnknown({ path, bytes }: FileSource): never {
  const text = new TextDecoder().decode(bytes.subarray(0, Math.min(512, bytes.length)));
  if (/^[\w"]+(,[\w" .-]*)+\r?\n/.test(text)) {
    refuse(
      path,
      'text that begins like CSV, which is no format of a routing: store the ids as .npy or JSONL',
    );
  }
  // The error of the .npy reader states how the file starts.
  parseNpy(wholeOf({ kind: 'unknown', path, bytes }), path);
  throw new FuscoError('E_INTERNAL', 'an unknown file is a .npy file', { path });
}

function readFile(file: FileSource, choice: Choice): Recorded {
  const { kind, path } = file;
  const format = choice.format ?? 'auto';
  if (kind === 'unknown' && (format === 'auto' || format === 'numpy')) return refuseUnknown(file);
  if (kind === 'pickle') {
    refuse(path, 'a bare pickle, perhaps of torch.save before 1.6: save it again with a newer PyTorch');
  }
  if (!KINDS[format].includes(kind)) refuse(path, `it does not start like a file of ${format}`);
  if (kind === 'torch') return readTorchRouting(file, choice);
  if (kind === 'safetensors') return readSafetensorsRouting(file, choice);
  return kind === 'json' ? readJsonRouting(file, choice) : readNumpyRouting(file, choice);
}

function readDirectory(directory: DirectorySource, choice: Choice): Recorded {
  const { path, names } = directory;
  const format = choice.format ?? 'auto';
  const readers = [
    ['megatron', readMegatron, MEGATRON_FILE],
    ['trtllm', readTrtllm, TRTLLM_FILE],
    ['sglang', readSglang, /\.pt(\.gz)?$/],
  ] as const;
  for (const [name, read, wanted] of readers) {
    if (names.some((file) => wanted.test(file)) && (format === 'auto' || format === name)) {
      return read(openMatching(directory, wanted), path, choice);
    }
  }
  if (format === 'auto' || format === 'numpy') return readPerRank(directory, choice);
  return refuse(path, `the directory holds no files of ${format}`);
}

function readSource(source: Source, choice: Choice): Recorded {
  return source.kind === 'directory' ? readDirectory(source, choice) : readFile(source, choice);
}

function tablesOf(recorded: Recorded): readonly RecordedTable[] {
  return recorded.kind === 'batch' ? [recorded.table] : recorded.tables;
}

/** Whether there are tokens, and none of them has an expert. */
function isEmpty(tables: readonly RecordedTable[]): boolean {
  if (tables.every(({ ids }) => ids.length === 0)) return false;
  return tables.every(({ ids }) => {
    for (let i = 0; i < ids.length; i++) if (Number(ids[i]) !== -1) return false;
    return true;
  });
}

/** Refuses a layer in which no token has an expert, with the first layer that has some. */
function refuseEmpty(source: Source, choice: Choice): never {
  const layersWithExperts = new Set<number>();
  try {
    readSource(source, { ...choice, notice: undefined, onFound: undefined, layersWithExperts });
  } catch (error) {
    // Another layer may be damaged; this one is empty nevertheless.
    if (!(error instanceof FuscoError)) throw error;
  }
  layersWithExperts.delete(choice.layer ?? -1);
  const [first] = [...layersWithExperts].sort((a, b) => a - b);
  const others = first === undefined ? 'nor in any other' : `the first layer with experts is ${first}`;
  const layer = choice.layer === undefined ? '' : ` in layer ${choice.layer}`;
  throw new FuscoError(
    'E_FOREIGN',
    `nothing was recorded${layer}${layer === '' ? '' : `, ${others}`}: every id is -1`,
    {
      path: source.path,
      hint:
        first === undefined
          ? 'Check that the recorder was on, and what --mask-ids and --mask-repeated-rows mask.'
          : `Dense layers have no experts: choose one that has, such as --layer ${listed([first])}.`,
    },
  );
}

/** The requested ranks of a file that states its ranks. Throws E_RANKS. */
function pickRanks(
  tables: readonly RecordedTable[],
  path: string,
  { ranks, ranksFrom }: Choice,
): RecordedTable[] {
  const { length } = tables;
  const missing = ranksFrom?.find((rank) => rank >= length);
  if (missing !== undefined) {
    const text = `--ranks-from: there is no rank ${missing} of ${length}`;
    throw new FuscoError('E_RANKS', text, { path, hint: `Name ranks of 0..${length - 1}.` });
  }
  const picked = ranksFrom?.map((rank) => tables[rank]!) ?? [...tables];
  if (ranks === undefined || ranks === picked.length) return picked;
  throw new FuscoError('E_RANKS', `contains ${picked.length} ranks, not the ${ranks} requested`, {
    path,
    hint: 'Leave out --ranks, split the tokens again with --as-batch, or select some ranks with --ranks-from FIRST..LAST.',
  });
}

/** The tables of the requested ranks. Throws E_RANKS, E_OPTION. */
function forRanks(recorded: Recorded, path: string, choice: Choice): RecordedTable[] {
  if (recorded.kind === 'ranks') {
    return recorded.isStated ? pickRanks(recorded.tables, path, choice) : [...recorded.tables];
  }
  if (choice.anyRanks === true && choice.ranksFrom === undefined) return [recorded.table];
  if (choice.ranksFrom === undefined || choice.asBatch === true)
    return splitBetween(recorded.table, path, choice.ranks);
  throw new FuscoError('E_OPTION', '--ranks-from: the file does not say which rank had which tokens', {
    path,
    hint: 'Give --ranks, among which the tokens are split, or name an axis of ranks with --axes.',
  });
}

/** Whether a source contains the ids of only one layer and step. Such ids may all be masked. */
function isPlainIds({ kind, ...source }: Source, { layer }: Choice): boolean {
  if (layer !== undefined) return false;
  return kind === 'npy' || kind === 'npz' || ('names' in source && source.names.includes('rank0.npy'));
}

/** The tokens of all ranks, or of the requested ones, as one batch. */
function asBatch(recorded: Recorded, path: string, { ranksFrom }: Choice): Recorded {
  if (recorded.kind === 'batch') return recorded;
  const { tables, isStated } = recorded;
  const picked = isStated ? pickRanks(tables, path, { ranksFrom }) : tables;
  const isBool = picked.some((table) => table.isBool);
  const origins = picked.flatMap((table) => table.origins ?? []);
  return { kind: 'batch', table: { ...joinTables(picked), origins, isBool } };
}

/** The tables of ids, converted from maps of 0 and 1 if they are such maps. */
function decoded(recorded: Recorded, path: string, choice: Choice): Recorded {
  const tables = readMultiHot(tablesOf(recorded), path, choice);
  return recorded.kind === 'batch' ? { kind: 'batch', table: tables[0]! } : { ...recorded, tables };
}

/**
 * The routing tables of all ranks, from a file or directory of NumPy's, PyTorch's, SGLang's, vLLM's, Megatron's or
 * TensorRT-LLM's. A batch that does not say which rank had which tokens is split into `ranks` blocks.
 *
 * @throws FuscoError what readRouting throws, and E_FOREIGN for another program's file that is damaged, not understood,
 *   or holds several layers, steps or arrays of which none was chosen
 */
export async function readAnyRouting(path: string, choice: RoutingChoice = {}): Promise<RecordedTable[]> {
  using source = openSource(path);
  const recorded = readSource(source, choice);
  if (!isPlainIds(source, choice) && isEmpty(tablesOf(recorded))) refuseEmpty(source, choice);
  const chosen = choice.asBatch === true ? asBatch(recorded, path, choice) : recorded;
  return forRanks(decoded(chosen, path, choice), path, choice);
}
