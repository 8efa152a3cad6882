import { Packr } from 'msgpackr';
import { BALANCE_RULES } from '../balance.ts';
import { FuscoError } from '../errors.ts';
import { checkWhole, type Decision, type Plan } from '../plan.ts';
import { makeSpec, type PlanSpec, type SpecFields, specFields } from '../spec.ts';
import { equalBytes, hex, joinBytes } from './bytes.ts';
import type { Sha256 } from './hash.ts';
import { FORMAT_MAJOR, FORMAT_MINOR, MAX_HEADER_BYTES, MAX_RANKS, SECTION_ALIGN } from './layout.ts';
import { Shard } from './shard.ts';

// The file is drawn in layout.ts. Its header is a map with sorted keys:
//   core      what the plan id covers beside the shards: the options, as specFields() lists them,
//             and what the facts decided: the balancer's rule and each rank's group
//   planId    bin 32: SHA-256 of ["FUSCOPLN", major], core and the shards' digests
//   producer  name and version of the program that wrote the file; not part of the plan id
//   reason    why `auto` chose the strategy, or empty; not part of the plan id
//   shards    [bytes, bin 32 SHA-256] per rank

const MAGIC = 'FUSCOPLN';
const PRODUCER = 'fusco 0.1.0';
const DIGEST_BYTES = 32;
// msgpack's kinds of values that a plan file holds beside small integers, strings, arrays and maps.
const BIN8 = 0xc4;
const BIN32 = 0xc6;
const UINT8 = 0xcc;
const UINT32 = 0xce;
const STR8 = 0xd9;
const ARRAY16 = 0xdc;
const MAP16 = 0xde;
/** header, core, placement, one expert's replicas, and one to spare. */
const MAX_HEADER_DEPTH = 5;

/** Plain msgpack: no records, the shortest map heads, and nothing that becomes a float. */
const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: 'bigint' });

/** Called with each defect of a file that is shown rather than refused. */
export type Report = (error: FuscoError) => void;

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

export interface DecodedPlan {
  readonly plan: Plan;
  /** 64 hex digits, as computed from the content. */
  readonly planId: string;
  readonly producer: string;
  readonly version: readonly [number, number];
}

/** The core as the header stores it. */
type Core = SpecFields & { rule: string; groups: number[] };

interface Header {
  core: Core;
  planId: Uint8Array;
  producer: string;
  reason: string;
  shards: ListedShard[];
}

/** A shard as the header lists it: bytes and SHA-256. */
export type ListedShard = [bytes: number, digest: Uint8Array];

/** msgpack of `value`, in memory of its own. */
function pack(value: unknown): Uint8Array {
  return Uint8Array.from(packr.pack(value));
}

/** A copy whose keys are in ASCII order, which is the order of a canonical map. */
function sorted<T extends object>(map: T): T {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1))) as T;
}

/** What the plan id covers beside the shards: the settled options and who forwards for whom. */
function coreOf({ spec, decision }: Omit<Plan, 'shards'>): Core {
  return sorted({ ...specFields(spec), rule: decision.rule, groups: [...decision.groups] });
}

/** 32 bytes that are equal for equal options: what ranks compare before they plan together. */
export async function optionsDigest(spec: PlanSpec, sha256: Sha256): Promise<Uint8Array> {
  return sha256([pack(sorted(specFields(spec)))]);
}

async function idOf(core: Uint8Array, digests: readonly Uint8Array[], sha256: Sha256): Promise<Uint8Array> {
  return sha256([pack([MAGIC, FORMAT_MAJOR]), core, ...digests]);
}

async function shardDigests(plan: Plan, sha256: Sha256): Promise<Uint8Array[]> {
  checkWhole(plan);
  const digests: Uint8Array[] = [];
  for (const shard of plan.shards) digests.push(Uint8Array.from(await sha256([shard.bytes])));
  return digests;
}

/** The plan id, 64 hex digits: SHA-256 over the core and the shards' digests. */
export async function planId(plan: Plan, sha256: Sha256): Promise<string> {
  return hex(await idOf(pack(coreOf(plan)), await shardDigests(plan, sha256), sha256));
}

/** Head of the file's one array: magic, version, header, a pad and a shard per rank, digest. */
function arrayHead(ranks: number): Uint8Array {
  const items = 4 + 2 * ranks;
  return items < 16 ? Uint8Array.of(0x90 | items) : Uint8Array.of(ARRAY16, items >> 8, items & 0xff);
}

