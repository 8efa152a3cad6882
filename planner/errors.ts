/** Every code that this package throws, with what to do about it. `docs/errors.md` is compared with it by a test. */
export const ERROR_HINTS = {
  E_USAGE: 'See `fusco --help` or `fusco COMMAND --help`.',
  E_OPTION: 'Give a value inside the stated range.',
  E_PLACEMENT: 'A placement has one entry per expert: a rank, or a list of distinct ranks.',
  E_LIMIT: 'Use fewer ranks, expert instances or tokens in one plan; docs/errors.md lists the limits.',
  E_MAX_ROWS: 'Plan fewer tokens, set a capacity, add replicas, or raise maxRows and the buffers with it.',
  E_ROUTING_SHAPE: 'Routing is [tokens, topk] per rank with one topk for all ranks.',
  E_ROUTING_DTYPE: 'Give ids as integers of 8 to 64 bits.',
  E_ROUTING_ID: 'Ids lie in [0, experts); -1 means no expert. Check --experts.',
  E_ROUTING_DUPLICATE: 'A token may choose an expert once. Mask the second choice with -1.',
  E_RANKS: 'The number of ranks must match the blocks of the routing or of the input.',
  E_FACTS: 'All ranks must plan with the same options, and with facts that were gathered in the same call.',
  E_FILE_NOT_FOUND: 'Check the path.',
  E_FILE_READ: 'Check that it is a readable file of the expected kind.',
  E_FILE_WRITE: 'Check that the directory exists and is writable, and that there is free space.',
  E_FORMAT: 'Write the array with numpy.save or numpy.savez, in C order and with a plain dtype.',
  E_FOREIGN:
    'docs/foreign-files.md lists the files of other programs that can be read, and how to choose from their contents.',
  E_GOLDEN: 'docs/golden.md describes the file; `fusco check --update` writes its golden part (not in CI).',
  E_SHAPE: 'The array must have the shape and dtype that the plan asks for.',
  E_PLAN_MAGIC: 'This is not a plan file; make one with `fusco plan`.',
  E_PLAN_VERSION: 'Update fusco, read the file with the version that wrote it, or plan again.',
  E_PLAN_TRUNCATED: 'The file is truncated; copy it again or plan again.',
  E_PLAN_CANONICAL: 'The file was edited or written by something else; plan again.',
  E_PLAN_HEADER: 'The header was edited or written by something else; plan again.',
  E_PLAN_DIGEST: 'The bytes changed after the plan was written; copy it again or plan again.',
  E_SHARD_LAYOUT: 'The shard was edited or written by something else; plan again.',
  E_SHARD_HEAD: 'The shard contradicts the header or its own sections; plan again.',
  E_SEGMENT_BOUNDS: 'A descriptor points outside its buffer; the plan must not be executed. Plan again.',
  E_RUN_TABLE: 'Run tables of sender and receiver disagree or leave holes; plan again.',
  E_ENTRY: 'An entry is not delivered exactly once to its slot; plan again.',
  E_STREAM: 'A send order does not list each of its rows once and in order; plan again.',
  E_SLICE: 'The slices do not cover the send orders once and in order; plan again.',
  E_FORWARD: 'Forwarding and distribution descriptors disagree; plan again.',
  E_BUFFER: 'Give a buffer of at least the stated size that overlaps no other.',
  E_DTYPE:
    'Rows that are added or scaled are whole elements of f32, f16 or bf16; other arrays have the stated element type, or are bytes (Uint8Array).',
  E_CLOSED: 'Create a new group or exchange; a closed one cannot be used.',
  E_BACKEND: 'Run `fusco doctor` to see what this machine can run.',
  E_BOOTSTRAP: 'docs/multi-process.md lists the values that a launcher or the options must give.',
  E_PEER_TIMEOUT:
    'Check the named ranks first, then connect again. Between processes, FUSCO_DEADLINE_MS sets the longest wait.',
  E_PEER_MISMATCH: 'Start every rank with the same program, version, plan and options.',
  E_UNVERIFIED: 'Call verifyPlan first: the executor accepts only verified plans.',
  E_MEMORY: 'Use fewer tokens per rank, or a machine with more memory.',
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
  /** What to do in this case, if the hint of the code is too general. */
  hint?: string;
  cause?: unknown;
}

/**
 * Control characters and line ends: a message may quote a file, and must neither contain line breaks nor control the
 * terminal.
 */
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
    return this.details.hint ?? ERROR_HINTS[this.code];
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
  throw new FuscoError('E_OPTION', `${name} ${String(value)} is not one of ${choices.join(', ')}`, {
    hint: `Give one of ${choices.join(', ')}.`,
  });
}

/** Insertions, deletions and replacements that turn one text into the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** The known name that is nearest to a misspelled one, ignoring case. */
function nearestName(name: string, known: readonly string[]): string | undefined {
  const distance = (other: string) => editDistance(name.toLowerCase(), other.toLowerCase());
  return known.toSorted((a, b) => distance(a) - distance(b))[0];
}

/**
 * Throws E_OPTION for a key that `known` does not have, with the nearest known one. A misspelled option would otherwise
 * be ignored silently. A key whose value is undefined counts as absent.
 *
 * @param what names the object in the error
 */
export function checkKeys(what: string, value: object, known: readonly string[]): void {
  if (typeof value !== 'object' || value === null) {
    throw new FuscoError('E_OPTION', `${what}: ${String(value)} is not an object`);
  }
  for (const [key, given] of Object.entries(value)) {
    if (given === undefined || known.includes(key)) continue;
    const shown = key.length > 60 ? `${key.slice(0, 60)}…` : key;
    throw new FuscoError('E_OPTION', `${what} has no option ${JSON.stringify(shown)}`, {
      value: shown,
      hint: `Did you mean ${JSON.stringify(nearestName(shown, known))}? Known: ${known.join(', ')}.`,
    });
  }
}
