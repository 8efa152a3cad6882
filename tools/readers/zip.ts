// Zip archives as numpy.savez and torch.save write them: members stored or deflated, sizes in 32 or 64 bits.
//
// The directory is read here because unzip of fflate checks neither bounds nor checksums: it truncates a member that
// inflates to more than its declared size, and does not detect a flipped bit. fflate inflates the members.

import { inflateSync } from 'fflate';
import { FuscoError } from '../../planner/errors.ts';
import { crc32 } from './crc32.ts';
import { allocate, type Bytes, malformed as refuse } from './file.ts';
import { decodeText } from './npy.ts';

const HINT = 'Write the archive again with numpy.savez or torch.save, or copy it again.';

function malformed(path: string, text: string): never {
  return refuse(path, text, HINT);
}

/** Default of the limit on the declared sizes of all members together, in bytes. */
export const MAX_TOTAL_BYTES = 2 ** 33;

const END_BYTES = 22;
const END_SIGNATURE = 0x06054b50;
const MAX_COMMENT_BYTES = 0xffff;
const LOCATOR_BYTES = 20;
const LOCATOR_SIGNATURE = 0x07064b50;
const END64_SIGNATURE = 0x06064b50;
const ENTRY_BYTES = 46;
const ENTRY_SIGNATURE = 0x02014b50;
const LOCAL_BYTES = 30;
const LOCAL_SIGNATURE = 0x04034b50;
const ZIP64_FIELD = 1;
const MADE_BY_UNIX = 3;
const MODE_KIND = 0xf000;
const MODE_SYMLINK = 0xa000;
const FLAG_ENCRYPTED = 1;
const FLAG_UTF8 = 1 << 11;
const STORED = 0;
const DEFLATED = 8;
/** Deflate expands by less than this: 258 bytes from 2 bits. */
export const MAX_DEFLATE_RATIO = 1032;
const IN_ZIP64 = 0xffffffff;

interface Member {
  /** As `nameOf` gives it. */
  name: string;
  /** As the archive gives it. */
  file: string;
  method: number;
  crc: number;
  compressed: number;
  size: number;
  /** Offset of the local header. */
  local: number;
}

/** Little-endian integers of an archive; reading outside it throws E_FORMAT. */
class ZipView {
  readonly bytes: Bytes;
  readonly path: string;

  constructor(bytes: Bytes, path: string) {
    this.bytes = bytes;
    this.path = path;
  }

  /** The bytes [at, at + length). */
  slice(at: number, length: number): Uint8Array {
    if (at < 0 || at + length > this.bytes.length) {
      malformed(
        this.path,
        `the archive is damaged or truncated: bytes ${at}..${at + length} of ${this.bytes.length}`,
      );
    }
    return this.bytes.subarray(at, at + length);
  }

  u16(at: number): number {
    const [low, high] = this.slice(at, 2) as unknown as [number, number];
    return low + high * 2 ** 8;
  }

  u32(at: number): number {
    return this.u16(at) + this.u16(at + 2) * 2 ** 16;
  }

  u64(at: number): number {
    const value = this.u32(at) + this.u32(at + 4) * 2 ** 32;
    if (!Number.isSafeInteger(value)) malformed(this.path, `the archive declares ${value} bytes`);
    return value;
  }
}

/** Members in the directory and its offset, from the record at the archive's end or its zip64 form. */
function findDirectory(zip: ZipView): { count: number; at: number } {
  const { bytes, path } = zip;
  const lowest = Math.max(0, bytes.length - END_BYTES - MAX_COMMENT_BYTES);
  for (let end = bytes.length - END_BYTES; end >= lowest; end--) {
    if (zip.u32(end) !== END_SIGNATURE || end + END_BYTES + zip.u16(end + 20) !== bytes.length) continue;
    const locator = end - LOCATOR_BYTES;
    if (locator < 0 || zip.u32(locator) !== LOCATOR_SIGNATURE) {
      return { count: zip.u16(end + 10), at: zip.u32(end + 16) };
    }
    const end64 = zip.u64(locator + 8);
    if (zip.u32(end64) !== END64_SIGNATURE) break;
    return { count: zip.u64(end64 + 32), at: zip.u64(end64 + 48) };
  }
  return malformed(path, 'not a zip archive, or truncated: it has no directory');
}

