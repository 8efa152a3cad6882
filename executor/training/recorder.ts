// Records the routing of every training step in files that `fusco plan` reads, and checks that this routing gives the
// same plan again.
//
//   recording/
//     index.jsonl            one line a step: {"formatVersion": 1, "step": 0, "directory": "step-000000",
//                            "planId": …, "options": …, "tables": [{"sha256", "dtype", "tokens", "topk"}, …]}
//     step-000000/rank0.npy  ids [tokens, topk] of rank 0, in the dtype that the loop had them in
//     step-000000/rank1.npy  …
//
// Where every rank is a process, each writes its own files; see rankRecording.ts.
//
// A step is recorded when its line is complete. Before that, its directory is written under another name, synced and
// renamed, so that a crash leaves complete steps and at most one directory that no line names; the next recorder removes it.

import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FuscoError } from '../../planner/errors.ts';
import { hex } from '../../planner/format/bytes.ts';
import { planId } from '../../planner/format/digest.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { Plan, VerifiedPlan } from '../../planner/plan.ts';
import type { Planner } from '../../planner/planner.ts';
import { copyIds, type IdArray, type RoutingTable } from '../../planner/routing.ts';
import { optionsOf, type PlanOptions } from '../../planner/spec.ts';
import { type Check, hasFields, isCount, isListOf, isMatch, isString } from '../fields.ts';
import { ARRAY_TYPES, encodeNpy, type NdDtype } from './npy.ts';
import {
  isRankStep,
  planIdOf,
  type RankStep,
  type RecordedTable,
  rankIndex,
  rankStep,
} from './rankRecording.ts';

const FORMAT_VERSION = 1;
const INDEX = 'index.jsonl';
const UNFINISHED = '.unfinished-';
const STEP_DIRECTORY = /^step-\d{6,}$/;

export type { RecordedTable } from './rankRecording.ts';

/** One line of the index. */
export interface RecordedStep {
  readonly formatVersion: number;
  readonly step: number;
  /** Directory of the step's rank{r}.npy, inside the recording. */
  readonly directory: string;
  readonly planId: string;
  /** Options of the plan, every default filled in. */
  readonly options: PlanOptions;
  readonly tables: readonly RecordedTable[];
}

function sha256(chunks: readonly Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hex(hash.digest());
}

function dtypeOf(ids: IdArray): NdDtype {
  const name = Object.prototype.toString.call(ids).slice(8, -1);
  const found = Object.entries(ARRAY_TYPES).find(
    ([dtype, type]) => /^[iu]/.test(dtype) && type.name === name,
  );
  if (found === undefined) throw new FuscoError('E_ROUTING_DTYPE', `ids are ${name}, not integers`);
  return found[0] as NdDtype;
}

async function writeSynced(path: string, chunks: readonly Uint8Array[]): Promise<void> {
  await using file = await open(path, 'wx');
  for (const chunk of chunks) await file.writeFile(chunk);
  await file.sync();
}

/** Makes a rename inside the directory durable. File systems that cannot sync a directory are skipped. */
async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync().catch(() => undefined);
}

/** Writes the ids of a rank. */
async function writeTable(path: string, { ids, tokens, topk }: RoutingTable): Promise<RecordedTable> {
  const dtype = dtypeOf(ids);
  const chunks = encodeNpy(dtype, [tokens, topk], ids);
  await writeSynced(path, chunks);
  return { sha256: sha256(chunks), dtype, tokens, topk };
}

/** First part of the names of a rank's files that are not finished. */
const unfinishedOf = (rank: number) => `${UNFINISHED}rank${rank}-`;

/** Opens the index of one rank, and removes what a crash of it left behind. */
async function openRankIndex(path: string, rank: number): Promise<{ index: FileHandle; next: number }> {
  await mkdir(path, { recursive: true });
  const names = await readdir(path);
  if (names.includes(INDEX)) {
    throw broken(path, 'it is a recording of one process; record in another directory');
  }
  const index = await open(join(path, rankIndex(rank)), 'a+');
  try {
    const { steps, wholeBytes } = parseRankIndex(await index.readFile(), path, rank);
    await index.truncate(wholeBytes);
    for (const name of names) if (name.startsWith(unfinishedOf(rank))) await rm(join(path, name));
    return { index, next: (steps.at(-1)?.step ?? -1) + 1 };
  } catch (error) {
    await index.close();
    throw error;
  }
}

