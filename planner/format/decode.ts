// Reads plan files. Only the canonical form is accepted, so encoding a decoded plan gives the same bytes.

import { FuscoError } from '../errors.ts';
import type { Decision, Plan } from '../plan.ts';
import { BALANCE_RULES, makeSpec, type PlanSpec } from '../spec.ts';
import { equalBytes, hex } from './bytes.ts';
import { Cursor, refuseHeader } from './cursor.ts';
import { type Core, coreOf, DIGEST_BYTES, idOf, MAGIC, pack, packr, shardDigests } from './digest.ts';
import {
  ARRAY16,
  arrayHead,
  BIN8,
  BIN32,
  type Header,
  type ListedShard,
  MINOR_1_KEYS,
  minorOf,
  packHead,
  padBytes,
} from './encode.ts';
import { checkExtra, isMap } from './extra.ts';
import type { Sha256 } from './hash.ts';
import { FORMAT_MAJOR, FORMAT_MINOR, MAX_HEADER_BYTES, MAX_RANKS, SECTION_ALIGN } from './layout.ts';
import { Shard } from './shard.ts';

/** Called with each defect of a file if the file is to be shown in spite of its defects. */
export type OnDefect = (error: FuscoError) => void;

export interface DecodedPlan {
  readonly plan: Plan;
  /** 64 hex digits, as computed from the content. */
  readonly planId: string;
  readonly producer: string;
  readonly version: readonly [number, number];
}

/** Magic and version; returns the number of ranks that the array's length implies. */
function readPreamble(cursor: Cursor): { ranks: number; version: [number, number] } {
  const first = cursor.bytes[0] ?? 0;
  const long = first === ARRAY16;
  const items = cursor.bytes.length < 3 ? 0 : long ? cursor.bytes[1]! * 256 + cursor.bytes[2]! : first & 15;
  const magic = pack(MAGIC);
  const start = long ? 3 : 1;
  const isPlan =
    (long || first >> 4 === 9) && equalBytes(cursor.bytes.subarray(start, start + magic.length), magic);
  if (!isPlan) throw new FuscoError('E_PLAN_MAGIC', 'the file does not start like a plan');
  cursor.at = start + magic.length;
  const [kind, major, minor] = cursor.take(3, 'the version');
  if (kind !== 0x92 || major! > 127 || minor! > 127) {
    throw new FuscoError('E_PLAN_CANONICAL', 'the version is not two small integers', { path: '/version' });
  }
  if (major !== FORMAT_MAJOR || minor! > FORMAT_MINOR) {
    const [found, newest] = [`${major}.${minor}`, `${FORMAT_MAJOR}.${FORMAT_MINOR}`];
    const text = `format ${found}; this version reads ${FORMAT_MAJOR}.0 to ${newest}: update fusco`;
    throw new FuscoError('E_PLAN_VERSION', text, { value: found, limit: newest });
  }
  const ranks = (items - 4) / 2;
  if (!Number.isInteger(ranks) || ranks < 1 || ranks > MAX_RANKS || arrayHead(ranks).length !== start) {
    const text = `an array of ${items} items is not a plan of 1..${MAX_RANKS} ranks`;
    throw new FuscoError('E_PLAN_CANONICAL', text);
  }
  return { ranks, version: [major, minor!] };
}

function readHeader(cursor: Cursor, ranks: number, version: [number, number]): Header {
  const start = cursor.at;
  cursor.skip(start + MAX_HEADER_BYTES, 0);
  if (cursor.at - start > MAX_HEADER_BYTES)
    throw refuseHeader(`the header is longer than ${MAX_HEADER_BYTES} bytes`);
  let header: Header;
  try {
    header = packr.unpack(cursor.bytes.slice(start, cursor.at)) as Header;
  } catch (cause) {
    throw new FuscoError('E_PLAN_CANONICAL', 'the header is not msgpack', { path: '/header', cause });
  }
  checkHeaderTypes(header, ranks);
  if (minorOf(header) !== version[1]) {
    const text = `format ${version.join('.')}, but the header is one of ${version[0]}.${minorOf(header)}`;
    throw new FuscoError('E_PLAN_CANONICAL', text, { path: '/version' });
  }
  if (!equalBytes(packHead(header), cursor.bytes.subarray(0, cursor.at))) {
    throw refuseHeader('encoding the header again gives other bytes');
  }
  return header;
}

const HEADER_KEYS = ['core', 'planId', 'producer', 'reason', 'shards'];
const CORE_KEYS = [
  ...[
    'align',
    'balance',
    'capacity',
    'dtype',
    'experts',
    'groups',
    'hidden',
    'partial',
    'placement',
    'ranks',
  ],
  ...['ranksPerNode', 'rule', 'sliceRows', 'strategy', 'tileTokens', 'topk'],
];

