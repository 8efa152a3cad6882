// The messages between ranks and the server after the handshake. Each is the head of a frame; bodies are mentioned.

import { MAX_RANKS } from '../../planner/format/layout.ts';
import { type Frame, FrameError, MAX_HEAD_BYTES } from './frames.ts';
import { type Failure, isFailure, isReport, type LateReport } from './report.ts';

/** Most bytes that one rank gives to an all-gather. */
export const MAX_PART_BYTES = 1 << 20;
/** Most bytes of all ranks' parts together; a group of more than 256 ranks has less than 1 MiB for each. */
export const MAX_GATHER_BYTES = 1 << 28;
/** Most bytes of a call's digest. */
export const MAX_DIGEST_BYTES = 64;
/** Longest name of what ranks agree on. */
export const MAX_WHAT_LENGTH = 200;

/** Most bytes that one rank of a group of this size gives to an all-gather. */
export function partLimit(worldSize: number): number {
  return Math.min(MAX_PART_BYTES, Math.floor(MAX_GATHER_BYTES / worldSize));
}

/** Largest frame that the server takes from a rank: a part, and a head that is short. */
export const MAX_CLIENT_FRAME = MAX_PART_BYTES + 4096;
/** Largest frame that a rank takes from the server. */
export const MAX_SERVER_FRAME = MAX_GATHER_BYTES + MAX_HEAD_BYTES;

/** What a rank was waiting for when its deadline passed. */
export type Wait =
  | { readonly kind: 'connect' }
  | { readonly kind: 'gather'; readonly seq: number }
  | { readonly kind: 'call'; readonly call: number };

/** From a rank to the server. */
export type ClientMessage =
  /** The body is the rank's part of its all-gather number `seq`; `what` is its purpose. */
  | { readonly type: 'gather'; readonly seq: number; readonly what: string }
  /** The body is the digest of what the rank is about to do in this call. */
  | { readonly type: 'enter'; readonly call: number; readonly awaited: boolean }
  | { readonly type: 'late'; readonly id: number; readonly call: number }
  | { readonly type: 'lateness'; readonly id: number }
  | { readonly type: 'timeout'; readonly wait: Wait; readonly waitedMs: number }
  | { readonly type: 'beat' }
  | { readonly type: 'goodbye' };

/** From the server to a rank. */
export type ServerMessage =
  | { readonly type: 'ready'; readonly localRank: number; readonly localWorldSize: number }
  /** The body is every rank's part, one after the other; without sizes if all are empty. */
  | { readonly type: 'gathered'; readonly seq: number; readonly sizes?: readonly number[] }
  | { readonly type: 'entered'; readonly call: number }
  | { readonly type: 'report'; readonly id: number; readonly report: LateReport }
  /** The body is f64[ranks], milliseconds by which each rank entered its calls after the first one. */
  | { readonly type: 'lateness'; readonly id: number }
  | { readonly type: 'failure'; readonly failure: Failure }
  /** `call` is the last one that rank 0 entered, for the error in case rank 0 is lost. */
  | { readonly type: 'beat' | 'goodbye'; readonly call: number | undefined };

const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;

function isWait(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, seq, call } = value as { kind?: unknown; seq?: unknown; call?: unknown };
  return kind === 'connect' || (kind === 'gather' && isCount(seq)) || (kind === 'call' && isCount(call));
}

/** The frame as a message of a rank. Throws FrameError for anything else. */
export function parseClientMessage({ head, body }: Frame, worldSize: number): ClientMessage {
  const { type, seq, what, call, awaited, id, wait, waitedMs } = head;
  const bodyLimit = type === 'gather' ? partLimit(worldSize) : type === 'enter' ? MAX_DIGEST_BYTES : 0;
  const sound =
    body.length <= bodyLimit &&
    (type === 'beat' ||
      type === 'goodbye' ||
      (type === 'gather' &&
        isCount(seq) &&
        typeof what === 'string' &&
        what.length <= MAX_WHAT_LENGTH + 20) ||
      (type === 'enter' && isCount(call) && typeof awaited === 'boolean') ||
      (type === 'late' && isCount(id) && isCount(call)) ||
      (type === 'lateness' && isCount(id)) ||
      (type === 'timeout' && isWait(wait) && typeof waitedMs === 'number'));
  if (!sound) throw new FrameError(`a malformed frame ${JSON.stringify(type.slice(0, 20))}`);
  return head as unknown as ClientMessage;
}

/** The frame as a message of the server. Throws FrameError for anything else; sizes are splitParts' to check. */
export function parseServerMessage({ head, body }: Frame, worldSize: number): ServerMessage {
  const { type, localRank, localWorldSize, seq, call, id, report, failure } = head;
  const sound =
    (type === 'ready' && isCount(localRank) && isCount(localWorldSize)) ||
    (type === 'gathered' && isCount(seq)) ||
    (type === 'entered' && isCount(call)) ||
    (type === 'report' && isCount(id) && isReport(report)) ||
    (type === 'lateness' && isCount(id) && body.length === 8 * worldSize) ||
    (type === 'failure' && isFailure(failure)) ||
    ((type === 'beat' || type === 'goodbye') && (call === undefined || isCount(call)));
  if (!sound) throw new FrameError(`a malformed frame ${JSON.stringify(type.slice(0, 20))}`);
  return head as unknown as ServerMessage;
}

function areSizes(value: unknown, worldSize: number): value is number[] {
  return Array.isArray(value) && value.length === worldSize && worldSize <= MAX_RANKS && value.every(isCount);
}

/** Cuts the body of a gathered frame into the ranks' parts. Throws FrameError if sizes and body disagree. */
export function splitParts(sizes: unknown, body: Uint8Array, worldSize: number): Uint8Array[] {
  if (sizes === undefined) return Array.from({ length: worldSize }, () => new Uint8Array(0));
  if (!areSizes(sizes, worldSize) || sizes.reduce((total, size) => total + size, 0) !== body.length) {
    throw new FrameError('parts that do not fill the body');
  }
  let at = 0;
  // Copies: the body is one buffer, and a part must neither keep all of it alive nor give access to other parts.
  return sizes.map((size) => Uint8Array.from(body.subarray(at, (at += size))));
}
