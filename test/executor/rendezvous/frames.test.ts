import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeFrame, type Frame, FrameError, FrameReader } from '../../../executor/rendezvous/frames.ts';

const LIMIT = 4096;

/** All frames of a stream that comes in pieces cut at these places. */
function readInPieces(stream: Uint8Array, cuts: readonly number[], limit = LIMIT): Frame[] {
  const reader = new FrameReader(limit);
  const places = [0, ...cuts.map((cut) => cut % (stream.length + 1)).sort((a, b) => a - b), stream.length];
  const frames = places.slice(1).flatMap((end, i) => [...reader.push(stream.subarray(places[i], end))]);
  expect(reader.partial).toBe(false);
  return frames;
}

const cutsOf = fc.array(fc.nat(LIMIT), { maxLength: 40 });

/** A frame written by hand: two little-endian lengths and what follows. */
function rawFrame(total: number, head: number, rest: string): Uint8Array {
  const bytes = Buffer.alloc(8 + rest.length);
  bytes.writeUInt32LE(total, 0);
  bytes.writeUInt32LE(head, 4);
  bytes.write(rest, 8, 'latin1');
  return bytes;
}

const push = (bytes: Uint8Array, limit = LIMIT) => [...new FrameReader(limit).push(bytes)];

describe('frames', () => {
  it('have the form that the file draws', () => {
    const head = '{"type":"a","n":1}';
    expect(Buffer.from(encodeFrame({ type: 'a', n: 1 } as { type: string }, Uint8Array.of(7, 8)))).toEqual(
      Buffer.concat([rawFrame(head.length + 2, head.length, head), Uint8Array.of(7, 8)]),
    );
  });

  it('come out as they went in, wherever the stream is cut', () => {
    const frame = fc.record({
      head: fc.record({ type: fc.string({ maxLength: 8 }), call: fc.nat() }),
      body: fc.uint8Array({ maxLength: 100 }),
    });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 12 }), cutsOf, (sent, cuts) => {
        const stream = Buffer.concat(sent.map(({ head, body }) => encodeFrame(head, body)));
        const got = readInPieces(stream, cuts);
        expect(got.map(({ head }) => head)).toEqual(sent.map(({ head }) => head));
        expect(got.map(({ body }) => [...body])).toEqual(sent.map(({ body }) => [...body]));
      }),
      { seed: 11, numRuns: 300 },
    );
  });

  it('are refused as the same kind of error whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        try {
          push(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(FrameError);
        }
      }),
      { seed: 13, numRuns: 1000 },
    );
  });

  it('are refused by their size before a byte of them is kept', () => {
    expect(() => push(rawFrame(LIMIT + 1, 2, ''))).toThrow(
      `a frame of ${LIMIT + 1} bytes, more than ${LIMIT}`,
    );
    expect(() => push(rawFrame(0xffff_ffff, 2, ''))).toThrow(FrameError);
    expect(push(rawFrame(LIMIT, 12, ''))).toEqual([]);
  });

  it.each([
    ['no head', rawFrame(0, 0, '')],
    ['a head longer than the frame', rawFrame(12, 13, '{"type":"a"}')],
    ['a head that is no JSON', rawFrame(4, 4, '{"a"')],
    ['a head that is no object', rawFrame(4, 4, 'null')],
    ['a head without a type', rawFrame(2, 2, '{}')],
    ['a type that is no text', rawFrame(10, 10, '{"type":1}')],
    ['a request of another protocol', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ])('are refused with %s', (_, bytes) => {
    expect(() => push(bytes)).toThrow(FrameError);
  });

  it('may be longer from a moment on', () => {
    const reader = new FrameReader(64);
    const long = encodeFrame({ type: 'a' }, new Uint8Array(100));
    expect([...reader.push(encodeFrame({ type: 'a' }))]).toHaveLength(1);
    reader.limit = 200;
    expect([...reader.push(long)]).toHaveLength(1);
    reader.limit = 64;
    expect(() => [...reader.push(long)]).toThrow(FrameError);
  });
});