/** A map with all keys of `needed` and perhaps some of `known`. Throws E_PLAN_HEADER. */
function readMap(value: unknown, path: string, needed: readonly string[], known: readonly string[]) {
  const refuse = (text: string): never => {
    throw new FuscoError('E_PLAN_HEADER', text, { path });
  };
  if (!isMap(value)) return refuse('not a map');
  const missing = needed.find((key) => !Object.hasOwn(value, key));
  if (missing !== undefined) refuse(`key ${missing} is missing`);
  const unknown = Object.keys(value).find((key) => !needed.includes(key) && !known.includes(key));
  if (unknown !== undefined) {
    refuse(
      `key ${unknown} is not one of format ${FORMAT_MAJOR}.${FORMAT_MINOR}; update fusco if it is newer`,
    );
  }
  return value;
}

function checkHeaderTypes(value: unknown, ranks: number): asserts value is Header {
  const refuse = (path: string, text: string): never => {
    throw new FuscoError('E_PLAN_HEADER', text, { path });
  };
  const header = readMap(value, '/header', HEADER_KEYS, ['extra']);
  const { extra, planId, producer, reason, shards } = header;
  const core = readMap(header.core, '/header/core', CORE_KEYS, MINOR_1_KEYS);
  if ('extra' in header) checkExtra(extra);
  for (const key of ['placement', 'groups']) {
    if (!Array.isArray(core[key])) refuse(`/header/core/${key}`, 'not an array');
  }
  if (!(planId instanceof Uint8Array) || planId.length !== DIGEST_BYTES)
    refuse('/header/planId', 'not a digest');
  if (typeof producer !== 'string' || typeof reason !== 'string') refuse('/header/producer', 'not a string');
  if (!Array.isArray(shards) || shards.length !== ranks)
    return refuse('/header/shards', `not a list of ${ranks}`);
  shards.forEach((entry: unknown, rank) => {
    const ok =
      Array.isArray(entry) &&
      entry.length === 2 &&
      Number.isInteger(entry[0]) &&
      entry[1] instanceof Uint8Array &&
      entry[1].length === DIGEST_BYTES;
    if (!ok) refuse(`/header/shards/${rank}`, 'not [bytes, digest]');
  });
}

/** Rules and groups that match the strategy: none in flat plans; otherwise each node has every group once. */
function readDecision(spec: PlanSpec, core: Core, reason: string): Decision {
  const { strategy, rule, groups } = core;
  const refuse = (path: string, text: string): never => {
    throw new FuscoError('E_PLAN_HEADER', text, { path: `/header/core/${path}` });
  };
  if (strategy === 'flat') {
    if (rule !== 'none' || groups.length > 0) refuse('groups', 'a flat plan has no groups');
    return { strategy, rule: 'none', groups: new Uint16Array(0), reason };
  }
  const known = BALANCE_RULES.find((candidate) => candidate === rule);
  if (strategy !== 'hier') return refuse('strategy', `strategy ${strategy} is not settled`);
  if (known === undefined) return refuse('rule', `rule ${rule} is not one of ${BALANCE_RULES.join(', ')}`);
  if (groups.length !== spec.ranks) refuse('groups', `${groups.length} groups for ${spec.ranks} ranks`);
  for (let first = 0; first < spec.ranks; first += spec.ranksPerNode) {
    const node = new Set(groups.slice(first, first + spec.ranksPerNode));
    const sound = [...node].every(
      (group) => Number.isInteger(group) && group >= 0 && group < spec.ranksPerNode,
    );
    if (!sound || node.size !== spec.ranksPerNode)
      refuse(`groups/${first}`, 'a node does not hold every group once');
  }
  return { strategy, rule: known, groups: Uint16Array.from(groups), reason };
}

/** The core as spec and decision. Every error in it is reported as an error of the header. */
function readCore(header: Header, ranks: number): Omit<Plan, 'shards'> {
  let spec: PlanSpec;
  try {
    spec = makeSpec(header.core);
  } catch (error) {
    if (!(error instanceof FuscoError)) throw error;
    throw new FuscoError('E_PLAN_HEADER', error.message, { path: '/header/core', cause: error });
  }
  if (spec.ranks !== ranks) {
    throw new FuscoError('E_PLAN_HEADER', `${spec.ranks} ranks, but ${ranks} shards`, {
      path: '/header/core/ranks',
    });
  }
  const decision = readDecision(spec, header.core, header.reason);
  const { extra } = header;
  const settled = { ...spec, strategy: decision.strategy };
  const plan = { spec: settled, decision, ...(extra === undefined ? {} : { extra }) };
  if (!equalBytes(pack(coreOf(plan)), pack(header.core))) {
    throw refuseHeader('the core is not in canonical form');
  }
  return plan;
}

/** Bytes of the longest pad and heads in front of a shard. */
export const MAX_FRONT_BYTES = 7 + SECTION_ALIGN;

