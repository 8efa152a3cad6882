// Mutations of bytes: blind ones, numbers at the edges of their ranges, pieces of other inputs, and words of a format.

export type Random = () => number;

/** Numbers at which sizes, counts and offsets break. */
const EDGES = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  (1n << 53n) - 1n,
  1n << 53n,
  (1n << 63n) - 1n,
  (1n << 64n) - 1n,
];
const EDGE_TEXTS = ['0', '-1', '-0', '1e9', '1.5', '2147483648', '4294967296', '9007199254740993', '1e400'];

const below = (random: Random, limit: number): number => Math.floor(random() * limit);

export function pick<T>(random: Random, items: readonly T[]): T {
  return items[below(random, items.length)]!;
}

/** `bytes` with [at, at + removed) replaced. */
function splice(bytes: Uint8Array, at: number, removed: number, inserted: Uint8Array): Uint8Array {
  const result = new Uint8Array(bytes.length - removed + inserted.length);
  result.set(bytes.subarray(0, at));
  result.set(inserted, at);
  result.set(bytes.subarray(at + removed), at + inserted.length);
  return result;
}

/** A range inside `bytes`, short ones more often. */
function range(random: Random, bytes: Uint8Array, longest = bytes.length): [at: number, length: number] {
  const at = below(random, bytes.length + 1);
  const room = Math.min(longest, bytes.length - at);
  return [at, random() < 0.7 ? below(random, Math.min(room, 16) + 1) : below(random, room + 1)];
}

function setInteger(random: Random, bytes: Uint8Array): Uint8Array {
  const width = pick(random, [1, 2, 4, 8]);
  if (bytes.length < width) return bytes;
  const copy = bytes.slice();
  const at = below(random, bytes.length - width + 1);
  const view = new DataView(copy.buffer);
  const step = BigInt(below(random, 33) - 16);
  let value = pick(random, EDGES);
  if (random() < 0.5) {
    // Near what is there, rather than an edge.
    value = 0n;
    for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(copy[at + i]!);
    value += step;
  }
  const little = random() < 0.9;
  for (let i = 0; i < width; i++) {
    view.setUint8(little ? at + i : at + width - 1 - i, Number(BigInt.asUintN(8, value >> BigInt(8 * i))));
  }
  return copy;
}

/** Another number in place of one that is written in digits. */
function setDigits(random: Random, bytes: Uint8Array): Uint8Array {
  const text = Buffer.from(bytes).toString('latin1');
  const numbers = [...text.matchAll(/-?\d+/g)];
  if (numbers.length === 0) return bytes;
  const found = pick(random, numbers);
  const number = random() < 0.5 ? pick(random, EDGE_TEXTS) : String(Number(found[0]) + below(random, 7) - 3);
  return splice(bytes, found.index, found[0].length, Buffer.from(number));
}

type Mutator = (random: Random, bytes: Uint8Array, other: Uint8Array, words: readonly string[]) => Uint8Array;

const MUTATORS: readonly Mutator[] = [
  (random, bytes) => {
    if (bytes.length === 0) return bytes;
    const copy = bytes.slice();
    copy[below(random, bytes.length)]! ^= 1 << below(random, 8);
    return copy;
  },
  (random, bytes) => {
    if (bytes.length === 0) return bytes;
    const copy = bytes.slice();
    copy[below(random, bytes.length)] = below(random, 256);
    return copy;
  },
  setInteger,
  setInteger,
  setDigits,
  (random, bytes) => splice(bytes, ...range(random, bytes), new Uint8Array(0)),
  (random, bytes) => {
    const [at, length] = range(random, bytes);
    return splice(bytes, at, 0, bytes.slice(at, at + length));
  },
  (random, bytes, other) => {
    const [from, length] = range(random, other);
    const [at, removed] = range(random, bytes);
    return splice(bytes, at, random() < 0.5 ? removed : 0, other.slice(from, from + length));
  },
  (random, bytes, _, words) => {
    if (words.length === 0) return bytes;
    const [at, removed] = range(random, bytes);
    return splice(bytes, at, random() < 0.5 ? removed : 0, Buffer.from(pick(random, words), 'latin1'));
  },
];

/** One to some mutations of `bytes`, at most `maxBytes` long. The same random numbers give the same result. */
export function mutate(
  random: Random,
  bytes: Uint8Array,
  other: Uint8Array,
  words: readonly string[],
  maxBytes: number,
): Uint8Array {
  let result = bytes;
  // Half of all inputs have one mutation, a quarter two, and so on.
  do result = pick(random, MUTATORS)(random, result, other, words);
  while (random() < 0.5);
  return result.subarray(0, maxBytes);
}
