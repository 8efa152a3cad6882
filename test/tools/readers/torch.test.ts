// The restricted reader of .pt files: what it builds, what it refuses by name, and that nothing a file says makes it
// do more than refuse.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { type PickleWorld, unpickle } from '../../../tools/readers/pickle.ts';
import { readSafetensors } from '../../../tools/readers/safetensors.ts';
import { readTorch, TorchTensor } from '../../../tools/readers/torch.ts';
import { foreign } from './support.ts';

const fileOf = (name: string) => new Uint8Array(readFileSync(foreign(name)));
const NOTHING: PickleWorld = { calls: new Map(), names: new Set(), persistent: () => null };

/** A pickle of text and raw opcodes. */
const pickle = (...parts: (string | number[])[]) =>
  new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part as string, 'latin1'))));

function valuesOf(tensor: unknown): [string, readonly number[], number[]] {
  if (!(tensor instanceof TorchTensor)) throw new Error('not a tensor');
  const { dtype, shape, data } = tensor.toArray();
  return [dtype, shape, Array.from(data as ArrayLike<number | bigint>, Number)];
}

describe('readTorch', () => {
  it('builds strided views of a shared storage in C order', () => {
    const found = readTorch(fileOf('views.pt'), 'views.pt') as Map<string, unknown>;
    const all = Array.from({ length: 24 }, (_, i) => i);
    expect(valuesOf(found.get('whole'))).toEqual(['i64', [4, 6], all]);
    const transposed = Array.from({ length: 6 }, (_, c) => [0, 1, 2, 3].map((r) => r * 6 + c)).flat();
    expect(valuesOf(found.get('transposed'))).toEqual(['i64', [6, 4], transposed]);
    expect(valuesOf(found.get('inner'))).toEqual(['i64', [2, 3], [8, 9, 10, 14, 15, 16]]);
    expect(valuesOf(found.get('empty'))).toEqual(['i32', [0, 8], []]);
  });

  it('builds dicts, lists, text, numbers and None', () => {
    const dump = readTorch(fileOf('sglang/expert_distribution_recorder_1750000000.0_1.pt'), 'x.pt') as Map<
      string,
      unknown
    >;
    const records = dump.get('records') as Map<string, unknown>[];
    expect(records).toHaveLength(2);
    expect([...records[0]!.keys()]).toEqual([
      'forward_pass_id',
      'rank',
      'gatherer_key',
      'input_ids',
      'positions',
      'extend_seq_lens',
      'forward_mode',
      'topk_ids_of_layer',
      'misc_objects',
      'global_physical_count',
    ]);
    expect(records[0]!.get('gatherer_key')).toBe('primary');
    expect([records[0]!.get('extend_seq_lens'), records[1]!.get('extend_seq_lens')]).toEqual([[5], null]);
    const stat = readTorch(fileOf('sglang-stat.pt'), 'x.pt') as Map<string, unknown>;
    expect(stat.get('average_utilization_rate_over_window')).toBe(0.5);
  });

  it('refuses a tensor that leaves or repeats its storage, and a storage of another size', () => {
    const archive = (data: Uint8Array, offset: number, size: number, stride: number) =>
      zipSync({
        'a/data.pkl': pickle(
          [0x80, 2],
          'ctorch._utils\n_rebuild_tensor_v2\n((X',
          [7, 0, 0, 0],
          'storagectorch\nByteStorage\nX',
          [1, 0, 0, 0],
          '0X',
          [3, 0, 0, 0],
          'cpuK',
          [4],
          'tQK',
          [offset],
          'K',
          [size],
          [0x85],
          'K',
          [stride],
          [0x85, 0x89],
          'NtR.',
        ),
        'a/data/0': data,
      });
    const bytes = Uint8Array.of(1, 2, 3, 4);
    expect(valuesOf(readTorch(archive(bytes, 1, 2, 2), 'x'))).toEqual(['u8', [2], [2, 4]]);
    expect(() => readTorch(archive(bytes, 1, 2, 3), 'x')).toThrow('leaves its storage of 4 elements');
    expect(() => readTorch(archive(bytes, 0, 200, 0), 'x')).toThrow('leaves its storage of 4 elements');
    const short = readTorch(archive(bytes.slice(1), 0, 1, 1), 'x') as TorchTensor;
    expect(() => short.toArray()).toThrow('has 3 bytes, the pickle says 4 x 1');
  });
});

