import { FuscoError } from '../errors.ts';
import * as L from './layout.ts';

/** Element of a section. */
export type SectionElement<S extends number> = S extends typeof L.S_ENTRY_INSTANCE
  ? 'u16'
  : S extends typeof L.S_TILE_ORDER
    ? 'u8'
    : S extends typeof L.S_ENTRY_SLOT | typeof L.S_FORWARD_TARGET
      ? 'i32'
      : 'u32';

/** Bytes of one element of each section. */
function elementBytes(section: number): number {
  if (section === L.S_ENTRY_INSTANCE) return 2;
  return section === L.S_TILE_ORDER ? 1 : 4;
}

export function alignSection(bytes: number): number {
  return Math.ceil(bytes / L.SECTION_ALIGN) * L.SECTION_ALIGN;
}

/** Byte offsets of a shard's sections (0 where empty) and its size, from the number of elements of each. */
export function placeSections(counts: ArrayLike<number>): { offsets: number[]; bytes: number } {
  const offsets: number[] = [];
  let end = L.SHARD_BODY;
  for (let section = 0; section < L.SECTIONS; section++) {
    const count = counts[section] ?? 0;
    offsets.push(count === 0 ? 0 : end);
    end = alignSection(end + count * elementBytes(section));
  }
  if (end > L.MAX_SHARD_BYTES) {
    throw new FuscoError('E_LIMIT', `a shard of ${end} bytes > ${L.MAX_SHARD_BYTES}`, {
      limit: L.MAX_SHARD_BYTES,
    });
  }
  return { offsets, bytes: end };
}

/** Writes the words and the section table at the head of `bytes`. */
export function writeShardHead(bytes: Uint8Array, words: ArrayLike<number>, counts: ArrayLike<number>): void {
  const { offsets } = placeSections(counts);
  const head = new Uint32Array(bytes.buffer, bytes.byteOffset, L.SHARD_BODY / 4);
  for (let i = 0; i < L.SHARD_WORDS; i++) head[i] = words[i] ?? 0;
  for (let section = 0; section < L.SECTIONS; section++) {
    head[L.SECTION_TABLE / 4 + 2 * section] = offsets[section]!;
    head[L.SECTION_TABLE / 4 + 2 * section + 1] = counts[section] ?? 0;
  }
}

/**
 * One rank's part of a plan: typed views over its bytes. Opening one checks that its sections lie inside it, in
 * order and with zeroed gaps; the verifier checks their contents. The layout is in layout.ts.
 */
export class Shard {
  /** The shard's bytes; their first byte is 64-byte aligned in the file and at least 4-byte aligned here. */
  readonly bytes: Uint8Array;
  readonly #head: Uint32Array;
  readonly rank: number;
  readonly ranks: number;
  readonly tokens: number;
  readonly topk: number;
  readonly instances: number;
  readonly firstInstance: number;
  readonly localInstances: number;
  /** Rows of this rank's receive buffer, padding included. */
  readonly recvRows: number;
  /** Entries of this rank that reach a slot. */
  readonly kept: number;
  readonly masked: number;
  readonly dropped: number;
  /** A word that no version uses yet. */
  readonly reserved: number;
  /** Rows of this rank's landing buffer. */
  readonly stageRows: number;
  /** Rows of this rank that arrive in a landing row. */
  readonly staged: number;
  readonly tileTokens: number;
  readonly expertOffset: Uint32Array;
  readonly expertRows: Uint32Array;
  readonly runRow: Uint32Array;
  readonly runRows: Uint32Array;
  readonly sendRow: Uint32Array;
  readonly sendRows: Uint32Array;
  /** {peer, first row of the send order, rows} triples in the order of issue. */
  readonly slices: Uint32Array;
  /** i32[tokens, topk]: row at the destination, SLOT_MASKED or SLOT_DROPPED. */
  readonly entrySlot: Int32Array;
  /** u16[tokens, topk]: destination instance; `instances` where masked. */
  readonly entryInstance: Uint16Array;
  /** The send order of direct rows: entries by (instance, token, k). */
  readonly sendEntry: Uint32Array;
  readonly forwardRow: Uint32Array;
  readonly forwardRows: Uint32Array;
  readonly forwardToken: Uint32Array;
  readonly forwardTarget: Int32Array;
  readonly distributeOffset: Uint32Array;
  readonly distributeEntry: Uint32Array;
  readonly forwardSlices: Uint32Array;
  readonly stageRow: Uint32Array;
  readonly stageRowsFrom: Uint32Array;
  /** u8[tokens, topk]: order of stores inside each tile of `tileTokens` tokens; empty without one. */
  readonly tileOrder: Uint8Array;