/** Zeros behind a pad's two bytes at `at` that put the next shard, behind its five, at a multiple of 64. */
function padBytes(at: number): number {
  return (SECTION_ALIGN - ((at + 7) % SECTION_ALIGN)) % SECTION_ALIGN;
}

/**
 * The canonical bytes of a plan's file as chunks, and its id. The shards are chunks as they are: nothing is copied, so
 * writing a plan costs its head and its hashes.
 */
export async function encodePlanChunks(plan: Plan, sha256: Sha256): Promise<PlanChunks> {
  const digests = await shardDigests(plan, sha256);
  const listed = plan.shards.map(({ bytes }, rank): ListedShard => [bytes.length, digests[rank]!]);
  const { head, fronts, tail, length, planId } = await layFile(plan, listed, sha256);
  const chunks = [head, ...plan.shards.flatMap(({ bytes }, rank) => [fronts[rank]!, bytes]), tail];
  chunks.push(Uint8Array.from(await sha256(chunks)));
  return { chunks, length, planId };
}

/** Everything of a file but its shards and the digest at its end, from the shards' sizes and digests. */
export interface FileFrame {
  readonly head: Uint8Array;
  /** What stands in front of each shard. */
  readonly fronts: readonly Uint8Array[];
  /** What stands between the last shard and the digest. */
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
  const digests = shards.map(([, digest]) => digest);
  const id = await idOf(pack(core), digests, sha256);
  const header: Header = {
    core,
    planId: id,
    producer: PRODUCER,
    reason: plan.decision.reason,
    shards: [...shards],
  };
  const head = packHead([FORMAT_MAJOR, FORMAT_MINOR], header);
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

/** Everything in front of the first pad. */
function packHead(version: readonly [number, number], header: Header): Uint8Array {
  return joinBytes([arrayHead(header.shards.length), pack(MAGIC), pack(version), pack(sorted(header))]);
}

/** Reads the parts of a file, or of a window of one, in order; every read checks the file's bound first. */
export class Cursor {
  readonly bytes: Uint8Array;
  /** Place in the file. */
  at: number;
  readonly #start: number;
  readonly #length: number;

  /**
   * @param bytes the window
   * @param start where the window starts in the file
   * @param length bytes of the file
   */
  constructor(bytes: Uint8Array, start = 0, length = bytes.length) {
    this.bytes = bytes;
    this.at = start;
    this.#start = start;
    this.#length = length;
  }

