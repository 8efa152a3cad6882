// Audits what a library received and combined, rank by rank: the inputs of all ranks and one rank's rows are in memory.

import {
  type NativeAudit,
  type NativeAuditReport,
  type NativeDifference,
  openAudit,
} from '../../executor/native/audit.ts';
import { attempt } from '../../executor/native/errors.ts';
import { f16ToFloat } from '../../executor/numeric.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Dtype } from '../../planner/spec.ts';
import { itemBytes, type NdArray, type NdDtype, shapeText } from '../readers/npy.ts';
import { openRankArrays, type RankArraysContext } from '../readers/rankArrays.ts';
import type { NamedLayout } from './layoutFile.ts';

/** The files of an audit; `received` or `combined` is there. */
export interface AuditFiles {
  /** Rows that were dispatched. */
  readonly input: string;
  readonly received?: string | undefined;
  readonly combined?: string | undefined;
  /** Gate weights of the combine. Default: it is not weighted. */
  readonly weights?: string | undefined;
  /** What the experts returned. Default: their input. */
  readonly outputs?: string | undefined;
  /** Rows that were dispatched in the step before. */
  readonly previous?: string | undefined;
}

export interface AuditOptions {
  /** An order of addition that must give the bits of every combined row. */
  readonly order?: string | undefined;
  /** Differences of a rank that are listed. */
  readonly room: number;
  readonly progress?: (done: number, total: number) => void;
}

export type Stage = 'dispatch' | 'combine';

/** A rank's report. */
export interface RankReport extends NativeAuditReport {
  readonly stage: Stage;
  readonly rank: number;
}

/** A difference and where it is. */
export interface Difference extends NativeDifference {
  readonly stage: Stage;
  readonly rank: number;
}

export interface AuditResult {
  /** Dispatch of all ranks, then combine of all ranks. */
  readonly ranks: readonly RankReport[];
  /** Those that are listed, in the same order. */
  readonly differences: readonly Difference[];
}

/** What NumPy's dtypes hold: bf16 is stored as u16 and fp8 as u8; other elements are bytes. */
const DTYPES: ReadonlyMap<NdDtype, Dtype> = new Map([
  ['f32', 'f32'],
  ['f16', 'f16'],
  ['u16', 'bf16'],
  ['u8', 'fp8'],
]);

/** The rows that were dispatched, all ranks in memory. */
interface Input {
  readonly arrays: readonly NdArray[];
  readonly stored: NdDtype;
  readonly columns: number;
}

const ROWS_HINT = 'Rows are compared byte for byte: give all of them in the dtype in which they travel.';
const WEIGHTS_HINT = 'Give the gate weights of each token, in the order of its experts in the routing.';

function refuseShape(
  what: string,
  rank: number,
  array: NdArray,
  wanted: string,
  hint: string = ROWS_HINT,
): never {
  const found = `${array.dtype} ${shapeText(array.shape)}`;
  throw new FuscoError('E_SHAPE', `${what} of rank ${rank} is ${found}, not ${wanted}`, {
    rank,
    hint,
  });
}

function readAll(path: string, context: RankArraysContext): NdArray[] {
  using arrays = openRankArrays(path, context);
  return Array.from({ length: context.ranks }, (_, rank) => arrays.read(rank));
}

/** Checks that an array has rows like those of the input. */
function checkRows(what: string, rank: number, array: NdArray, input: Pick<Input, 'stored' | 'columns'>) {
  const { stored, columns } = input;
  // A rank without rows may have written no columns either.
  if (array.data.length === 0 && array.dtype === stored) return array;
  if (array.dtype !== stored || array.shape[1] !== columns)
    refuseShape(what, rank, array, `${stored} [rows, ${columns}]`);
  return array;
}

function readInput(path: string, tokens: readonly number[]): Input {
  const arrays = readAll(path, { what: 'input', ranks: tokens.length, part: 'input', rows: tokens });
  const first = arrays.find(({ data }) => data.length > 0) ?? arrays[0]!;
  const input = { stored: first.dtype, columns: Math.max(1, first.shape[1]!) };
  arrays.forEach((array, rank) => {
    checkRows('input', rank, array, input);
    if (array.shape[0] !== tokens[rank])
      refuseShape('input', rank, array, `${input.stored} [${tokens[rank]}, ${input.columns}]`);
  });
  return { ...input, arrays };
}

/** A rank's weights in float32. */
function weightsOf(array: NdArray, rank: number, tokens: number, topk: number): Float32Array {
  if (array.shape[0] === tokens && array.shape[1] === topk) {
    if (array.dtype === 'f32') return array.data as Float32Array;
    if (array.dtype === 'f16') return Float32Array.from(array.data as Uint16Array, f16ToFloat);
  }
  return refuseShape('weights', rank, array, `f32 or f16 [${tokens}, ${topk}]`, WEIGHTS_HINT);
}

