// Files of one JSON value a line, read line by line: traces are larger than the memory that a string may take.

import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { FuscoError } from '../../planner/errors.ts';
import { readError } from './file.ts';

/** A line is parsed as one string, whose length JavaScript limits to about 2^29. */
const MAX_LINE_BYTES = 2 ** 28;
const NEWLINE = 0x0a;

/** Called with the bytes read so far and those of the file. */
export type ReadProgress = (done: number, total: number) => void;

function parse(line: Uint8Array, number: number, path: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line));
  } catch (cause) {
    throw new FuscoError('E_FOREIGN', `line ${number} is not JSON: it is damaged or cut short`, {
      path,
      cause,
    });
  }
}

function isBlank(line: Uint8Array): boolean {
  return line.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

/** The lines of a file without their ends; no more than one line and one chunk are in memory. */
async function* splitLines(path: string, progress: ReadProgress | undefined): AsyncGenerator<Uint8Array> {
  const total = progress === undefined ? 0 : (await stat(path)).size;
  let parts: Uint8Array[] = [];
  let held = 0;
  let done = 0;
  const take = (last: Uint8Array) => {
    const line = parts.length === 0 ? last : Buffer.concat([...parts, last]);
    parts = [];
    held = 0;
    return line;
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      yield take(chunk.subarray(start, end));
      start = end + 1;
    }
    parts.push(chunk.subarray(start));
    held += chunk.length - start;
    if (held > MAX_LINE_BYTES) {
      throw new FuscoError('E_FOREIGN', `a line is longer than ${MAX_LINE_BYTES} bytes`, {
        path,
        limit: MAX_LINE_BYTES,
      });
    }
    progress?.((done += chunk.length), total);
  }
  if (held > 0) yield take(new Uint8Array(0));
}

/**
 * The values of a file of one JSON value a line, with their line numbers from 1; blank lines are passed over.
 *
 * @throws FuscoError E_FOREIGN for a line that is not JSON or too long; E_FILE_NOT_FOUND, E_FILE_READ
 */
export async function* readJsonLines(
  path: string,
  progress?: ReadProgress,
): AsyncGenerator<{ value: unknown; line: number }> {
  let line = 0;
  try {
    for await (const bytes of splitLines(path, progress)) {
      line++;
      if (!isBlank(bytes)) yield { value: parse(bytes, line, path), line };
    }
  } catch (error) {
    throw readError(path, error);
  }
}