  /** Passes bytes that need not lie in the window. */
  pass(length: number, what: string): void {
    const end = this.at + length;
    if (end > this.#length) {
      const text = `${what} ends at byte ${end}, the file at ${this.#length}`;
      throw new FuscoError('E_PLAN_TRUNCATED', text, { limit: this.#length });
    }
    this.at = end;
  }

  take(length: number, what: string): Uint8Array {
    const from = this.at - this.#start;
    this.pass(length, what);
    return this.bytes.subarray(from, from + length);
  }

  /** A big-endian unsigned integer. */
  uint(length: number, what: string): number {
    return this.take(length, what).reduce((value, byte) => value * 256 + byte, 0);
  }

  /** Passes one value of the kinds that a header holds. Throws E_PLAN_CANONICAL for any other. */
  skip(end: number, depth: number): void {
    if (depth > MAX_HEADER_DEPTH || this.at >= end)
      throw refuseHeader('the header is deeper or longer than allowed');
    const what = 'the header';
    const kind = this.uint(1, what);
    let values = 0;
    let payload = 0;
    if (kind < 0x80) payload = 0;
    else if (kind < 0x90) values = 2 * (kind & 15);
    else if (kind < 0xa0) values = kind & 15;
    else if (kind < 0xc0) payload = kind & 31;
    else if (kind === BIN8 || kind === STR8) payload = this.uint(1, what);
    else if (kind >= UINT8 && kind <= UINT32) payload = 1 << (kind - UINT8);
    else if (kind === ARRAY16) values = this.uint(2, what);
    else if (kind === MAP16) values = 2 * this.uint(2, what);
    else throw refuseHeader(`the header holds a value of kind 0x${kind.toString(16)}`);
    this.take(payload, what);
    for (let i = 0; i < values; i++) this.skip(end, depth + 1);
  }
}

function refuseHeader(text: string): FuscoError {
  return new FuscoError('E_PLAN_CANONICAL', text, { path: '/header' });
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
    throw new FuscoError(
      'E_PLAN_VERSION',
      `format ${major}.${minor}; this reads ${FORMAT_MAJOR}.0 to ${FORMAT_MAJOR}.${FORMAT_MINOR}`,
      {
        value: `${major}.${minor}`,
        limit: `${FORMAT_MAJOR}.${FORMAT_MINOR}`,
      },
    );
  }
  const ranks = (items - 4) / 2;
  if (!Number.isInteger(ranks) || ranks < 1 || ranks > MAX_RANKS || arrayHead(ranks).length !== start) {
    throw new FuscoError(
      'E_PLAN_CANONICAL',
      `an array of ${items} items is not a plan of 1..${MAX_RANKS} ranks`,
    );
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
  if (!equalBytes(packHead(version, header), cursor.bytes.subarray(0, cursor.at))) {
    throw refuseHeader('encoding the header again gives other bytes');
  }
  return header;
}

const HEADER_KEYS = 'core,planId,producer,reason,shards';
const CORE_KEYS =
  'align,balance,capacity,dtype,experts,groups,hidden,partial,placement,ranks,ranksPerNode,rule,sliceRows,strategy,tileTokens,topk';

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

function checkHeaderTypes(header: unknown, ranks: number): asserts header is Header {
  const refuse = (path: string, text: string): never => {
    throw new FuscoError('E_PLAN_HEADER', text, { path });
  };
  if (!isMap(header) || Object.keys(header).sort().join() !== HEADER_KEYS) {
    return refuse('/header', `its keys are not ${HEADER_KEYS}`);
  }
  const { core, planId, producer, reason, shards } = header;
  if (!isMap(core) || Object.keys(core).sort().join() !== CORE_KEYS) {
    return refuse('/header/core', `its keys are not ${CORE_KEYS}`);
  }
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

/** Rules and groups that fit the strategy: none in flat plans, else each node holds every group once. */
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

/** The core as spec and decision; whatever is wrong with it is the header's fault. */
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
  const plan = { spec: { ...spec, strategy: decision.strategy }, decision };
  if (!equalBytes(pack(coreOf(plan)), pack(sorted(header.core)))) {
    throw refuseHeader('the core is not in canonical form');
  }
  return plan;
}

/** Bytes of the longest pad and heads in front of a shard. */
export const MAX_FRONT_BYTES = 7 + SECTION_ALIGN;

/** Passes the pad and the head in front of a shard. Throws E_PLAN_CANONICAL, E_PLAN_TRUNCATED. */
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

/** The first bytes of a file, of which any header that is allowed and everything before it is a part. */
export const FILE_HEAD_BYTES = MAX_HEADER_BYTES + 4096;

/** What a file says before its first shard. */
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

/** Reads the digest at the end of a file. Throws E_PLAN_CANONICAL where it is not the end. */
export function readFileDigest(cursor: Cursor, length: number): Uint8Array {
  const tail = cursor.take(2, 'the digest');
  const digest = cursor.take(DIGEST_BYTES, 'the digest');
  if (tail[0] === BIN8 && tail[1] === DIGEST_BYTES && cursor.at === length) return digest;
  throw new FuscoError('E_PLAN_CANONICAL', `the file goes on after its digest at byte ${cursor.at}`, {
    path: '/digest',
  });
}

/** Reports E_PLAN_DIGEST for every shard that is not what the header lists, and for the plan id; returns it. */
export async function checkDigests(
  head: FileHead,
  digests: readonly Uint8Array[],
  sha256: Sha256,
  found: Report,
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

/** Reports E_PLAN_DIGEST where a file's bytes are not what the digest at its end says. */
export function checkFileDigest(actual: Uint8Array, digest: Uint8Array, found: Report): void {
  if (equalBytes(actual, digest)) return;
  found(new FuscoError('E_PLAN_DIGEST', 'the file is not what its digest says', { path: '/digest' }));
}

/**
 * Reads a plan file. The result is well-formed and has the digests it claims, but is not verified: see verifyPlan.
 * Shards are views of `bytes` where their alignment allows.
 *
 * @param report given, digests that do not match are reported and reading goes on; anything that leaves nothing
 *   to show still throws
 * @throws FuscoError E_PLAN_MAGIC, E_PLAN_VERSION, E_PLAN_TRUNCATED, E_PLAN_CANONICAL, E_PLAN_HEADER,
 *   E_PLAN_DIGEST, E_SHARD_LAYOUT
 */
export async function decodePlan(bytes: Uint8Array, sha256: Sha256, report?: Report): Promise<DecodedPlan> {
  const found = report ?? fail;
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