interface Step {
  readonly tables: readonly RoutingTable[];
  readonly plan: Plan;
}

/** Writes steps in the order in which they were added, in the background. */
export class Recorder implements AsyncDisposable {
  readonly path: string;
  readonly #index: FileHandle;
  #step: number;
  #tail: Promise<void> = Promise.resolve();
  #pending = 0;
  #failure: unknown;
  #closed = false;
  /** The rank that this process records; undefined: all. */
  readonly #rank: number | undefined;

  private constructor(path: string, index: FileHandle, step: number, rank?: number) {
    this.path = path;
    this.#index = index;
    this.#step = step;
    this.#rank = rank;
  }

  /**
   * Starts a recording in `path`, or continues the one that is there: an unfinished step is removed, and numbers continue.
   *
   * @throws FuscoError E_FILE_WRITE if the directory cannot be made or written; E_FILE_READ if its index is broken
   */
  static async open(path: string): Promise<Recorder> {
    try {
      await mkdir(path, { recursive: true });
      if ((await readdir(path)).includes(rankIndex(0))) {
        throw broken(path, 'it is a recording of ranks in several processes; record in another directory');
      }
      const index = await open(join(path, INDEX), 'a+');
      try {
        const { steps, wholeBytes } = parseIndex(await index.readFile(), path);
        await index.truncate(wholeBytes);
        const named = new Set(steps.map((step) => step.directory));
        for (const name of await readdir(path)) {
          const isOurs = name.startsWith(UNFINISHED) || STEP_DIRECTORY.test(name);
          if (isOurs && !named.has(name)) await rm(join(path, name), { recursive: true });
        }
        return new Recorder(path, index, (steps.at(-1)?.step ?? -1) + 1);
      } catch (error) {
        await index.close();
        throw error;
      }
    } catch (error) {
      throw writeError(path, error);
    }
  }

  /**
   * The same for one rank of a group of processes, which all record into one directory. Collective, because steps have the
   * same numbers on all ranks.
   *
   * @param firstStep makes the number of the next step of all ranks from that of this rank
   */
  static async openRank(
    path: string,
    rank: number,
    firstStep: (own: number) => Promise<number>,
  ): Promise<Recorder> {
    let opened: { index: FileHandle; next: number } | undefined;
    let failure: unknown;
    try {
      opened = await openRankIndex(path, rank);
    } catch (error) {
      failure = writeError(path, error);
    }
    // Also after a failure: the other ranks would wait. -1 is that of a rank that cannot record.
    const first = await firstStep(opened?.next ?? -1);
    if (failure !== undefined) throw failure;
    if (first < 0) {
      await opened!.index.close();
      throw new FuscoError('E_FILE_WRITE', 'another rank cannot record here', { path });
    }
    return new Recorder(path, opened!.index, first, rank);
  }

