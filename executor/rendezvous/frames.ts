// The frames of a rendezvous connection, in both directions:
//
//   +----------------+---------------+----------------------+---------------+
//   | u32 LE         | u32 LE        | head, UTF-8 JSON of  | body, raw     |
//   | head + body, B | head, B       | an object with a     | bytes, may be |
//   |                |               | string `type`        | empty         |
//   +----------------+---------------+----------------------+---------------+
//
// A reader knows the size of a frame before it stores any of it, and refuses frames above its limit.

/** Bytes before the head. */
const PREFIX_BYTES = 8;
/** Longest head: a report about 4096 late ranks fits. */
export const MAX_HEAD_BYTES = 1 << 20;
/** Longest head and body together during the handshake. */
export const MAX_HELLO_BYTES = 1 << 10;

const EMPTY = new Uint8Array(0);

/** A malformed frame: the connection must be closed. */
export class FrameError extends Error {}

export interface Frame {
  readonly head: { readonly type: string; readonly [field: string]: unknown };
  readonly body: Uint8Array;
}

/** One frame as bytes. */
export function encodeFrame(head: { type: string }, body: Uint8Array = EMPTY): Uint8Array {
  const text = Buffer.from(JSON.stringify(head));
  const bytes = Buffer.allocUnsafe(PREFIX_BYTES + text.length + body.length);
  bytes.writeUInt32LE(text.length + body.length, 0);
  bytes.writeUInt32LE(text.length, 4);
  bytes.set(text, PREFIX_BYTES);
  bytes.set(body, PREFIX_BYTES + text.length);
  return bytes;
}

function decodeHead(text: Buffer): Frame['head'] {
  let head: unknown;
  try {
    head = JSON.parse(text.toString('utf8'));
  } catch {
    throw new FrameError('a head that is no JSON');
  }
  if (typeof head === 'object' && head !== null && typeof (head as Frame['head']).type === 'string') {
    return head as Frame['head'];
  }
  throw new FrameError('a head without a type');
}

/** Splits received chunks of any size into frames. */
export class FrameReader {
  /** Most bytes of head and body together; may be raised between two frames. */
  limit: number;
  readonly #prefix = Buffer.alloc(PREFIX_BYTES);
  #filled = 0;
  #frame: Buffer | undefined;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Whether the last chunk ended in the middle of a frame. */
  get partial(): boolean {
    return this.#filled > 0 || this.#frame !== undefined;
  }

  /**
   * The frames that this chunk completes, in order.
   *
   * @throws FrameError at the first frame that is too large or malformed; the reader must not be used afterwards
   */
  *push(chunk: Uint8Array): Generator<Frame> {
    let at = 0;
    while (at < chunk.length) {
      const target = this.#frame ?? this.#prefix;
      const taken = Math.min(target.length - this.#filled, chunk.length - at);
      target.set(chunk.subarray(at, at + taken), this.#filled);
      at += taken;
      this.#filled += taken;
      if (this.#filled < target.length) return;
      this.#filled = 0;
      if (this.#frame === undefined) this.#frame = this.#startFrame();
      else yield this.#finishFrame(this.#frame);
    }
  }

  #startFrame(): Buffer {
    const bytes = this.#prefix.readUInt32LE(0);
    const head = this.#prefix.readUInt32LE(4);
    if (bytes > this.limit) throw new FrameError(`a frame of ${bytes} bytes, more than ${this.limit}`);
    // `{}` is the shortest head, so no frame is empty.
    if (head < 2 || head > Math.min(bytes, MAX_HEAD_BYTES)) {
      throw new FrameError(`a head of ${head} bytes in a frame of ${bytes}`);
    }
    return Buffer.allocUnsafe(bytes);
  }

  #finishFrame(frame: Buffer): Frame {
    this.#frame = undefined;
    const head = this.#prefix.readUInt32LE(4);
    return { head: decodeHead(frame.subarray(0, head)), body: frame.subarray(head) };
  }
}
