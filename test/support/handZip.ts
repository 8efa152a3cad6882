// Zip archives by hand, in which every declaration of the directory can be a lie.

import { crc32 } from 'node:zlib';
import { encodeNpy } from '../../tools/readers/npy.ts';

/** A sound .npy file of three bytes. */
export const NPY = Buffer.concat(encodeNpy('u8', [3], new Uint8Array([1, 2, 3])));

export interface Entry {
  name: string;
  data?: Uint8Array;
  method?: number;
  flags?: number;
  crc?: number;
  compressed?: number;
  size?: number;
  local?: number;
  extra?: Buffer;
  /** Of a Unix file, such as 0o120777 for a symbolic link. */
  mode?: number;
}

export function u16(...values: number[]): Buffer {
  return Buffer.from(new Uint16Array(values).buffer);
}

export function u32(...values: number[]): Buffer {
  return Buffer.from(new Uint32Array(values).buffer);
}

export function u64(...values: number[]): Buffer {
  return Buffer.from(new BigUint64Array(values.map(BigInt)).buffer);
}

/** A zip archive by hand, in which every declaration of the directory can be a lie. */
export function zip(entries: Entry[], count = entries.length, end64 = false): Uint8Array {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const entry of entries) {
    const { name, data = NPY, method = 0, flags = 0, extra = Buffer.alloc(0), mode } = entry;
    const { crc = crc32(data), compressed = data.length, size = compressed, local = at } = entry;
    const label = Buffer.from(name);
    const part = Buffer.concat([
      u32(0x04034b50),
      u16(45, flags, method, 0, 0),
      u32(0, 0, 0),
      u16(label.length, 0),
      label,
      data,
    ]);
    parts.push(part);
    at += part.length;
    directory.push(
      u32(0x02014b50),
      u16(mode === undefined ? 45 : (3 << 8) | 45, 45, flags, method, 0, 0),
      u32(crc, compressed, size),
      u16(label.length, extra.length, 0, 0, 0),
      u32(((mode ?? 0) << 16) >>> 0, local),
      label,
      extra,
    );
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end: Buffer[] = [];
  if (end64) {
    end.push(u32(0x06064b50), u64(44), u16(45, 45), u32(0, 0), u64(count, count, size, at));
    end.push(u32(0x07064b50, 0), u64(at + size), u32(1));
  }
  const counts = end64 ? [0xffff, 0xffff] : [count, count];
  const place = end64 ? [0xffffffff, 0xffffffff] : [size, at];
  end.push(u32(0x06054b50), u16(0, 0, ...counts), u32(...place), u16(0));
  return new Uint8Array(Buffer.concat([...parts, ...directory, ...end]));
}
