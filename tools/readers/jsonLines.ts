// Files with one JSON value per line, which are read line by line, because a recording may be larger than the longest
// string.

import type { ReadChoice, ReadProgress } from './choice.ts';
import { type Bytes, type FileSource, refuse } from './file.ts';

/** A line is parsed as one string, whose length JavaScript limits to about 2^29. */
const MAX_LINE_BYTES = 2 ** 28;
const CHUNK_BYTES = 1 << 20;
const NEWLINE = 0x0a;

function parse(line: Uint8Array, number: number, path: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line));
  } catch (cause) {
    return refuse(path, `line ${number} is not JSON: it is damaged or truncated`, cause);
  }
}

function isBlank(line: Uint8Array): boolean {
  return line.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

/** A line of a file without its end, and whether it has one. */
interface Line {
  readonly text: Uint8Array;
  readonly isWhole: boolean;
}

/** The lines of a file; no more than one line and one chunk are in memory. */
function* splitLines(bytes: Bytes, path: string, progress?: ReadProgress): Generator<Line> {
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
      yield { text: take(chunk.subarray(start, stop)), isWhole: true };
      start = stop + 1;
    }
    parts.push(chunk.subarray(start));
    held += chunk.length - start;
    if (held > MAX_LINE_BYTES) refuse(path, `a line is longer than ${MAX_LINE_BYTES} bytes`);
    progress?.(end, bytes.length);
  }
  if (held > 0) yield { text: take(new Uint8Array(0)), isWhole: false };
}

/** A value and the number of its line, from 1. */
export interface JsonLine {
  readonly value: unknown;
  readonly line: number;
}

/**
 * The values of a file with one JSON value per line; blank lines are skipped. A last line without an end that is not JSON
 * was truncated when its writer was killed; it is skipped, with a notice, unless it is the only one.
 *
 * @param onCut called if the last line is skipped
 * @throws FuscoError E_FOREIGN for any other line that is not JSON, or one that is too long; E_FILE_READ
 */
export function* readJsonLines(
  { bytes, path }: FileSource,
  { progress, notice }: Pick<ReadChoice, 'progress' | 'notice'> = {},
  onCut?: () => void,
): Generator<JsonLine> {
  let line = 0;
  let values = 0;
  for (const { text, isWhole } of splitLines(bytes, path, progress)) {
    line++;
    if (isBlank(text)) continue;
    let value: unknown;
    try {
      value = parse(text, line, path);
    } catch (error) {
      if (isWhole || values === 0) throw error;
      notice?.(`${path}: line ${line} is truncated and skipped; it was the last`);
      onCut?.();
      return;
    }
    yield { value, line };
    values++;
  }
}