describe('unpickle', () => {
  it.each([
    ['os.system', 'cos\nsystem\n(X\u0002\0\0\0lst R.'],
    ['builtins.eval', 'cbuiltins\neval\n(tR.'],
    ['torch.load', 'ctorch\nload\n(tR.'],
  ])('names the global that it does not give: %s', (name, text) => {
    expect(() => unpickle(pickle([0x80, 2], text), 'x', NOTHING)).toThrow(`it asks for "${name}"`);
  });

  it('does not call what is only a name, nor what a file builds itself', () => {
    const world: PickleWorld = { ...NOTHING, names: new Set(['torch.IntStorage']) };
    expect(() => unpickle(pickle([0x80, 2], 'ctorch\nIntStorage\n)R.'), 'x', world)).toThrow(
      'cannot be called',
    );
    expect(() => unpickle(pickle([0x80, 2], ']', ')R.'), 'x', world)).toThrow('cannot be called');
  });

  it.each([
    ['BUILD', 'b', '0x62'],
    ['INST', 'i', '0x69'],
    ['OBJ', 'o', '0x6f'],
    ['NEWOBJ', '\x81', '0x81'],
    ['EXT1', '\x82', '0x82'],
    ['PERSID', 'P', '0x50'],
    ['DUP', '2', '0x32'],
    ['LONG', 'L', '0x4c'],
  ])('refuses the opcode %s', (_, text, shown) => {
    expect(() => unpickle(pickle([0x80, 2], '})', text, '.'), 'x', NOTHING)).toThrow(
      `opcode ${shown} is not one`,
    );
  });

  it('reads integers of every width', () => {
    const text = pickle(
      [0x80, 2],
      '](J',
      [0xff, 0xff, 0xff, 0xff],
      [0x8a, 2, 0, 0x80],
      [0x8a, 0],
      'M',
      [1, 2],
      'e.',
    );
    expect(unpickle(text, 'x', NOTHING)).toEqual([-1, -32768, 0, 513]);
    expect(() => unpickle(pickle([0x80, 2], [0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 1], '.'), 'x', NOTHING)).toThrow(
      '2^53',
    );
  });
});

/** Whatever the bytes are, reading ends with a value or with one coded refusal. */
function neverCrashes(read: () => void): void {
  try {
    read();
  } catch (error) {
    if (!(error instanceof FuscoError)) throw error;
  }
}

/** A few bytes of a file changed, and perhaps its end cut off. */
const mutations = (length: number) =>
  fc.record({
    edits: fc.array(fc.tuple(fc.nat(length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
    cut: fc.option(fc.nat(length), { freq: 4 }),
  });

function mutate(
  bytes: Uint8Array,
  { edits, cut }: { edits: [number, number][]; cut: number | null },
): Uint8Array {
  const changed = bytes.slice(0, cut ?? bytes.length);
  for (const [at, value] of edits) if (at < changed.length) changed[at] = value;
  return changed;
}

describe('mutated files', () => {
  const materialize = (value: unknown) => {
    for (const item of value instanceof Map ? value.values() : [])
      if (item instanceof TorchTensor) item.toArray();
  };

  it('archives', () => {
    const whole = fileOf('views.pt');
    fc.assert(
      fc.property(mutations(whole.length), (mutation) =>
        neverCrashes(() => materialize(readTorch(mutate(whole, mutation), 'x'))),
      ),
      { numRuns: 1500, seed: 6 },
    );
  });

  it('pickles inside sound archives, which no checksum protects', () => {
    const text = fileOf('views.pt');
    // The pickle as the archive stores it: behind its local header.
    const start = Buffer.from(text).indexOf(Buffer.from([0x80, 2, 0x7d]));
    const end = Buffer.from(text).indexOf(Buffer.from('PK'), start);
    const inner = text.slice(start, end);
    const storage = new Uint8Array(24 * 8);
    fc.assert(
      fc.property(mutations(inner.length), (mutation) => {
        const archive = zipSync({
          'v/data.pkl': mutate(inner, mutation),
          'v/data/0': storage,
          'v/data/1': new Uint8Array(0),
        });
        neverCrashes(() => materialize(readTorch(archive, 'x')));
      }),
      { numRuns: 3000, seed: 7 },
    );
  });

  it('safetensors', () => {
    const whole = fileOf('trtllm/rank0_raw.safetensors');
    expect([...readSafetensors(whole, 'x').keys()]).toEqual(['10_3', '10_4', '11_3', '11_4']);
    let refused = 0;
    fc.assert(
      fc.property(mutations(whole.length), (mutation) =>
        neverCrashes(() => {
          refused++;
          readSafetensors(mutate(whole, mutation), 'x');
          refused--;
        }),
      ),
      { numRuns: 1500, seed: 8 },
    );
    expect(refused).toBeGreaterThan(300);
  });
});
