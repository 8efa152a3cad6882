// Reads the parts of a plan file in order.

import { FuscoError } from '../errors.ts';
import { ARRAY16, BIN8 } from './encode.ts';

// The kinds of msgpack values that a header may contain in addition to small integers, strings, arrays and maps.
const UINT8 = 0xcc;
const UINT32 = 0xce;
const STR8 = 0xd9;
const MAP16 = 0xde;
/** header, core, placement, one expert's replicas, and one to spare. */
const MAX_HEADER_DEPTH = 5;

/** Reads the parts of a file, or of a window of one, in order; every read checks the file's bound first. */
export class Cursor {
  readonly bytes: Uint8Array;
  /** Place in the file. */
  at: number;
  readonly #start: number;
  readonly #length: number;

  /**
   * @param bytes the window
   * @param start where the window starts in the file
   * @param length bytes of the file
   */
  constructor(bytes: Uint8Array, start = 0, length = bytes.length) {
    this.bytes = bytes;
    this.at = start;
    this.#start = start;
    this.#length = length;
  }

  /** Skips bytes, which need not be in the window. */
  pass(length: number, what: string): void {
    const end = this.at + length;
    if (end > this.#length) {
      const text = `${what} ends at byte ${end}, the file at ${this.#length}`;
      throw new FuscoError('E_PLAN_TRUNCATED', text, { limit: this.#length });
    }
    this.at = end;
  }

  take(length: number, what: string): Uint8Array {
    const from = this.at - this.#start;
    this.pass(length, what);
    return this.bytes.subarray(from, from + length);
  }

  /** A big-endian unsigned integer. */
  uint(length: number, what: string): number {
    return this.take(length, what).reduce((value, byte) => value * 256 + byte, 0);
  }

  /** Skips one value of a kind that a header may contain. Throws E_PLAN_CANONICAL for any other. */
  skip(end: number, depth: number): void {
    if (depth > MAX_HEADER_DEPTH || this.at >= end)
      throw refuseHeader('the header is deeper or longer than allowed');
    const what = 'the header';
    const kind = this.uint(1, what);
    let values = 0;
    let payload = 0;
    if (kind < 0x80) payload = 0;
    else if (kind < 0x90) values = 2 * (kind & 15);
    else if (kind < 0xa0) values = kind & 15;
    else if (kind < 0xc0) payload = kind & 31;
    else if (kind === BIN8 || kind === STR8) payload = this.uint(1, what);
    else if (kind >= UINT8 && kind <= UINT32) payload = 1 << (kind - UINT8);
    else if (kind === ARRAY16) values = this.uint(2, what);
    else if (kind === MAP16) values = 2 * this.uint(2, what);
    else throw refuseHeader(`the header holds a value of kind 0x${kind.toString(16)}`);
    this.take(payload, what);
    for (let i = 0; i < values; i++) this.skip(end, depth + 1);
  }
}

export function refuseHeader(text: string): FuscoError {
  return new FuscoError('E_PLAN_CANONICAL', text, { path: '/header' });
}