  /** Steps that are not written yet. A loop that is faster than the disk must await flush() from time to time. */
  get pending(): number {
    return this.#pending;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Adds a step. The ids are copied at once, so the caller may use them again.
   *
   * @throws FuscoError E_CLOSED; E_FILE_WRITE if an earlier step could not be written
   */
  add(tables: readonly RoutingTable[], plan: Plan): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closed) throw new FuscoError('E_CLOSED', 'the recorder is closed');
    const copied = tables.map((table, rank) => ({ ...table, ids: copyIds(table.ids, rank) }));
    this.#pending++;
    this.#tail = this.#tail.then(() => this.#write({ tables: copied, plan }));
  }

  async #write({ tables, plan }: Step): Promise<void> {
    try {
      if (this.#failure !== undefined) return;
      const step = this.#step;
      const directory = `step-${String(step).padStart(6, '0')}`;
      if (this.#rank !== undefined) {
        await this.#append(await this.#writeRank(this.#rank, { tables, plan }, step, directory));
        return;
      }
      const unfinished = join(this.path, `${UNFINISHED}${randomBytes(8).toString('hex')}`);
      await mkdir(unfinished);
      const recorded: RecordedTable[] = [];
      for (const [rank, { ids, tokens, topk }] of tables.entries()) {
        recorded.push(await writeTable(join(unfinished, `rank${rank}.npy`), { ids, tokens, topk }));
      }
      await syncDirectory(unfinished);
      await rename(unfinished, join(this.path, directory));
      await syncDirectory(this.path);
      const line: RecordedStep = {
        formatVersion: FORMAT_VERSION,
        step,
        directory,
        planId: await planId(plan, nodeSha256),
        options: optionsOf(plan.spec),
        tables: recorded,
      };
      await this.#append(line);
    } catch (error) {
      this.#failure ??= writeError(this.path, error);
    } finally {
      this.#pending--;
    }
  }

  async #append(line: RecordedStep | RankStep): Promise<void> {
    await this.#index.appendFile(`${JSON.stringify(line)}\n`);
    await this.#index.sync();
    this.#step++;
  }

  /** Writes the file of this process's rank, into the directory of the step that all ranks share. */
  async #writeRank(rank: number, { tables, plan }: Step, step: number, directory: string): Promise<RankStep> {
    const shared = join(this.path, directory);
    await mkdir(shared, { recursive: true });
    const unfinished = join(this.path, `${unfinishedOf(rank)}${randomBytes(8).toString('hex')}`);
    const table = await writeTable(unfinished, tables[0]!);
    await rename(unfinished, join(shared, `rank${rank}.npy`));
    await syncDirectory(shared);
    return rankStep(plan, rank, table, { formatVersion: FORMAT_VERSION, step, directory });
  }

  /** Waits until everything added so far is on disk. Throws the error of any step that could not be written. */
  async flush(): Promise<void> {
    await this.#tail;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * Writes pending steps and ends the recording. Closing twice is harmless. Throws the error of a step that could not be
   * written.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#tail;
    await this.#index.close();
    if (this.#failure !== undefined) throw this.#failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function writeError(path: string, cause: unknown): unknown {
  if (!(cause instanceof Error) || cause instanceof FuscoError) return cause;
  return new FuscoError('E_FILE_WRITE', cause.message, { path, cause });
}

function broken(path: string, text: string, cause?: unknown): FuscoError {
  return new FuscoError('E_FILE_READ', text, cause === undefined ? { path } : { path, cause });
}

async function readWhole(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new FuscoError('E_FILE_NOT_FOUND', 'no such file', { path, cause });
    throw broken(path, (cause as Error).message, cause);
  }
}

/**
 * The steps of the complete lines, and the bytes of these lines. Anything after the last newline is an incomplete line.
 */
function parseIndex(bytes: Uint8Array, path: string): { steps: RecordedStep[]; wholeBytes: number } {
  return parseLines(bytes, join(path, INDEX), isStep);
}

function parseRankIndex(bytes: Uint8Array, path: string, rank: number) {
  return parseLines(bytes, join(path, rankIndex(rank)), isRankStep(rank, isDirectory, isTable));
}

function parseLines<T>(
  bytes: Uint8Array,
  path: string,
  isLine: Check<T>,
): { steps: T[]; wholeBytes: number } {
  const wholeBytes = bytes.lastIndexOf(0x0a) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, wholeBytes)).split('\n').slice(0, -1);
  const steps = lines.map((line, i) => parseLine(line, `${path}:${i + 1}`, isLine));
  return { steps, wholeBytes };
}

/** A directory of this recording, wherever the index comes from. */
const isDirectory = isMatch(STEP_DIRECTORY);
/** readRecordedTables refuses unknown dtypes. */
const isTable: Check<RecordedTable> = hasFields({
  sha256: isString,
  dtype: isString as Check<NdDtype>,
  tokens: isCount,
  topk: isCount,
});

const isStep: Check<RecordedStep> = hasFields({
  formatVersion: isCount,
  step: isCount,
  directory: isDirectory,
  planId: isString,
  options: (value): value is PlanOptions => typeof value === 'object',
  tables: isListOf(isTable),
});

