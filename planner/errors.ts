/** Every code that this package throws, with what to do about it. `docs/errors.md` is compared with it by a test. */
export const ERROR_HINTS = {
  E_USAGE: 'See `fusco --help` or `fusco COMMAND --help`.',
  E_OPTION: 'Give a value inside the stated range.',
  E_PLACEMENT: 'A placement has one entry per expert: a rank, or a list of distinct ranks.',
  E_LIMIT: 'Split the work: the limit belongs to the plan format.',
  E_MAX_ROWS: 'Plan fewer tokens, set a capacity, add replicas, or raise maxRows and the buffers with it.',
  E_ROUTING_SHAPE: 'Routing is [tokens, topk] per rank with one topk for all ranks.',
  E_ROUTING_DTYPE: 'Give ids as integers of 8 to 64 bits.',
  E_ROUTING_ID: 'Ids lie in [0, experts); -1 means no expert. Check --experts.',
  E_ROUTING_DUPLICATE: 'A token may choose an expert once. Mask the second choice with -1.',
  E_RANKS: 'The number of ranks must agree with the blocks of the routing or of the input.',
  E_FACTS: 'All ranks must plan with facts gathered in the same call and the same options.',
  E_FILE_NOT_FOUND: 'Check the path.',
  E_FILE_READ: 'Check that it is a readable file of the expected kind.',
  E_FILE_WRITE: 'Check that the directory exists and is writable, and the space left.',
  E_FORMAT: 'Write the array with numpy.save or numpy.savez, in C order and with a plain dtype.',
  E_FOREIGN:
    'docs/foreign-files.md says which files of other programs are read, and how to choose among their contents.',
  E_GOLDEN:
    'docs/golden.md says what the file holds; `fusco check --update` writes its golden part, outside CI.',
  E_SHAPE: 'The array must have the shape and dtype that the plan asks for.',
  E_PLAN_MAGIC: 'This is not a plan file; make one with `fusco plan`.',
  E_PLAN_VERSION: 'Update fusco, read the file with the version that wrote it, or plan again.',
  E_PLAN_TRUNCATED: 'The file is cut short; copy it again or plan again.',
  E_PLAN_CANONICAL: 'The file was edited or written by something else; plan again.',
  E_PLAN_HEADER: 'The header was edited or written by something else; plan again.',
  E_PLAN_DIGEST: 'The bytes changed after the plan was written; copy it again or plan again.',
  E_SHARD_LAYOUT: 'The shard was edited or written by something else; plan again.',
  E_SHARD_HEAD: 'The shard contradicts the header or its own sections; plan again.',
  E_SEGMENT_BOUNDS: 'A descriptor leaves its buffer; the plan must not be executed. Plan again.',
  E_RUN_TABLE: 'Run tables of sender and receiver disagree or leave holes; plan again.',
  E_ENTRY: 'An entry is not delivered exactly once to its slot; plan again.',
  E_STREAM: 'A send order does not list each of its rows once and in order; plan again.',
  E_SLICE: 'The slices do not cover the send orders once and in order; plan again.',
  E_FORWARD: 'Forwarding and distribution descriptors disagree; plan again.',
  E_BUFFER: 'Give a buffer of at least the stated size that overlaps no other.',
  E_DTYPE: 'Combine takes f32, f16 or bf16; dispatch takes any payload.',
  E_CLOSED: 'Create a new group or exchange; a closed one cannot be used.',
  E_BACKEND: 'Run `fusco doctor` to see what this machine can run.',
  E_BOOTSTRAP: 'docs/multi-process.md lists what a launcher or the options must say.',
  E_PEER_TIMEOUT:
    'Look at the named ranks first; then connect again. Between processes, FUSCO_DEADLINE_MS allows longer waits.',
  E_PEER_MISMATCH: 'Start every rank with the same program, version, plan and options.',
  E_UNVERIFIED: 'Call verifyPlan first: no plan from outside is executed unverified.',
  E_MEMORY: 'Use fewer tokens a rank, or a machine with more memory.',
  E_INTERNAL: 'This is a bug; please report it with the command and the files.',
} as const;

export type ErrorCode = keyof typeof ERROR_HINTS;

/** Where an error was found and what was found there. Every field is optional. */
export interface ErrorDetails {
  /** Place inside a plan or a file, for example `/ranks/3/send/17`. */
  path?: string;
  rank?: number;
  token?: number;
  k?: number;
  value?: number | bigint | string;
  limit?: number | bigint | string;
  cause?: unknown;
}

/** Control characters and line ends: a message may quote a file, and must neither break the line nor drive a terminal. */
const CONTROLS = /[\p{Cc}\p{Zl}\p{Zp}]+/gu;

/** The one error class of this package. `code` is stable, `message` is one line, `hint` says what to do. */
export class FuscoError extends Error {
  override readonly name = 'FuscoError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    const where = details.path === undefined ? '' : `${details.path}: `;
    const text = `${where}${message}`.replace(CONTROLS, ' ');
    super(text, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.details = details;
  }

  get hint(): string {
    return ERROR_HINTS[this.code];
  }

  override toString(): string {
    return `${this.code} ${this.message}`;
  }
}

/** Throws E_OPTION unless `value` is an integer in [min, max]. */
export function checkInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  const shown = typeof value === 'string' ? JSON.stringify(value) : String(value);
  throw new FuscoError('E_OPTION', `${name} is ${shown}; it must be an integer from ${min} to ${max}`, {
    limit: `${min}..${max}`,
  });
}

/** Throws E_OPTION unless `value` is one of `choices`. */
export function checkChoice<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  if (choices.includes(value as T)) return value as T;
  throw new FuscoError('E_OPTION', `${name} ${String(value)} is not one of ${choices.join(', ')}`);
}
