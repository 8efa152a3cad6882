// CRC-32 as zip uses it (polynomial 0xedb88320, reflected). Not node:zlib's, because the viewer reads archives in a
// browser by the same code.

/** Eight tables of 256: entry 256 i + byte is the checksum of that byte followed by i zero bytes. */
const TABLE = makeTable();

function makeTable(): Uint32Array {
  const table = new Uint32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    table[byte] = crc;
  }
  for (let i = 256; i < table.length; i++) {
    const before = table[i - 256]!;
    table[i] = (before >>> 8) ^ table[before & 255]!;
  }
  return table;
}

/** CRC-32 of `bytes`, 0..2^32 - 1. Eight bytes are taken at a time. */
export function crc32(bytes: Uint8Array): number {
  const t = TABLE;
  let crc = ~0;
  let at = 0;
  for (const whole = bytes.length - 7; at < whole; at += 8) {
    crc ^= bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    crc =
      t[0x700 + (crc & 255)]! ^
      t[0x600 + ((crc >>> 8) & 255)]! ^
      t[0x500 + ((crc >>> 16) & 255)]! ^
      t[0x400 + (crc >>> 24)]! ^
      t[0x300 + bytes[at + 4]!]! ^
      t[0x200 + bytes[at + 5]!]! ^
      t[0x100 + bytes[at + 6]!]! ^
      t[bytes[at + 7]!]!;
  }
  for (; at < bytes.length; at++) crc = (crc >>> 8) ^ t[(crc ^ bytes[at]!) & 255]!;
  return ~crc >>> 0;
}
