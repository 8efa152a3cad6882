// Writes plan files. layout.ts draws the file. Its header is a map with sorted keys:
//   core      what the plan id covers in addition to the shards: the options, as specFields() lists them, and what
//             the facts decided: the balance rule and the rail group of each rank
//   extra     from format 1.1, if present: what other programs added; ignored, and written again as it was read
//   planId    bin 32: SHA-256 of ["FUSCOPLN", major], core and the shards' digests
//   producer  name and version of the program that wrote the file; not part of the plan id
//   reason    why `auto` chose the strategy, or empty; not part of the plan id
//   shards    [bytes, bin 32 SHA-256] per rank

import { FuscoError } from '../errors.ts';
import type { Extra, Plan } from '../plan.ts';
import { hex, joinBytes } from './bytes.ts';
import { type Core, coreOf, DIGEST_BYTES, idOf, MAGIC, pack, shardDigests, sorted } from './digest.ts';
import { checkExtra, sortedExtra } from './extra.ts';
import type { Sha256 } from './hash.ts';
import { FORMAT_MAJOR, MAX_HEADER_BYTES, SECTION_ALIGN } from './layout.ts';

/** Name and version of this program; a test compares it with package.json. */
const PRODUCER = 'fusco 0.1.0';
// msgpack's heads of the values that frame a file.
export const BIN8 = 0xc4;
export const BIN32 = 0xc6;
export const ARRAY16 = 0xdc;

/** A plan's file in pieces, to be written one after the other. */
export interface PlanChunks {
  readonly chunks: readonly Uint8Array[];
  /** Bytes of all chunks. */
  readonly length: number;
  /** 64 hex digits. */
  readonly planId: string;
}

export interface EncodedPlan {
  readonly bytes: Uint8Array;
  /** 64 hex digits. */
  readonly planId: string;
}
export interface Header {
  core: Core;
  extra?: Extra;
  planId: Uint8Array;
  producer: string;
  reason: string;
  shards: ListedShard[];
}

/** A shard as the header lists it: bytes and SHA-256. */
export type ListedShard = [bytes: number, digest: Uint8Array];

/** Head of the file's one array: magic, version, header, a pad and a shard per rank, digest. */
export function arrayHead(ranks: number): Uint8Array {
  const items = 4 + 2 * ranks;
  return items < 16 ? Uint8Array.of(0x90 | items) : Uint8Array.of(ARRAY16, items >> 8, items & 0xff);
}

/**
 * Number of zeros in the pad at `at`. The pad has a head of two bytes and the next shard one of five; the shard must be
 * aligned.
 */
export function padBytes(at: number): number {
  return (SECTION_ALIGN - ((at + 7) % SECTION_ALIGN)) % SECTION_ALIGN;
}

/**
 * The canonical bytes of a plan file as chunks, and the plan id. Shards become chunks without a copy, so the cost of
 * writing a plan is its head and its hashes.
 */
export async function encodePlanChunks(plan: Plan, sha256: Sha256): Promise<PlanChunks> {
  const digests = await shardDigests(plan, sha256);
  const listed = plan.shards.map(({ bytes }, rank): ListedShard => [bytes.length, digests[rank]!]);
  const { head, fronts, tail, length, planId } = await layFile(plan, listed, sha256);
  const chunks = [head, ...plan.shards.flatMap(({ bytes }, rank) => [fronts[rank]!, bytes]), tail];
  chunks.push(Uint8Array.from(await sha256(chunks)));
  return { chunks, length, planId };
}

/** All parts of a file except its shards and the digest at its end, from the sizes and digests of the shards. */
export interface FileFrame {
  readonly head: Uint8Array;
  /** The bytes in front of each shard. */
  readonly fronts: readonly Uint8Array[];
  /** The bytes between the last shard and the digest. */
  readonly tail: Uint8Array;
  /** Bytes of the whole file. */
  readonly length: number;
  /** 64 hex digits. */
  readonly planId: string;
}

export async function layFile(
  plan: Omit<Plan, 'shards'>,
  shards: readonly ListedShard[],
  sha256: Sha256,
): Promise<FileFrame> {
  const core = coreOf(plan);
  if (plan.extra !== undefined) checkExtra(plan.extra);
  const digests = shards.map(([, digest]) => digest);
  const id = await idOf(pack(core), digests, sha256);
  const header: Header = {
    core,
    ...(plan.extra === undefined ? {} : { extra: plan.extra }),
    planId: id,
    producer: PRODUCER,
    reason: plan.decision.reason,
    shards: [...shards],
  };
  const head = packHead(header);
  let at = head.length;
  const fronts = shards.map(([bytes]) => {
    const pad = padBytes(at);
    const front = new Uint8Array(7 + pad);
    front[0] = BIN8;
    front[1] = pad;
    front[2 + pad] = BIN32;
    new DataView(front.buffer).setUint32(3 + pad, bytes);
    at += front.length + bytes;
    return front;
  });
  const tail = Uint8Array.of(BIN8, DIGEST_BYTES);
  return { head, fronts, tail, length: at + tail.length + DIGEST_BYTES, planId: hex(id) };
}

/** The canonical bytes of a plan's file in one piece, and its id. */
export async function encodePlan(plan: Plan, sha256: Sha256): Promise<EncodedPlan> {
  const { chunks, planId } = await encodePlanChunks(plan, sha256);
  return { bytes: joinBytes(chunks), planId };
}

/** Core keys of format 1.1. */
export const MINOR_1_KEYS = ['combineDtype', 'replicas', 'sum'];

/** The lowest minor version whose readers know everything in a header. A file is written in that version. */
export function minorOf({ core, extra }: Pick<Header, 'core' | 'extra'>): number {
  return extra !== undefined || MINOR_1_KEYS.some((key) => key in core) ? 1 : 0;
}

/** Everything in front of the first pad. Throws E_LIMIT for a header of more than MAX_HEADER_BYTES. */
export function packHead(header: Header): Uint8Array {
  const { extra } = header;
  const map = pack(sorted(extra === undefined ? header : { ...header, extra: sortedExtra(extra) }));
  if (map.length > MAX_HEADER_BYTES) {
    const text = `a header of ${map.length} bytes > ${MAX_HEADER_BYTES}`;
    throw new FuscoError('E_LIMIT', text, { path: '/header', limit: MAX_HEADER_BYTES });
  }
  const version = [FORMAT_MAJOR, minorOf(header)];
  return joinBytes([arrayHead(header.shards.length), pack(MAGIC), pack(version), map]);
}
