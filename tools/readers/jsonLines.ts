// Files of one JSON value a line, read line by line: a recording may be larger than the longest string.

import { type Bytes, type FileSource, refuse } from './file.ts';

/** A line is parsed as one string, whose length JavaScript limits to about 2^29. */
const MAX_LINE_BYTES = 2 ** 28;
const CHUNK_BYTES = 1 << 20;
const NEWLINE = 0x0a;

/** Called with the bytes read so far and those of the file. */
export type ReadProgress = (done: number, total: number) => void;

function parse(line: Uint8Array, number: number, path: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line));
  } catch (cause) {
    return refuse(path, `line ${number} is not JSON: it is damaged or cut short`, cause);
  }
}

function isBlank(line: Uint8Array): boolean {
  return line.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

/** The lines of a file without their ends; no more than one line and one chunk are in memory. */
function* splitLines(bytes: Bytes, path: string, progress?: ReadProgress): Generator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let held = 0;
  const take = (last: Uint8Array) => {
    const line = parts.length === 0 ? last : Buffer.concat([...parts, last]);
    parts = [];
    held = 0;
    return line;
  };
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    const end = Math.min(at + CHUNK_BYTES, bytes.length);
    const chunk = bytes.subarray(at, end);
    let start = 0;
    for (let stop = chunk.indexOf(NEWLINE); stop >= 0; stop = chunk.indexOf(NEWLINE, start)) {
      yield take(chunk.subarray(start, stop));
      start = stop + 1;
    }
    parts.push(chunk.subarray(start));
    held += chunk.length - start;
    if (held > MAX_LINE_BYTES) refuse(path, `a line is longer than ${MAX_LINE_BYTES} bytes`);
    progress?.(end, bytes.length);
  }
  if (held > 0) yield take(new Uint8Array(0));
}

/**
 * The values of a file of one JSON value a line, with their line numbers from 1; blank lines are passed over.
 *
 * @throws FuscoError E_FOREIGN for a line that is not JSON or too long; E_FILE_READ
 */
export function* readJsonLines(
  { bytes, path }: FileSource,
  progress?: ReadProgress,
): Generator<{ value: unknown; line: number }> {
  let line = 0;
  for (const text of splitLines(bytes, path, progress)) {
    line++;
    if (!isBlank(text)) yield { value: parse(text, line, path), line };
  }
}