/** Skips the pad and the head in front of a shard. Throws E_PLAN_CANONICAL, E_PLAN_TRUNCATED. */
export function readFront(cursor: Cursor, rank: number, bytes: number): void {
  const path = `/ranks/${rank}`;
  const pad = padBytes(cursor.at);
  const head = cursor.take(2 + pad, `the pad of rank ${rank}`);
  const isPad = head[0] === BIN8 && head[1] === pad && head.subarray(2).every((byte) => byte === 0);
  const kind = cursor.uint(1, `the shard of rank ${rank}`);
  const length = cursor.uint(4, `the shard of rank ${rank}`);
  if (!isPad || kind !== BIN32 || length !== bytes) {
    throw new FuscoError('E_PLAN_CANONICAL', 'the pad or the head of the shard is not canonical', {
      path,
      rank,
    });
  }
}

/** Number of bytes at the start of a file that always include the header, if its size is allowed. */
export const FILE_HEAD_BYTES = MAX_HEADER_BYTES + 4096;

/** The contents of a file before its first shard. */
export interface FileHead {
  readonly plan: Omit<Plan, 'shards'>;
  readonly shards: readonly ListedShard[];
  readonly planId: Uint8Array;
  readonly producer: string;
  readonly version: readonly [number, number];
}

/** Reads a file from its start to its first pad. Throws as decodePlan does. */
export function readFileHead(cursor: Cursor): FileHead {
  const { ranks, version } = readPreamble(cursor);
  const header = readHeader(cursor, ranks, version);
  const { shards, planId, producer } = header;
  return { plan: readCore(header, ranks), shards, planId, producer, version };
}

/** Reads the digest at the end of a file. Throws E_PLAN_CANONICAL if bytes follow it. */
export function readFileDigest(cursor: Cursor, length: number): Uint8Array {
  const tail = cursor.take(2, 'the digest');
  const digest = cursor.take(DIGEST_BYTES, 'the digest');
  if (tail[0] === BIN8 && tail[1] === DIGEST_BYTES && cursor.at === length) return digest;
  throw new FuscoError('E_PLAN_CANONICAL', `the file goes on after its digest at byte ${cursor.at}`, {
    path: '/digest',
  });
}

/**
 * Reports E_PLAN_DIGEST for every shard that differs from its digest in the header, and for the plan id. Returns the plan
 * id.
 */
export async function checkDigests(
  head: FileHead,
  digests: readonly Uint8Array[],
  sha256: Sha256,
  found: OnDefect,
): Promise<string> {
  digests.forEach((actual, rank) => {
    if (equalBytes(actual, head.shards[rank]![1])) return;
    const path = `/ranks/${rank}`;
    found(new FuscoError('E_PLAN_DIGEST', 'the shard is not what its digest says', { path, rank }));
  });
  const id = await idOf(pack(coreOf(head.plan)), digests, sha256);
  if (!equalBytes(id, head.planId)) {
    const path = '/header/planId';
    found(new FuscoError('E_PLAN_DIGEST', 'the plan id is not that of the content', { path }));
  }
  return hex(id);
}

/** Reports E_PLAN_DIGEST if the bytes of a file do not match the digest at its end. */
export function checkFileDigest(actual: Uint8Array, digest: Uint8Array, found: OnDefect): void {
  if (equalBytes(actual, digest)) return;
  found(new FuscoError('E_PLAN_DIGEST', 'the file is not what its digest says', { path: '/digest' }));
}

/**
 * Reads a plan file. The result is well-formed and has the digests it claims, but is not verified: see verifyPlan.
 * Shards are views of `bytes` where their alignment allows.
 *
 * @param onDefect if given, digests that do not match are reported and reading continues; defects that leave nothing to
 *   show are still thrown
 * @throws FuscoError E_PLAN_MAGIC, E_PLAN_VERSION, E_PLAN_TRUNCATED, E_PLAN_CANONICAL, E_PLAN_HEADER,
 *   E_PLAN_DIGEST, E_SHARD_LAYOUT
 */
export async function decodePlan(
  bytes: Uint8Array,
  sha256: Sha256,
  onDefect?: OnDefect,
): Promise<DecodedPlan> {
  const found = onDefect ?? fail;
  const cursor = new Cursor(bytes);
  const head = readFileHead(cursor);
  const parts = head.shards.map(([length], rank) => {
    readFront(cursor, rank, length);
    return cursor.take(length, `the shard of rank ${rank}`);
  });
  const digest = readFileDigest(cursor, bytes.length);
  checkFileDigest(await sha256([bytes.subarray(0, -DIGEST_BYTES)]), digest, found);
  const plan: Plan = { ...head.plan, shards: parts.map((part, rank) => Shard.open(part, rank)) };
  const planId = await checkDigests(head, await shardDigests(plan, sha256), sha256, found);
  return { plan, planId, producer: head.producer, version: head.version };
}

function fail(error: FuscoError): never {
  throw error;
}