/** Sizes and offset that do not fit 32 bits, from the entry's zip64 field, in the order that the format fixes. */
function readZip64(zip: ZipView, member: Member, at: number, end: number): void {
  const { size, compressed, local } = member;
  if (size !== IN_ZIP64 && compressed !== IN_ZIP64 && local !== IN_ZIP64) return;
  let field = at;
  while (field + 4 <= end && zip.u16(field) !== ZIP64_FIELD) field += 4 + zip.u16(field + 2);
  if (field + 4 > end) malformed(zip.path, `member ${JSON.stringify(member.name)} lacks its zip64 sizes`);
  let value = field + 4;
  const limit = value + zip.u16(field + 2);
  for (const key of ['size', 'compressed', 'local'] as const) {
    if (member[key] !== IN_ZIP64) continue;
    if (value + 8 > limit) malformed(zip.path, `member ${JSON.stringify(member.name)} lacks its zip64 sizes`);
    member[key] = zip.u64(value);
    value += 8;
  }
}

function readEntry(
  zip: ZipView,
  at: number,
  nameOf: (file: string) => string,
): { member: Member; next: number } {
  if (zip.u32(at) !== ENTRY_SIGNATURE) {
    malformed(zip.path, `the archive's directory is damaged at byte ${at}`);
  }
  const flags = zip.u16(at + 8);
  const nameEnd = at + ENTRY_BYTES + zip.u16(at + 28);
  const extraEnd = nameEnd + zip.u16(at + 30);
  const next = extraEnd + zip.u16(at + 32);
  const raw = zip.slice(at + ENTRY_BYTES, nameEnd - at - ENTRY_BYTES);
  zip.slice(nameEnd, next - nameEnd);
  const file = decodeText(raw, (flags & FLAG_UTF8) !== 0);
  const member: Member = {
    name: nameOf(file),
    file,
    method: zip.u16(at + 10),
    crc: zip.u32(at + 16),
    compressed: zip.u32(at + 20),
    size: zip.u32(at + 24),
    local: zip.u32(at + 42),
  };
  if ((flags & FLAG_ENCRYPTED) !== 0)
    malformed(zip.path, `member ${JSON.stringify(member.name)} is encrypted`);
  const mode = zip.u16(at + 4) >> 8 === MADE_BY_UNIX ? zip.u16(at + 40) : 0;
  if ((mode & MODE_KIND) === MODE_SYMLINK)
    malformed(zip.path, `member ${JSON.stringify(member.name)} is a symbolic link`);
  readZip64(zip, member, nameEnd, extraEnd);
  return { member, next };
}

/** Throws E_FORMAT for a method, or for a pair of sizes, that is not valid for a complete member. */
function checkMember(member: Member, path: string): void {
  const { name, method, compressed, size } = member;
  const label = `member ${JSON.stringify(name)}`;
  if (method !== STORED && method !== DEFLATED) {
    malformed(path, `${label} uses compression method ${method}, neither stored (0) nor deflated (8)`);
  }
  const fits = method === STORED ? size === compressed : size <= compressed * MAX_DEFLATE_RATIO;
  if (!fits) malformed(path, `${label} declares ${size} bytes in ${compressed}`);
}

export interface ZipLimits {
  /** Maximum number of members. */
  readonly maxMembers: number;
  /** Limit on the declared sizes of all members together, in bytes. */
  readonly maxTotalBytes: number;
  /** Returns the name to use; throws for names that the archive must not have. */
  readonly nameOf: (file: string) => string;
}