  private constructor(bytes: Uint8Array, head: Uint32Array) {
    this.bytes = bytes;
    this.#head = head;
    this.rank = head[L.W_RANK]!;
    this.ranks = head[L.W_RANKS]!;
    this.tokens = head[L.W_TOKENS]!;
    this.topk = head[L.W_TOPK]!;
    this.instances = head[L.W_INSTANCES]!;
    this.firstInstance = head[L.W_FIRST_INSTANCE]!;
    this.localInstances = head[L.W_LOCAL_INSTANCES]!;
    this.recvRows = head[L.W_RECV_ROWS]!;
    this.kept = head[L.W_KEPT]!;
    this.masked = head[L.W_MASKED]!;
    this.dropped = head[L.W_DROPPED]!;
    this.reserved = head[L.W_RESERVED]!;
    this.stageRows = head[L.W_STAGE_ROWS]!;
    this.staged = head[L.W_STAGED]!;
    this.tileTokens = head[L.W_TILE_TOKENS]!;
    this.expertOffset = this.#view(Uint32Array, L.S_EXPERT_OFFSET);
    this.expertRows = this.#view(Uint32Array, L.S_EXPERT_ROWS);
    this.runRow = this.#view(Uint32Array, L.S_RUN_ROW);
    this.runRows = this.#view(Uint32Array, L.S_RUN_ROWS);
    this.sendRow = this.#view(Uint32Array, L.S_SEND_ROW);
    this.sendRows = this.#view(Uint32Array, L.S_SEND_ROWS);
    this.slices = this.#view(Uint32Array, L.S_SLICE);
    this.entrySlot = this.#view(Int32Array, L.S_ENTRY_SLOT);
    this.entryInstance = this.#view(Uint16Array, L.S_ENTRY_INSTANCE);
    this.sendEntry = this.#view(Uint32Array, L.S_SEND_ENTRY);
    this.forwardRow = this.#view(Uint32Array, L.S_FORWARD_ROW);
    this.forwardRows = this.#view(Uint32Array, L.S_FORWARD_ROWS);
    this.forwardToken = this.#view(Uint32Array, L.S_FORWARD_TOKEN);
    this.forwardTarget = this.#view(Int32Array, L.S_FORWARD_TARGET);
    this.distributeOffset = this.#view(Uint32Array, L.S_DISTRIBUTE_OFFSET);
    this.distributeEntry = this.#view(Uint32Array, L.S_DISTRIBUTE_ENTRY);
    this.forwardSlices = this.#view(Uint32Array, L.S_FORWARD_SLICE);
    this.stageRow = this.#view(Uint32Array, L.S_STAGE_ROW);
    this.stageRowsFrom = this.#view(Uint32Array, L.S_STAGE_ROWS);
    this.tileOrder = this.#view(Uint8Array, L.S_TILE_ORDER);
  }

  /** Opens a shard over `bytes`, without a copy if they are 4-byte aligned. Throws E_SHARD_LAYOUT. */
  static open(bytes: Uint8Array, rank: number): Shard {
    const path = `/ranks/${rank}`;
    const refuse = (text: string): never => {
      throw new FuscoError('E_SHARD_LAYOUT', text, { path, rank });
    };
    if (bytes.length < L.SHARD_BODY) refuse(`${bytes.length} bytes < ${L.SHARD_BODY}`);
    // Not slice(): the slice of a Buffer is a view with the same unaligned address.
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
    const head = new Uint32Array(aligned.buffer, aligned.byteOffset, L.SHARD_BODY / 4);
    if (head[L.W_MAGIC] !== L.SHARD_MAGIC) refuse('the shard does not start with FSHD');
    const counts: number[] = [];
    for (let section = 0; section < L.SECTIONS; section++) {
      counts.push(head[L.SECTION_TABLE / 4 + 2 * section + 1]!);
    }
    for (let section = L.S_TILE_ORDER + 1; section < L.SECTIONS; section++) {
      if (counts[section] !== 0) refuse(`reserved section ${section} is not empty`);
    }
    const { offsets, bytes: size } = placeSections(counts);
    if (size !== bytes.length) refuse(`the sections need ${size} bytes, the shard has ${bytes.length}`);
    for (let section = 0; section < L.SECTIONS; section++) {
      const offset = head[L.SECTION_TABLE / 4 + 2 * section]!;
      if (offset !== offsets[section]) {
        refuse(`section ${section} starts at ${offset}, not at ${offsets[section]}`);
      }
      const end = offset + counts[section]! * elementBytes(section);
      for (let at = end; offset !== 0 && at < alignSection(end); at++) {
        if (aligned[at] !== 0) refuse(`byte ${at} after section ${section} is not zero`);
      }
    }
    return new Shard(aligned, head);
  }

  /** Number of elements of a section. */
  count(section: number): number {
    return this.#head[L.SECTION_TABLE / 4 + 2 * section + 1]!;
  }

  #view<T>(View: new (buffer: ArrayBufferLike, offset: number, length: number) => T, section: number): T {
    const offset = this.#head[L.SECTION_TABLE / 4 + 2 * section]!;
    return new View(this.bytes.buffer, this.bytes.byteOffset + offset, this.count(section));
  }

  /** Entries of this rank's routing: tokens x topk. */
  get entries(): number {
    return this.tokens * this.topk;
  }
  /** Runs of direct rows that are contiguous at the source and at the destination; counted at every call. */
  get segments(): number {
    const { sendEntry, entryInstance, topk } = this;
    let segments = 0;
    let instance = -1;
    let token = -1;
    for (const entry of sendEntry) {
      const next = Math.floor(entry / topk);
      if (entryInstance[entry] !== instance || next !== token + 1) segments++;
      instance = entryInstance[entry] ?? -1;
      token = next;
    }
    return segments;
  }
}
