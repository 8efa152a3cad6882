// Files that were compressed with gzip as a whole.

import { constants } from 'node:buffer';
import { gunzipSync } from 'node:zlib';
import { FuscoError } from '../../planner/errors.ts';
import { errnoOf } from './file.ts';
import { MAX_DEFLATE_RATIO, MAX_TOTAL_BYTES } from './zip.ts';

/** True for bytes that start like a gzip file with deflated contents. */
export function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b && bytes[2] === 8;
}

/**
 * The contents of a gzip file, all members joined, with their checksums compared.
 *
 * @param maxBytes limit on the contents; default 8 GiB
 * @throws FuscoError E_FORMAT for damage and for contents beyond the limit, E_MEMORY
 */
export function gunzip(bytes: Uint8Array, path: string, maxBytes: number = MAX_TOTAL_BYTES): Uint8Array {
  const limit = Math.min(maxBytes, constants.MAX_LENGTH, bytes.length * MAX_DEFLATE_RATIO);
  try {
    return gunzipSync(bytes, { maxOutputLength: limit });
  } catch (cause) {
    if (errnoOf(cause) === 'ENOMEM')
      throw new FuscoError('E_MEMORY', 'not enough memory to decompress it', {
        path,
        cause,
        hint: 'Decompress it with gunzip and read the result.',
      });
    const isTooLong = cause instanceof RangeError;
    const text = isTooLong
      ? `it unpacks to more than ${limit} bytes`
      : `the gzip data is damaged or truncated: ${(cause as Error).message}`;
    throw new FuscoError('E_FORMAT', text, {
      path,
      cause,
      hint: isTooLong ? 'Decompress it with gunzip and read a part of it.' : 'Check it with gunzip -t.',
    });
  }
}