/** All members by name, in the archive's order; what they declare is checked against the limits and the archive before anything is inflated. */
function readDirectory(zip: ZipView, { maxMembers, maxTotalBytes, nameOf }: ZipLimits): Map<string, Member> {
  const { path, bytes } = zip;
  const { count, at } = findDirectory(zip);
  if (count > maxMembers) malformed(path, `${count} members > ${maxMembers}`);
  const members = new Map<string, Member>();
  let total = 0;
  let compressed = 0;
  for (let i = 0, entry = at; i < count; i++) {
    const { member, next } = readEntry(zip, entry, nameOf);
    entry = next;
    checkMember(member, path);
    if (members.has(member.name)) malformed(path, `two members are named ${JSON.stringify(member.name)}`);
    members.set(member.name, member);
    total += member.size;
    compressed += member.compressed;
  }
  if (total > maxTotalBytes) malformed(path, `the members inflate to ${total} bytes > ${maxTotalBytes}`);
  // If members shared their data, one stream could be inflated many times.
  if (compressed > bytes.length) malformed(path, `members overlap: ${compressed} bytes in ${bytes.length}`);
  return members;
}

function inflate(raw: Uint8Array, size: number, path: string): Uint8Array {
  // One byte more than declared, to detect a longer stream: fflate stops at the end of the buffer.
  const out = allocate(size + 1, path);
  let bytes: Uint8Array;
  try {
    bytes = inflateSync(raw, { out });
  } catch (cause) {
    throw new FuscoError('E_FORMAT', 'the compressed data is damaged', { path, cause, hint: HINT });
  }
  if (bytes.length !== size) {
    const have = bytes.length > size ? `more than ${size}` : bytes.length;
    malformed(path, `inflates to ${have} bytes, the directory says ${size}`);
  }
  return bytes;
}

/** The bytes of one member: a view of an archive in memory if it is stored. */
function readMember(zip: ZipView, member: Member): Uint8Array {
  const { local, compressed, size, crc, method } = member;
  const path = `${zip.path}/${member.file}`;
  if (zip.u32(local) !== LOCAL_SIGNATURE) {
    malformed(path, `no member at byte ${local} of the archive`);
  }
  const start = local + LOCAL_BYTES + zip.u16(local + 26) + zip.u16(local + 28);
  const raw = zip.slice(start, compressed);
  const bytes = method === STORED ? raw : inflate(raw, size, path);
  if (crc32(bytes) !== crc) malformed(path, 'the checksum does not match: the archive is damaged');
  return bytes;
}

/** True for bytes that start like a zip archive, including an empty one. */
export function isZip(bytes: Uint8Array): boolean {
  const [p, k, a, b] = bytes;
  return p === 0x50 && k === 0x4b && ((a === 3 && b === 4) || (a === 5 && b === 6));
}

/** One archive whose directory has been checked; members are read one at a time. */
export class ZipArchive {
  readonly #zip: ZipView;
  readonly #members: ReadonlyMap<string, Member>;

  /** @throws FuscoError E_FORMAT for damage, members that overlap, encryption, and more than the limits allow */
  constructor(bytes: Bytes, path: string, limits: ZipLimits) {
    this.#zip = new ZipView(bytes, path);
    this.#members = readDirectory(this.#zip, limits);
  }

  /** Bytes of all members together, inflated. */
  get totalBytes(): number {
    let total = 0;
    for (const { size } of this.#members.values()) total += size;
    return total;
  }

  /** Names in the archive's order. */
  get names(): string[] {
    return [...this.#members.keys()];
  }

  /**
   * The bytes of one member: a view of an archive in memory if it is stored. Undefined if there is none of this name.
   *
   * @throws FuscoError E_MEMORY, or E_FORMAT if the checksum or the size does not match
   */
  read(name: string): Uint8Array | undefined {
    const member = this.#members.get(name);
    return member === undefined ? undefined : readMember(this.#zip, member);
  }
}