function parseLine<T>(line: string, path: string, isLine: Check<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw broken(path, 'the line is not JSON', cause);
  }
  const { formatVersion } = (value ?? {}) as Partial<RecordedStep>;
  if (formatVersion !== FORMAT_VERSION) {
    throw broken(path, `format version ${String(formatVersion)} is not ${FORMAT_VERSION}`);
  }
  if (!isLine(value)) throw broken(path, 'the line is not that of a step');
  return value;
}

/** The steps of a recording, without a line that a crash left incomplete. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
export async function readRecording(path: string): Promise<RecordedStep[]> {
  const names: string[] = await readdir(path).catch(() => []);
  if (names.includes(rankIndex(0))) return readRanks(path);
  return parseIndex(await readWhole(join(path, INDEX)), path).steps;
}

/** The steps that all ranks of a group of processes have recorded. */
async function readRanks(path: string): Promise<RecordedStep[]> {
  const linesOf = async (rank: number) =>
    parseRankIndex(await readWhole(join(path, rankIndex(rank))), path, rank).steps;
  const first = await linesOf(0);
  const ranks = first[0]?.options.ranks ?? 1;
  const others = Array.from({ length: ranks - 1 }, (_, i) => linesOf(i + 1));
  const byStep = [first, ...(await Promise.all(others))].map(
    (lines) => new Map(lines.map((line) => [line.step, line])),
  );
  const steps: RecordedStep[] = [];
  for (const { formatVersion, step, directory, options } of first) {
    const lines = byStep.flatMap((rank) => rank.get(step) ?? []);
    if (lines.length !== ranks) continue;
    const tables = lines.map(({ table }) => table);
    steps.push({ formatVersion, step, directory, planId: await planIdOf(lines), options, tables });
  }
  return steps;
}

/** The routing of a recorded step, after checking that every file has the digest in the index. Throws E_FILE_READ. */
export async function readRecordedTables(path: string, step: RecordedStep): Promise<RoutingTable[]> {
  return Promise.all(
    step.tables.map(async ({ sha256: digest, dtype, tokens, topk }, rank) => {
      const file = join(path, step.directory, `rank${rank}.npy`);
      const bytes = await readWhole(file);
      const found = sha256([bytes]);
      if (found !== digest) throw broken(file, `SHA-256 ${found}, the index says ${digest}`);
      const type = ARRAY_TYPES[dtype];
      const size = tokens * topk * (type?.BYTES_PER_ELEMENT ?? 0);
      if (!/^[iu]/.test(dtype) || type === undefined || size > bytes.length) {
        throw broken(file, `the index says ${dtype} (${tokens}, ${topk}) of ${bytes.length} bytes`);
      }
      // A copy, so that the ids are aligned.
      const body = bytes.slice(bytes.length - size);
      const Ids = type as new (buffer: ArrayBufferLike, offset: number, length: number) => IdArray;
      return { ids: new Ids(body.buffer, body.byteOffset, tokens * topk), tokens, topk };
    }),
  );
}

/**
 * Plans a recorded step again and checks that the plan is the recorded one.
 *
 * @param planner makes the plan; default: a new one
 * @throws FuscoError E_PLAN_DIGEST if the plan ids differ, naming both; what readRecordedTables and planAll throw
 */
export async function replayStep(
  path: string,
  step: RecordedStep,
  planner?: Planner,
): Promise<{ plan: VerifiedPlan; tables: RoutingTable[] }> {
  const tables = await readRecordedTables(path, step);
  const plan = (planner ?? (await loadPlanner())).planAll(tables, step.options);
  await checkPlanId(plan, step);
  return { plan, tables };
}

/** Throws E_PLAN_DIGEST unless the plan is the one that was recorded. */
async function checkPlanId(plan: Plan, step: RecordedStep): Promise<void> {
  const id = await planId(plan, nodeSha256);
  if (id === step.planId) return;
  throw new FuscoError('E_PLAN_DIGEST', `step ${step.step} plans as ${id}, it was ${step.planId}`, {
    value: id,
    limit: step.planId,
  });
}
