import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ErrorCode, FuscoError } from '../../../planner/errors.ts';
import { encodeNpy, type NdDtype } from '../../../tools/readers/npy.ts';
import { readPerRank, readRouting } from '../../../tools/readers/numpyRouting.ts';

const FIXTURES = fileURLToPath(new URL('../../fixtures/npy', import.meta.url));

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'fusco-routing-'));
});
afterEach(() => rm(dir, { recursive: true }));

/** A .npy in the test's directory. */
async function save(name: string, dtype: NdDtype, shape: number[], data: ArrayBufferView): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, Buffer.concat(encodeNpy(dtype, shape, data)));
  return path;
}

/** i32 0, 1, 2, … of the given shape. */
function range(name: string, shape: number[]): Promise<string> {
  const count = shape.reduce((product, n) => product * n, 1);
  return save(
    name,
    'i32',
    shape,
    Int32Array.from({ length: count }, (_, i) => i),
  );
}

async function failure(run: Promise<unknown>): Promise<{ code: ErrorCode; message: string }> {
  try {
    await run;
  } catch (error) {
    if (error instanceof FuscoError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error('accepted');
}

describe('readRouting of one array', () => {
  test('[ranks, tokens, topk] gives each rank its block', async () => {
    const path = await range('r.npy', [2, 3, 2]);
    const tables = [
      { ids: new Int32Array([0, 1, 2, 3, 4, 5]), tokens: 3, topk: 2 },
      { ids: new Int32Array([6, 7, 8, 9, 10, 11]), tokens: 3, topk: 2 },
    ];
    expect(await readRouting(path)).toEqual(tables);
    expect(await readRouting(path, 2)).toEqual(tables);
  });

  test('[ranks, tokens, topk] with another number of ranks is E_RANKS', async () => {
    const path = await range('r.npy', [2, 3, 2]);
    expect(await failure(readRouting(path, 3))).toEqual({
      code: 'E_RANKS',
      message: `${path}: contains 2 ranks, not the 3 requested`,
    });
  });

  test.each([0, 4097])('%i ranks on the first axis are E_RANKS', async (ranks) => {
    const path = await range('r.npy', [ranks, 1, 0]);
    expect(await failure(readRouting(path))).toEqual({
      code: 'E_RANKS',
      message: `${path}: ${ranks} ranks are not in 1..4096`,
    });
  });

  test('[tokens, topk] is split into contiguous blocks, the first ones a token longer', async () => {
    const path = await range('r.npy', [5, 2]);
    expect(await readRouting(path, 3)).toEqual([
      { ids: new Int32Array([0, 1, 2, 3]), tokens: 2, topk: 2 },
      { ids: new Int32Array([4, 5, 6, 7]), tokens: 2, topk: 2 },
      { ids: new Int32Array([8, 9]), tokens: 1, topk: 2 },
    ]);
  });

  test('[tokens, topk] leaves the last ranks empty where there are fewer tokens than ranks', async () => {
    const tables = await readRouting(await range('r.npy', [2, 1]), 4);
    expect(tables.map(({ tokens }) => tokens)).toEqual([1, 1, 0, 0]);
    expect(tables.map(({ ids }) => [...ids])).toEqual([[0], [1], [], []]);
  });

  test('[tokens, topk] without a number of ranks is E_RANKS and asks for --ranks', async () => {
    const path = await range('r.npy', [5, 2]);
    expect(await failure(readRouting(path))).toEqual({
      code: 'E_RANKS',
      message: `${path}: shape (5, 2) does not say how many ranks share its tokens; give --ranks`,
    });
  });

  test.each([[[6]], [[]], [[1, 1, 2, 3]]])('shape %j is E_ROUTING_SHAPE', async (shape) => {
    expect((await failure(readRouting(await range('r.npy', shape), 1))).code).toBe('E_ROUTING_SHAPE');
  });

  test.each([
    ['f16', new Uint16Array(2)],
    ['f32', new Float32Array(2)],
    ['f64', new Float64Array(2)],
  ] as const)('%s is E_ROUTING_DTYPE and names the file', async (dtype, data) => {
    const path = await save('r.npy', dtype, [1, 2], data);
    expect(await failure(readRouting(path, 1))).toEqual({
      code: 'E_ROUTING_DTYPE',
      message: `${path}: ids are ${dtype}, not integers`,
    });
  });

  test('blocks are views of one buffer', async () => {
    const [first, second] = await readRouting(await range('r.npy', [2, 3, 2]));
    expect(first!.ids.buffer).toBe(second!.ids.buffer);
  });

  test.each([0, 4097, 1.5])('--ranks %d is E_OPTION', async (ranks) => {
    expect((await failure(readRouting(await range('r.npy', [5, 2]), ranks))).code).toBe('E_OPTION');
  });

  test('64-bit ids by numpy', async () => {
    expect(await readRouting(join(FIXTURES, 'i64-v2.npy'), 2)).toEqual([
      { ids: new BigInt64Array([-1n, 0n, 1n]), tokens: 1, topk: 3 },
      { ids: new BigInt64Array([2n, 3n, 4n]), tokens: 1, topk: 3 },
    ]);
  });
});

describe('readRouting of an archive by numpy', () => {
  test('with one array reads like a .npy, whatever the names of the array and the file', async () => {
    const path = join(dir, 'routing.bin');
    await symlink(join(FIXTURES, 'stored.npz'), path);
    expect(await readRouting(path, 2)).toEqual([
      { ids: new Int32Array([-1, 0, 1]), tokens: 1, topk: 3 },
      { ids: new Int32Array([2, 3, 4]), tokens: 1, topk: 3 },
    ]);
    expect((await failure(readRouting(path))).message).toContain(
      'routing.bin/ids.npy: shape (2, 3) does not say',
    );
  });

  test('with rank0, rank1, … has one rank per array', async () => {
    const path = join(FIXTURES, 'compressed.npz');
    expect(await readRouting(path)).toEqual([
      { ids: new Int16Array([0, 1, 2, 3]), tokens: 2, topk: 2 },
      { ids: new Int16Array([0, 1, 2, 3, 4, 5, 6, 7]), tokens: 4, topk: 2 },
    ]);
    expect(await failure(readRouting(path, 1))).toEqual({
      code: 'E_RANKS',
      message: `${path}: contains 2 ranks, not the 1 requested`,
    });
  });
});

describe('readRouting of an archive', () => {
  /** A .npz of i32 0, 1, 2, … arrays. */
  async function archive(shapes: Record<string, number[]>): Promise<string> {
    const files = Object.entries(shapes).map(([name, shape]): [string, Uint8Array] => {
      const count = shape.reduce((product, n) => product * n, 1);
      const data = Int32Array.from({ length: count }, (_, i) => i);
      return [`${name}.npy`, new Uint8Array(Buffer.concat(encodeNpy('i32', shape, data)))];
    });
    const path = join(dir, 'r.npz');
    await writeFile(path, zipSync(Object.fromEntries(files)));
    return path;
  }

  test('of one array rank0: two axes are one rank, three axes are all ranks', async () => {
    const one = await archive({ rank0: [2, 1] });
    expect(await readRouting(one)).toEqual([{ ids: new Int32Array([0, 1]), tokens: 2, topk: 1 }]);
    expect((await failure(readRouting(one, 2))).code).toBe('E_RANKS');
    expect(await readRouting(await archive({ rank0: [2, 1, 1] }))).toEqual([
      { ids: new Int32Array([0]), tokens: 1, topk: 1 },
      { ids: new Int32Array([1]), tokens: 1, topk: 1 },
    ]);
  });

  test('orders ranks by number, not by their place in the archive', async () => {
    const tables = await readRouting(await archive({ rank1: [1, 1], rank0: [2, 1] }));
    expect(tables.map(({ tokens }) => tokens)).toEqual([2, 1]);
  });

  test.each([
    [{ a: [1, 1], b: [1, 1] }, '2 arrays, "a" among them, instead of rank0, rank1, …'],
    [{ rank0: [1, 1], ranks: [1, 1] }, '2 arrays, "ranks" among them, instead of rank0, rank1, …'],
    [{ rank0: [1, 1], rank2: [1, 1] }, 'rank1 is missing, the highest is rank2'],
  ])('of arrays %j is E_RANKS', async (shapes, message) => {
    const path = await archive(shapes);
    expect(await failure(readRouting(path))).toEqual({ code: 'E_RANKS', message: `${path}: ${message}` });
  });

  test('without arrays is E_FORMAT', async () => {
    const path = await archive({});
    expect(await failure(readRouting(path))).toEqual({
      code: 'E_FORMAT',
      message: `${path}: the archive holds no array`,
    });
  });
});

describe('readRouting of a directory', () => {
  test('has as many ranks as files, in the order of their numbers, of any length', async () => {
    for (let rank = 0; rank < 11; rank++) {
      await save(`rank${rank}.npy`, 'u8', [rank, 1], new Uint8Array(rank).fill(rank));
    }
    const tables = await readRouting(dir);
    expect(tables.map(({ tokens }) => tokens)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(tables[10]!.ids).toEqual(new Uint8Array(10).fill(10));
    expect((await failure(readRouting(dir, 12))).code).toBe('E_RANKS');
  });

  test('leaves other files alone', async () => {
    await range('rank0.npy', [1, 2]);
    await range('rank0.weights.npy', [1, 2]);
    await writeFile(join(dir, 'README.md'), '');
    await mkdir(join(dir, 'rank7'));
    expect(await readRouting(dir)).toEqual([{ ids: new Int32Array([0, 1]), tokens: 1, topk: 2 }]);
  });

  test.each([
    [['rank0.npy', 'rank2.npy'], 'rank1 is missing, the highest is rank2'],
    [['rank1.npy'], 'rank0 is missing, the highest is rank1'],
    [['rank00.npy'], 'rank00 is not named rank0'],
    [['rank4096.npy'], 'rank4096 exceeds rank4095'],
    [['ids.npy'], 'the directory holds no rank0.npy, rank1.npy, …'],
    [[], 'the directory holds no rank0.npy, rank1.npy, …'],
  ])('%j is E_RANKS', async (names, message) => {
    for (const name of names) await range(name, [1, 2]);
    expect(await failure(readRouting(dir))).toEqual({ code: 'E_RANKS', message: `${dir}: ${message}` });
  });

  test('names the file of another shape, of a float dtype and of a damaged one', async () => {
    await range('rank0.npy', [1, 2]);
    const path = await range('rank1.npy', [2]);
    expect(await failure(readRouting(dir))).toEqual({
      code: 'E_ROUTING_SHAPE',
      message: `${path}: shape (2,) is not (tokens, topk)`,
    });
    await save('rank1.npy', 'f32', [1, 2], new Float32Array(2));
    expect(await failure(readRouting(dir))).toEqual({
      code: 'E_ROUTING_DTYPE',
      message: `${path}: ids are f32, not integers`,
    });
    await writeFile(path, '');
    expect(await failure(readRouting(dir))).toEqual({
      code: 'E_FORMAT',
      message: `${path}: the file is empty`,
    });
  });

  test('refuses a rank{r}.npy that is itself a directory with E_FILE_READ', async () => {
    await mkdir(join(dir, 'rank0.npy'));
    expect(await failure(readRouting(dir))).toEqual({
      code: 'E_FILE_READ',
      message: `${join(dir, 'rank0.npy')}: is not a regular file`,
    });
  });
});

describe('readRouting of a path that cannot be read', () => {
  test('is E_FILE_NOT_FOUND with the path', async () => {
    const path = join(dir, 'absent.npy');
    expect(await failure(readRouting(path, 2))).toEqual({
      code: 'E_FILE_NOT_FOUND',
      message: `${path}: no such file or directory`,
    });
  });

  test('is E_FILE_READ below a file', async () => {
    const path = join(await range('r.npy', [1, 2]), 'x.npy');
    expect(await failure(readRouting(path))).toEqual({
      code: 'E_FILE_READ',
      message: `${path}: a part of the path is not a directory`,
    });
  });
});

describe('readPerRank', () => {
  const input = new Float32Array([1, 2, 3, 4, 5, 6, 7, 8]);

  test('splits [ranks, tokens, hidden] into views', async () => {
    const path = await save('x.npy', 'f32', [2, 1, 4], input);
    const blocks = await readPerRank(path, [2, 2], 'input');
    expect(blocks).toEqual([
      { dtype: 'f32', shape: [1, 4], data: new Float32Array([1, 2, 3, 4]) },
      { dtype: 'f32', shape: [1, 4], data: new Float32Array([5, 6, 7, 8]) },
    ]);
    expect(blocks[0]!.data.buffer).toBe(blocks[1]!.data.buffer);
  });

  test('splits [tokens, hidden] by the tokens of the ranks', async () => {
    const path = await save('x.npy', 'f32', [4, 2], input);
    const blocks = await readPerRank(path, [2, 0, 1, 1], 'input');
    expect(blocks.map(({ shape, data }) => [shape, [...data]])).toEqual([
      [
        [2, 2],
        [1, 2, 3, 4],
      ],
      [[0, 2], []],
      [
        [1, 2],
        [5, 6],
      ],
      [
        [1, 2],
        [7, 8],
      ],
    ]);
    expect(await failure(readPerRank(path, [2, 1], 'input'))).toEqual({
      code: 'E_SHAPE',
      message: `${path}: input: shape (4, 2) has 4 rows, the ranks have 3 tokens`,
    });
  });

  test('reads a directory whose ranks have different token counts', async () => {
    await save('rank0.npy', 'f32', [2, 4], input);
    await save('rank1.npy', 'f32', [0, 4], new Float32Array(0));
    expect(await readPerRank(dir, [2, 2], 'input')).toEqual([
      { dtype: 'f32', shape: [2, 4], data: input },
      { dtype: 'f32', shape: [0, 4], data: new Float32Array(0) },
    ]);
  });

  test('reads an archive of one array per rank', async () => {
    const blocks = await readPerRank(join(FIXTURES, 'compressed.npz'), [2, 2], 'input');
    expect(blocks.map(({ shape }) => shape)).toEqual([
      [2, 2],
      [4, 2],
    ]);
  });

  test('refuses another number of ranks with E_RANKS', async () => {
    const path = await save('x.npy', 'f32', [2, 1, 4], input);
    expect(await failure(readPerRank(path, [2, 2, 2, 2], 'input'))).toEqual({
      code: 'E_RANKS',
      message: `${path}: contains 2 ranks, not the 4 requested`,
    });
    await save('rank0.npy', 'f32', [2, 4], input);
    expect(await failure(readPerRank(dir, [2, 2], 'input'))).toEqual({
      code: 'E_RANKS',
      message: `${dir}: contains 1 rank, not the 2 requested`,
    });
  });

  test('refuses another number of axes with E_SHAPE', async () => {
    const path = await save('x.npy', 'f32', [8], input);
    expect(await failure(readPerRank(path, [2, 2], 'weights'))).toEqual({
      code: 'E_SHAPE',
      message: `${path}: weights: shape (8,) is neither (ranks, tokens, columns) nor (tokens, columns)`,
    });
    const file = await save('rank0.npy', 'f32', [8], input);
    expect(await failure(readPerRank(dir, [2], 'input'))).toEqual({
      code: 'E_SHAPE',
      message: `${file}: input of rank 0: shape (8,) does not have two axes`,
    });
  });

  test.each([
    ['u16', [2, 4], new Uint16Array(8), 'u16 (2, 4)'],
    ['f32', [4, 2], input, 'f32 (4, 2)'],
  ] as const)('refuses a rank of another dtype or last axis: %s %j', async (dtype, shape, data, found) => {
    await save('rank0.npy', 'f32', [2, 4], input);
    const file = await save('rank1.npy', dtype, [...shape], data);
    expect(await failure(readPerRank(dir, [2, 2], 'input'))).toEqual({
      code: 'E_SHAPE',
      message: `${file}: input of rank 1: ${found} has another dtype or last axis than rank 0's f32 (2, 4)`,
    });
  });
});
