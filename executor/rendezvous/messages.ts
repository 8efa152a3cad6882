// The messages between ranks and the server after the handshake. Each is the head of a frame; bodies are mentioned.

import { MAX_RANKS } from '../../planner/format/layout.ts';
import { sum } from '../../planner/totals.ts';
import {
  isBoolean,
  isCount,
  isListOf,
  isNumber,
  isOptional,
  isTagged,
  isText,
  type Tagged,
} from '../fields.ts';
import { type Frame, FrameError, MAX_HEAD_BYTES } from './frames.ts';
import { isFailure, isReport } from './report.ts';

/** Most bytes that one rank gives to an all-gather. */
const MAX_PART_BYTES = 1 << 20;
/** Most bytes of all ranks' parts together; a group of more than 256 ranks has less than 1 MiB for each. */
const MAX_GATHER_BYTES = 1 << 28;
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

const WAITS = { connect: {}, gather: { seq: isCount }, call: { call: isCount } };

/** What a rank was waiting for when its deadline passed. */
export type Wait = Tagged<'kind', typeof WAITS>;

/** The fields of the messages from a rank to the server. */
const CLIENT_MESSAGES = {
  /** The body is the rank's part of its all-gather number `seq`; `what` is its purpose. */
  gather: { seq: isCount, what: isText(MAX_WHAT_LENGTH + 20) },
  /** The body is the digest of what the rank is about to do in this call. */
  enter: { call: isCount, awaited: isBoolean },
  late: { id: isCount, call: isCount },
  lateness: { id: isCount },
  timeout: { wait: isTagged('kind', WAITS), waitedMs: isNumber },
  beat: {},
  goodbye: {},
};

/** The fields of the messages from the server to a rank. */
const SERVER_MESSAGES = {
  ready: { localRank: isCount, localWorldSize: isCount },
  /** The body is every rank's part, one after the other. `sizes` is absent if all are empty; splitParts checks it. */
  gathered: { seq: isCount, sizes: (_: unknown): _ is unknown => true },
  entered: { call: isCount },
  report: { id: isCount, report: isReport },
  /** The body is f64[ranks], milliseconds by which each rank entered its calls after the first one. */
  lateness: { id: isCount },
  failure: { failure: isFailure },
  /** `call` is the last one that rank 0 entered, for the error in case rank 0 is lost. */
  beat: { call: isOptional(isCount) },
  goodbye: { call: isOptional(isCount) },
};

/** From a rank to the server. */
export type ClientMessage = Tagged<'type', typeof CLIENT_MESSAGES>;
/** From the server to a rank. */
export type ServerMessage = Tagged<'type', typeof SERVER_MESSAGES>;

const isClientMessage = isTagged('type', CLIENT_MESSAGES);
const isServerMessage = isTagged('type', SERVER_MESSAGES);

const malformed = (type: string) => new FrameError(`a malformed frame ${JSON.stringify(type.slice(0, 20))}`);

/** The frame as a message of a rank. Throws FrameError for anything else. */
export function parseClientMessage({ head, body }: Frame, worldSize: number): ClientMessage {
  const { type } = head;
  const bodyLimit = type === 'gather' ? partLimit(worldSize) : type === 'enter' ? MAX_DIGEST_BYTES : 0;
  if (body.length <= bodyLimit && isClientMessage(head)) return head;
  throw malformed(type);
}

/** The frame as a message of the server. Throws FrameError for anything else. */
export function parseServerMessage({ head, body }: Frame, worldSize: number): ServerMessage {
  const { type } = head;
  const isBodySound = type !== 'lateness' || body.length === 8 * worldSize;
  if (isBodySound && isServerMessage(head)) return head;
  throw malformed(type);
}

const areSizes = isListOf(isCount, MAX_RANKS);

/** Splits the body of a gathered frame into the parts of the ranks. Throws FrameError if sizes and body disagree. */
export function splitParts(sizes: unknown, body: Uint8Array, worldSize: number): Uint8Array[] {
  if (sizes === undefined) return Array.from({ length: worldSize }, () => new Uint8Array(0));
  if (!areSizes(sizes) || sizes.length !== worldSize || sum(sizes) !== body.length) {
    throw new FrameError('parts that do not fill the body');
  }
  let at = 0;
  // Copies: the body is one buffer, and a part must neither keep all of it alive nor give access to other parts.
  return sizes.map((size) => Uint8Array.from(body.subarray(at, (at += size))));
}