/** Runs an exchange of an audit. A block that does not fit is a limit of the layout and not of the plan. */
function attemptIn<T>(call: () => T): T {
  try {
    return attempt(call);
  } catch (error) {
    if (!(error instanceof FuscoError) || error.code !== 'E_LIMIT') throw error;
    const hint = `Give the layout at least ${error.details.value} slots, or with "equal" the whole receive buffer.`;
    throw new FuscoError('E_LIMIT', error.message, { ...error.details, hint });
  }
}

/** Work on one audit that is open. */
class RunningAudit {
  readonly #audit: NativeAudit;
  readonly #input: Input;
  readonly #tokens: readonly number[];
  readonly #topk: number;
  readonly #options: AuditOptions;
  readonly #reports: RankReport[] = [];
  #done = 0;

  constructor(audit: NativeAudit, plan: VerifiedPlan, files: AuditFiles, options: AuditOptions) {
    this.#audit = audit;
    this.#tokens = plan.shards.map((shard) => shard.tokens);
    this.#topk = plan.spec.topk;
    this.#options = options;
    this.#input = readInput(files.input, this.#tokens);
    const { stored, columns, arrays } = this.#input;
    const previous = files.previous === undefined ? undefined : this.#rowsOf(files.previous, 'previous');
    attempt(() =>
      audit.setInput({
        dtype: DTYPES.get(stored) ?? 'bytes',
        rowBytes: columns * itemBytes(stored),
        rows: arrays.map(({ data }) => data),
        ...(previous === undefined ? {} : { previous }),
      }),
    );
  }

  get reports(): readonly RankReport[] {
    return this.#reports;
  }

  get #ranks(): number {
    return this.#tokens.length;
  }

  /** The rows of all ranks, of any number. */
  #rowsOf(path: string, what: string, part?: string) {
    const context = { what, ranks: this.#ranks, ...(part === undefined ? {} : { part }) };
    return readAll(path, context).map((array, rank) => checkRows(what, rank, array, this.#input).data);
  }

  #add(stage: Stage, rank: number, report: NativeAuditReport, total: number): void {
    this.#reports.push({ ...report, stage, rank });
    this.#options.progress?.(++this.#done, total);
  }

  dispatch(path: string, total: number): void {
    using arrays = openRankArrays(path, { what: 'received', ranks: this.#ranks, part: 'recv' });
    for (let rank = 0; rank < this.#ranks; rank++) {
      const received = checkRows('received', rank, arrays.read(rank), this.#input).data;
      const { room } = this.#options;
      this.#add(
        'dispatch',
        rank,
        attemptIn(() => this.#audit.dispatch({ rank, received, room })),
        total,
      );
    }
  }

  combine(path: string, files: AuditFiles, total: number): void {
    const context = { ranks: this.#ranks, rows: this.#tokens };
    using arrays = openRankArrays(path, { ...context, what: 'combined', part: 'combined' });
    const weights =
      files.weights === undefined
        ? undefined
        : readAll(files.weights, { ...context, what: 'weights', part: 'weights' });
    const outputs =
      files.outputs === undefined ? undefined : this.#rowsOf(files.outputs, 'outputs', 'outputs');
    for (let rank = 0; rank < this.#ranks; rank++) {
      const tokens = this.#tokens[rank]!;
      const array = checkRows('combined', rank, arrays.read(rank), this.#input);
      if (array.shape[0] !== tokens)
        refuseShape('combined', rank, array, `${this.#input.stored} [${tokens}, ${this.#input.columns}]`);
      const call = {
        rank,
        combined: array.data,
        weights: weights && weightsOf(weights[rank]!, rank, tokens, this.#topk),
        outputs,
        order: this.#options.order,
        room: this.#options.room,
      };
      this.#add(
        'combine',
        rank,
        attemptIn(() => this.#audit.combine(call)),
        total,
      );
    }
  }
}

/**
 * Compares the files with what the plan's exchanges leave in a layout.
 *
 * @throws FuscoError E_SHAPE, E_RANKS, E_LIMIT, E_BUFFER, E_OPTION, E_DTYPE, E_BACKEND, and what readers of files throw
 */
export async function auditFiles(
  plan: VerifiedPlan,
  { layout }: NamedLayout,
  files: AuditFiles,
  options: AuditOptions,
): Promise<AuditResult> {
  const audit = await openAudit(plan, layout);
  try {
    const running = new RunningAudit(audit, plan, files, options);
    const { received, combined } = files;
    const total = plan.spec.ranks * [received, combined].filter((path) => path !== undefined).length;
    if (received !== undefined) running.dispatch(received, total);
    if (combined !== undefined) running.combine(combined, files, total);
    const differences = running.reports.flatMap(({ stage, rank, differences }) =>
      differences.map((difference) => ({ ...difference, stage, rank })),
    );
    return { ranks: running.reports, differences };
  } finally {
    audit.close();
  }
}
