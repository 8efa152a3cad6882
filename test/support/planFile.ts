// Plan files taken apart and sealed again with every digest recomputed: what somebody could do who edits a plan on
// purpose. Written from the drawing of the file in planner/format/layout.ts, not with the codec under test.

import { createHash } from 'node:crypto';
import { Packr } from 'msgpackr';

const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: 'bigint' });

/** msgpack of one value, map keys in the order given. */
export const pack = (value: unknown): Uint8Array => Uint8Array.from(packr.pack(value));
export const unpack = (bytes: Uint8Array): unknown => packr.unpack(bytes);

export function sha256(...chunks: Uint8Array[]): Uint8Array {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return Uint8Array.from(hash.digest());
}

export interface FileParts {
  version: [number, number];
  core: Record<string, unknown>;
  /** What the header says beside the core, the plan id and the shards: the producer and its like. */
  rest: Record<string, unknown>;
  shards: Uint8Array[];
}

export interface Header extends Record<string, unknown> {
  core: Record<string, unknown>;
  planId: Uint8Array;
  producer: string;
  shards: unknown[];
}

/** What a forger changes beside the parts. */
export interface Forgery {
  /** Instead of the header that follows from the parts. */
  header?: (honest: Header) => Uint8Array;
  /** Zeros of each pad, instead of those that align the next shard. */
  pad?: (zeros: number) => Uint8Array;
  /** Between the digest's head and the end. */
  tail?: Uint8Array;
}

/** The parts of a sound file. */
export function openFile(bytes: Uint8Array): FileParts {
  const items = unpack(bytes) as [string, [number, number], Header, ...Uint8Array[]];
  const [, version, header, ...padded] = items;
  const { core, planId: _, shards: __, ...rest } = header;
  const shards = padded.slice(0, -1).filter((_, i) => i % 2 === 1);
  return { version, core, rest, shards: shards.map((shard) => Uint8Array.from(shard)) };
}

/** Head of an array of `items` items. */
export function arrayHead(items: number): Uint8Array {
  return items < 16 ? Uint8Array.of(0x90 + items) : Uint8Array.of(0xdc, items >> 8, items & 255);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A file with correct digests of whatever the parts say. */
export function sealFile(parts: FileParts, forgery: Forgery = {}): Uint8Array {
  const { version, core, rest, shards } = parts;
  const digests = shards.map((shard) => sha256(shard));
  const planId = sha256(pack(['FUSCOPLN', 1]), pack(core), ...digests);
  const listed = shards.map((shard, i) => [shard.length, digests[i]!]);
  const fields = Object.entries({ ...rest, core, planId, shards: listed });
  const honest = Object.fromEntries(fields.sort(([a], [b]) => (a < b ? -1 : 1))) as Header;
  const out = [
    arrayHead(4 + 2 * shards.length),
    pack('FUSCOPLN'),
    pack(version),
    forgery.header?.(honest) ?? pack(honest),
  ];
  let length = out.reduce((sum, part) => sum + part.length, 0);
  const push = (...chunks: Uint8Array[]) => {
    for (const chunk of chunks) {
      out.push(chunk);
      length += chunk.length;
    }
  };
  for (const shard of shards) {
    // The pad's own head takes two bytes, the shard's five.
    const zeros = (64 - ((length + 7) % 64)) % 64;
    const pad = forgery.pad?.(zeros) ?? new Uint8Array(zeros);
    const size = new Uint8Array(5);
    size[0] = 0xc6;
    new DataView(size.buffer).setUint32(1, shard.length);
    push(Uint8Array.of(0xc4, pad.length), pad, size, shard);
  }
  push(Uint8Array.of(0xc4, 32));
  const digest = sha256(concat(out));
  push(digest, forgery.tail ?? new Uint8Array(0));
  return concat(out);
}
