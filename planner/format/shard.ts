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

  private constructor(bytes: Uint8Array, head: Uint32Array) {
    this.bytes = bytes;
    this.#head = head;
  }

  /** Opens a shard over `bytes` without copying where they are 4-byte aligned. Throws E_SHARD_LAYOUT. */
  static open(bytes: Uint8Array, rank: number): Shard {
    const path = `/ranks/${rank}`;
    const refuse = (text: string): never => {
      throw new FuscoError('E_SHARD_LAYOUT', text, { path, rank });
    };
    if (bytes.length < L.SHARD_BODY) refuse(`${bytes.length} bytes < ${L.SHARD_BODY}`);
    // Not slice(): a Buffer's slice is a view with the same odd address.
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

  #word(index: number): number {
    return this.#head[index]!;
  }

  /** Number of elements of a section. */
  count(section: number): number {
    return this.#head[L.SECTION_TABLE / 4 + 2 * section + 1]!;
  }

  #u32(section: number): Uint32Array {
    const offset = this.#head[L.SECTION_TABLE / 4 + 2 * section]!;
    return new Uint32Array(this.bytes.buffer, this.bytes.byteOffset + offset, this.count(section));
  }

  #i32(section: number): Int32Array {
    const view = this.#u32(section);
    return new Int32Array(view.buffer, view.byteOffset, view.length);
  }

  get rank(): number {
    return this.#word(L.W_RANK);
  }
  get ranks(): number {
    return this.#word(L.W_RANKS);
  }
  get tokens(): number {
    return this.#word(L.W_TOKENS);
  }
  get topk(): number {
    return this.#word(L.W_TOPK);
  }
  /** Entries of this rank's routing: tokens x topk. */
  get entries(): number {
    return this.tokens * this.topk;
  }
  get instances(): number {
    return this.#word(L.W_INSTANCES);
  }
  get firstInstance(): number {
    return this.#word(L.W_FIRST_INSTANCE);
  }
  get localInstances(): number {
    return this.#word(L.W_LOCAL_INSTANCES);
  }
  /** Rows of this rank's receive buffer, padding included. */
  get recvRows(): number {
    return this.#word(L.W_RECV_ROWS);
  }
  /** Entries of this rank that reach a slot. */
  get kept(): number {
    return this.#word(L.W_KEPT);
  }
  get masked(): number {
    return this.#word(L.W_MASKED);
  }
  get dropped(): number {
    return this.#word(L.W_DROPPED);
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
  /** A word that no version uses yet. */
  get reserved(): number {
    return this.#word(L.W_RESERVED);
  }
  get stageRows(): number {
    return this.#word(L.W_STAGE_ROWS);
  }
  get staged(): number {
    return this.#word(L.W_STAGED);
  }
  get tileTokens(): number {
    return this.#word(L.W_TILE_TOKENS);
  }
  get expertOffset(): Uint32Array {
    return this.#u32(L.S_EXPERT_OFFSET);
  }
  get expertRows(): Uint32Array {
    return this.#u32(L.S_EXPERT_ROWS);
  }
  get runRow(): Uint32Array {
    return this.#u32(L.S_RUN_ROW);
  }
  get runRows(): Uint32Array {
    return this.#u32(L.S_RUN_ROWS);
  }
  get sendRow(): Uint32Array {
    return this.#u32(L.S_SEND_ROW);
  }
  get sendRows(): Uint32Array {
    return this.#u32(L.S_SEND_ROWS);
  }
  /** {peer, first row of the send order, rows} triples in the order of issue. */
  get slices(): Uint32Array {
    return this.#u32(L.S_SLICE);
  }
  /** i32[tokens, topk]: row at the destination, SLOT_MASKED or SLOT_DROPPED. */
  get entrySlot(): Int32Array {
    return this.#i32(L.S_ENTRY_SLOT);
  }
  /** u16[tokens, topk]: destination instance; `instances` where masked. */
  get entryInstance(): Uint16Array {
    const offset = this.#head[L.SECTION_TABLE / 4 + 2 * L.S_ENTRY_INSTANCE]!;
    return new Uint16Array(this.bytes.buffer, this.bytes.byteOffset + offset, this.count(L.S_ENTRY_INSTANCE));
  }
  /** The send order of direct rows: entries by (instance, token, k). */
  get sendEntry(): Uint32Array {
    return this.#u32(L.S_SEND_ENTRY);
  }
  get forwardRow(): Uint32Array {
    return this.#u32(L.S_FORWARD_ROW);
  }
  get forwardRows(): Uint32Array {
    return this.#u32(L.S_FORWARD_ROWS);
  }
  get forwardToken(): Uint32Array {
    return this.#u32(L.S_FORWARD_TOKEN);
  }
  get forwardTarget(): Int32Array {
    return this.#i32(L.S_FORWARD_TARGET);
  }
  get distributeOffset(): Uint32Array {
    return this.#u32(L.S_DISTRIBUTE_OFFSET);
  }
  get distributeEntry(): Uint32Array {
    return this.#u32(L.S_DISTRIBUTE_ENTRY);
  }
  get forwardSlices(): Uint32Array {
    return this.#u32(L.S_FORWARD_SLICE);
  }
  get stageRow(): Uint32Array {
    return this.#u32(L.S_STAGE_ROW);
  }
  get stageRowsFrom(): Uint32Array {
    return this.#u32(L.S_STAGE_ROWS);
  }
  /** u8[tokens, topk]: order of stores inside each tile of `tileTokens` tokens; empty without one. */
  get tileOrder(): Uint8Array {
    const offset = this.#head[L.SECTION_TABLE / 4 + 2 * L.S_TILE_ORDER]!;
    return new Uint8Array(this.bytes.buffer, this.bytes.byteOffset + offset, this.count(L.S_TILE_ORDER));
  }
}
