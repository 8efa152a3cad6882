// Writes the output of several processes to one stream, in whole lines, each with a prefix that names its process.

import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';

/** A longer line is split, so that a process that never ends a line cannot fill the memory. */
export const LONGEST_LINE = 1 << 16;
const NEWLINE = 10;

/** Puts a prefix before every line of a stream of chunks, which may begin and end anywhere. */
export class LinePrefixer {
  readonly #prefix: Buffer;
  #rest: Buffer = Buffer.alloc(0);

  constructor(prefix: string) {
    this.#prefix = Buffer.from(prefix);
  }

  /** The lines that this chunk completes, with prefixes; empty if it completes none. */
  push(chunk: Uint8Array): Buffer {
    const pieces: Uint8Array[] = [];
    let text = Buffer.concat([this.#rest, chunk]);
    for (let end = text.indexOf(NEWLINE); end >= 0; end = text.indexOf(NEWLINE)) {
      pieces.push(this.#prefix, text.subarray(0, end + 1));
      text = text.subarray(end + 1);
    }
    for (; text.length > LONGEST_LINE; text = text.subarray(LONGEST_LINE)) {
      pieces.push(this.#prefix, text.subarray(0, LONGEST_LINE), Buffer.of(NEWLINE));
    }
    this.#rest = text;
    return Buffer.concat(pieces);
  }

  /** The last line if it has no end. An end is added, so that the next process starts a new line. */
  finish(): Buffer {
    const rest = this.#rest;
    this.#rest = Buffer.alloc(0);
    return rest.length === 0 ? rest : Buffer.concat([this.#prefix, rest, Buffer.of(NEWLINE)]);
  }
}

/** Copies a stream to another in whole lines with prefixes, no faster than the other accepts them. */
export async function copyLines(from: Readable, to: Writable, prefix: string): Promise<void> {
  const lines = new LinePrefixer(prefix);
  const write = async (bytes: Buffer) => {
    if (bytes.length > 0 && !to.write(bytes)) await once(to, 'drain');
  };
  for await (const chunk of from) await write(lines.push(chunk));
  await write(lines.finish());
}
