// Late reports: ranks that others wait for, as fields, in a frame, and in the text of an error.

import { ERROR_HINTS, type ErrorCode, FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import {
  type Check,
  hasFields,
  isBoolean,
  isCount,
  isListOf,
  isOneOf,
  isOptional,
  isString,
} from '../fields.ts';

/** A late rank: one that others wait for. */
export interface LateRank {
  readonly rank: number;
  /** The last call that it entered; undefined before the first, or if unknown. */
  readonly lastCall: number | undefined;
  /** Whole milliseconds since it was last heard; undefined if it never was. */
  readonly silentMs: number | undefined;
  /**
   * `behind`: connected, but has not entered the call; `absent`: never connected; `gone`: its connection broke; `closed`:
   * it closed its session; `silent`: it does not answer.
   */
  readonly state: 'behind' | 'absent' | 'gone' | 'closed' | 'silent';
}

/** A late report: the ranks that have not entered a call. */
export interface LateReport {
  readonly call: number;
  /** False if rank 0, which knows about the others, did not answer; `ranks` then has only rank 0. */
  readonly answered: boolean;
  /** In ascending order; empty if all have entered it. */
  readonly ranks: readonly LateRank[];
}

/** The end of a session, as it travels to every rank. */
export interface Failure {
  readonly code: ErrorCode;
  readonly text: string;
  readonly ranks: readonly LateRank[];
}

const areLateRanks = isListOf(
  hasFields({
    rank: isCount,
    lastCall: isOptional(isCount),
    silentMs: isOptional(isCount),
    state: isOneOf(['behind', 'absent', 'gone', 'closed', 'silent'] as const),
  }),
  MAX_RANKS,
);

/** Whether a value out of a frame is a late report. */
export const isReport: Check<LateReport> = hasFields({
  call: isCount,
  answered: isBoolean,
  ranks: areLateRanks,
});

/** Whether a value out of a frame is the end of a session. */
export const isFailure: Check<Failure> = hasFields({
  code: isOneOf(Object.keys(ERROR_HINTS) as ErrorCode[]),
  text: isString,
  ranks: areLateRanks,
});

const MOST_LISTED = 16;

function listSome(texts: readonly (string | number)[]): string {
  const listed = texts.slice(0, MOST_LISTED).join(', ');
  return texts.length > MOST_LISTED ? `${listed} and ${texts.length - MOST_LISTED} more` : listed;
}

/** `rank 3`, `ranks 0, 1, 2`, at most 16 of them. */
export function nameRanks(ranks: readonly number[]): string {
  return `rank${ranks.length === 1 ? '' : 's'} ${listSome(ranks)}`;
}

function describeRank({ rank, lastCall, silentMs, state }: LateRank): string {
  if (state === 'absent') return `rank ${rank} (never connected)`;
  const last = lastCall === undefined ? 'in no call yet' : `last in call ${lastCall}`;
  const heard = silentMs === undefined ? 'never heard' : `last heard ${silentMs} ms ago`;
  if (state === 'gone') return `rank ${rank} is gone (${last}, ${heard})`;
  if (state === 'closed') return `rank ${rank} has closed its session (${last})`;
  if (state === 'silent') return `rank ${rank} does not answer (${last}, ${heard})`;
  return `rank ${rank} (${last}, ${heard})`;
}

/** Each rank with its last call and how long it has been silent, at most 16 of them. */
export function describeRanks(ranks: readonly LateRank[]): string {
  return listSome(ranks.map(describeRank));
}

/** The end of a session because ranks did not arrive in time. */
export function missingFailure(what: string, waitedMs: number, ranks: readonly LateRank[]): Failure {
  const text = `after ${Math.round(waitedMs)} ms ${what} still waits for ${describeRanks(ranks)}`;
  return { code: 'E_PEER_TIMEOUT', text, ranks };
}

/** A connected rank in a report that does not say when it was last heard. */
export function behindRank(rank: number, lastCall: number | undefined): LateRank {
  return { rank, lastCall, silentMs: undefined, state: 'behind' };
}

/** The end of a session because ranks make different calls. */
export function mismatchFailure(
  text: string,
  ranks: readonly number[],
  lastCallOf: (rank: number) => number | undefined,
): Failure {
  return { code: 'E_PEER_MISMATCH', text, ranks: ranks.map((rank) => behindRank(rank, lastCallOf(rank))) };
}

/** The end of a session because a rank has left it. */
export function departedFailure(rank: LateRank, detail?: string): Failure {
  const text = detail === undefined ? describeRank(rank) : `${describeRank(rank)}: ${detail}`;
  return { code: 'E_PEER_TIMEOUT', text, ranks: [rank] };
}

/** Converts a failure to the error with which calls reject. */
export function failureError({ code, text, ranks }: Failure): FuscoError {
  return new FuscoError(code, text, ranks[0] === undefined ? {} : { rank: ranks[0].rank });
}

/**
 * The E_PEER_TIMEOUT of a call that did not end in time: it lists the late ranks and the last call that each of them
 * entered.
 */
export function timeoutError(call: number | bigint, report: LateReport): FuscoError {
  const [first] = report.ranks;
  if (first === undefined) {
    const text = `call ${call} did not end in time, though every rank has entered it`;
    return new FuscoError('E_PEER_TIMEOUT', text, { value: call });
  }
  const text = `call ${call} did not end in time; it was not entered by ${describeRanks(report.ranks)}`;
  return new FuscoError('E_PEER_TIMEOUT', text, { rank: first.rank, value: call });
}
