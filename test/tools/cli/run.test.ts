// `fusco run`: the arrays it writes, recomputed here from the input, the weights and what `fusco export` wrote.

import { beforeEach, describe, expect, it } from 'vitest';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  loadInts,
  loadNpy,
  saveNpy,
  saveRoutingByRank,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting, randomFrom } from '../../support/workloads.ts';

useTemporaryDirectory();

const TOPK = 2;
const HIDDEN = 6;
const EVEN = makeRouting({
  family: 'hotExperts',
  seed: 4,
  ranks: 3,
  tokens: 9,
  topk: TOPK,
  experts: 6,
  masked: 0.2,
});
const RAGGED = makeRouting({
  family: 'rankWithoutRows',
  seed: 4,
  ranks: 3,
  tokens: 9,
  topk: TOPK,
  experts: 6,
});

/** 16-bit patterns of the integers -8..8, from the tables of the two formats. */
const F16_INTEGERS = [0, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700, 0x4800];
const BF16_INTEGERS = [0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100];
const pattern = (table: readonly number[], value: number) =>
  (value < 0 ? 0x8000 : 0) | table[Math.abs(value)]!;

interface Exported {
  dstRank: number[];
  dstRow: number[];
  rows: number;
}

async function exported(routing: PlainRouting): Promise<Exported[]> {
  expect((await fusco('export', 'p.fusco', '--out', 'exported')).code).toBe(0);
  return routing.map((tokens, rank) => {
    const file = (name: string) => `exported/rank${rank}.${name}.npy`;
    return {
      dstRank: loadInts(file('dst_rank'), [tokens.length, TOPK]),
      dstRow: loadInts(file('dst_row'), [tokens.length, TOPK]),
      rows: [...(loadNpy(file('expert_offsets')).data as Int32Array)].at(-1)!,
    };
  });
}

/** Receive buffers as rows of numbers: every exported destination has its token's row, all else is zero. */
function expectedRows(plan: readonly Exported[], x: readonly number[][][]): number[][][] {
  const received = plan.map(({ rows }) =>
    Array.from({ length: rows }, () => new Array<number>(HIDDEN).fill(0)),
  );
  plan.forEach(({ dstRank, dstRow }, source) => {
    dstRow.forEach((row, entry) => {
      if (row >= 0) received[dstRank[entry]!]![row] = x[source]![Math.floor(entry / TOPK)]!;
    });
  });
  return received;
}

/** Identity experts: w0 * x + w1 * x in float32, entries without a row left out. */
function expectedSums(
  plan: readonly Exported[],
  x: readonly number[][][],
  w?: readonly number[][],
): number[][][] {
  return x.map((tokens, rank) =>
    tokens.map((row, token) =>
      row.map((value) => {
        let sum = 0;
        for (let entry = token * TOPK; entry < (token + 1) * TOPK; entry++) {
          if (plan[rank]!.dstRow[entry]! < 0) continue;
          sum = Math.fround(sum + Math.fround((w?.[rank]?.[entry] ?? 1) * value));
        }
        return sum;
      }),
    ),
  );
}

async function planOf(routing: PlainRouting, ...options: string[]): Promise<void> {
  saveRoutingByRank('routing', routing, TOPK);
  await fuscoJson('plan', 'routing', '-o', 'p.fusco', '--experts', '6', ...options);
}

/** Numbers for every element, by `draw`. */
function fill(routing: PlainRouting, draw: () => number): number[][][] {
  return routing.map((tokens) => tokens.map(() => Array.from({ length: HIDDEN }, draw)));
}

describe('sums by token', () => {
  it('are planned, shown with their price, proven against the routing, and executed in the order of k', async () => {
    await planOf(EVEN, '--strategy', 'hier', '--ranks-per-node', '1', '--sum', 'token');
    const random = randomFrom(3);
    const x = fill(EVEN, () => Math.fround(random() * 2 - 1));
    saveNpy('x.npy', 'f32', [3, 9, HIDDEN], Float32Array.from(x.flat(2)));
    const run = ['run', '--backend', 'reference', 'p.fusco', '--input', 'x.npy', '--out', 'out', '--check'];
    expect(await fuscoJson(...run)).toMatchObject({ checked: true, mismatch: null });
    const sums = expectedSums(await exported(EVEN), x);
    EVEN.forEach((_, rank) => {
      expect(loadNpy(`out/rank${rank}.combined.npy`).data).toEqual(Float32Array.from(sums[rank]!.flat()));
    });
    expect((await fusco('verify', 'p.fusco', '--routing', 'routing')).code).toBe(0);

    const shown = await fuscoJson('inspect', 'p.fusco');
    expect(shown).toMatchObject({ rules: { sum: 'token' }, sumPrice: { sum: 'token' } });
    const { node, token } = shown.sumPrice as Record<'node' | 'token', { linkBytes: number; us: number }>;
    expect(token.linkBytes).toBeGreaterThan(node.linkBytes);
    const { stdout } = await fusco('inspect', 'p.fusco');
    expect(stdout).toMatch(/\nsum by node +a combine moves /);
    expect(stdout).toMatch(/\nsum by token \* +a combine moves /);
  });

  it('have no price in a flat plan', async () => {
    await planOf(EVEN, '--sum', 'token');
    expect(await fuscoJson('inspect', 'p.fusco')).not.toHaveProperty('sumPrice');
    expect((await fusco('inspect', 'p.fusco')).stdout).not.toContain('sum by');
  });
});

describe('float32 rows', () => {
  const random = randomFrom(21);
  const x = fill(EVEN, () => Math.fround(random() * 2 - 1));
  const w = EVEN.map((tokens) =>
    tokens.flatMap(() => Array.from({ length: TOPK }, () => Math.fround(random()))),
  );
  beforeEach(async () => {
    await planOf(EVEN, '--align', '4', '--capacity', '7');
    saveNpy('x.npy', 'f32', [3, 9, HIDDEN], Float32Array.from(x.flat(2)));
  });

  it('are received and combined unweighted', async () => {
    const { code, stdout, stderr } = await fusco(
      'run',
      '--backend',
      'reference',
      'p.fusco',
      '--input',
      'x.npy',
      '--out',
      'out',
      '--check',
    );
    expect([code, stdout]).toEqual([0, '']);
    expect(stderr).toMatch(
      /^reference backend, flat plan: dispatch .* ms, combine .* ms -> out\n(note: .*\n)?checked: .*\n$/,
    );
    const plan = await exported(EVEN);
    expect(
      plan.some(({ dstRow }) => dstRow.includes(-2)) && plan.some(({ dstRow }) => dstRow.includes(-1)),
    ).toBe(true);
    const received = expectedRows(plan, x);
    const sums = expectedSums(plan, x);
    EVEN.forEach((_, rank) => {
      expect(loadNpy(`out/rank${rank}.recv.npy`)).toEqual({
        dtype: 'f32',
        shape: [plan[rank]!.rows, HIDDEN],
        data: Float32Array.from(received[rank]!.flat()),
      });
      expect(loadNpy(`out/rank${rank}.combined.npy`)).toEqual({
        dtype: 'f32',
        shape: [9, HIDDEN],
        data: Float32Array.from(sums[rank]!.flat()),
      });
    });
  });

  it('are weighted by a float32 array', async () => {
    saveNpy('w.npy', 'f32', [3, 9, TOPK], Float32Array.from(w.flat()));
    const report = await fuscoJson(
      'run',
      '--backend',
      'reference',
      'p.fusco',
      '--input',
      'x.npy',
      '--weights',
      'w.npy',
      '--out',
      'out',
      '--check',
    );
    const { planId } = await fuscoJson('inspect', 'p.fusco');
    expect(report).toMatchObject({ planId, backend: 'reference', out: 'out', checked: true, mismatch: null });
    const sums = expectedSums(await exported(EVEN), x, w);
    EVEN.forEach((_, rank) => {
      expect(loadNpy(`out/rank${rank}.combined.npy`).data).toEqual(Float32Array.from(sums[rank]!.flat()));
    });
  });

  it('are weighted by float16 arrays, one a rank', async () => {
    const quarters = EVEN.map((tokens) => tokens.flatMap((_, token) => [token % 9, 8 - (token % 9)]));
    quarters.forEach((values, rank) => {
      saveNpy(
        `w/rank${rank}.npy`,
        'f16',
        [9, TOPK],
        Uint16Array.from(values, (value) => F16_INTEGERS[value]!),
      );
    });
    await fuscoJson('run', 'p.fusco', '--input', 'x.npy', '--weights', 'w', '--out', 'out', '--check');
    const sums = expectedSums(await exported(EVEN), x, quarters);
    EVEN.forEach((_, rank) => {
      expect(loadNpy(`out/rank${rank}.combined.npy`).data).toEqual(Float32Array.from(sums[rank]!.flat()));
    });
  });
});

describe.each([
  ['f16', 'f16', F16_INTEGERS],
  ['bf16', 'u16', BF16_INTEGERS],
] as const)('%s rows, stored as %s, one file a rank', (_, stored, table) => {
  it('keep their dtype; ranks may have no tokens at all', async () => {
    await planOf(RAGGED);
    const random = randomFrom(5);
    const x = fill(RAGGED, () => Math.floor(random() * 9) - 4);
    expect(x.map((rows) => rows.length)).toEqual([9, 9, 0]);
    x.forEach((rows, rank) => {
      const bits = Uint16Array.from(rows.flat(), (value) => pattern(table, value));
      saveNpy(`x/rank${rank}.npy`, stored, [rows.length, HIDDEN], bits);
    });
    const { code } = await fusco('run', 'p.fusco', '--input', 'x', '--out', 'out', '--check');
    expect(code).toBe(0);
    const plan = await exported(RAGGED);
    const received = expectedRows(plan, x);
    RAGGED.forEach((tokens, rank) => {
      expect(loadNpy(`out/rank${rank}.recv.npy`)).toEqual({
        dtype: stored,
        shape: [plan[rank]!.rows, HIDDEN],
        data: Uint16Array.from(received[rank]!.flat(), (value) => pattern(table, value)),
      });
      // Nothing is masked: twice the row, at most 8.
      expect(loadNpy(`out/rank${rank}.combined.npy`)).toEqual({
        dtype: stored,
        shape: [tokens.length, HIDDEN],
        data: Uint16Array.from(x[rank]!.flat(), (value) => pattern(table, 2 * value)),
      });
    });
  });
});

describe('hidden', () => {
  it('is that of the input, whatever the plan reckons with', async () => {
    await planOf(EVEN, '--hidden', '7168');
    saveNpy('x.npy', 'f32', [3, 9, 1], new Float32Array(27).fill(1));
    await fuscoJson('run', 'p.fusco', '--input', 'x.npy', '--out', 'out', '--check');
    expect(loadNpy('out/rank0.combined.npy').shape).toEqual([9, 1]);
  });
});

it('splits [tokens, hidden] and [tokens, topk] as plan split the routing', async () => {
  saveNpy('routing.npy', 'i32', [4, 2], Int32Array.of(0, 3, 5, 1, 4, 2, 7, 6));
  const rows = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  saveNpy('x.npy', 'f32', [4, 2], rows);
  saveNpy('w.npy', 'f32', [4, 2], new Float32Array(8).fill(0.5));
  const size = ['--hidden', '2', '--dtype', 'f32'];
  await fuscoJson('plan', 'routing.npy', '--ranks', '3', '--experts', '8', ...size, '-o', 'p.fusco');
  const run = ['run', 'p.fusco', '--input', 'x.npy', '--weights', 'w.npy', '--out', 'out', '--check'];
  expect(await fuscoJson(...run)).toMatchObject({ checked: true });
  // Two tokens, one and one: identity experts with weights of a half return their input.
  const combined = [0, 1, 2].map((rank) => [
    ...(loadNpy(`out/rank${rank}.combined.npy`).data as Float32Array),
  ]);
  expect(combined).toEqual([
    [1, 2, 3, 4],
    [5, 6],
    [7, 8],
  ]);
});

describe('a plan of fp8 rows', () => {
  // One token per rank; codes 0x38 + i stand for 1 + i/8, 0x00 for 0.
  const CODES = [
    [0x38, 0x3c, 0x00],
    [0x40, 0xb8, 0x38],
  ];
  const VALUES = [
    [1, 1.5, 0],
    [2, -1, 1],
  ];
  const bf16 = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;

  beforeEach(async () => {
    saveRoutingByRank('routing', [[[0, 1]], [[1, 0]]], 2);
    const ids = ['--experts', '2', '--no-multi-hot'];
    await fusco('plan', 'routing', ...ids, '--dtype', 'fp8', '--hidden', '3', '-o', 'p.fusco');
    saveNpy('x.npy', 'u8', [2, 1, 3], Uint8Array.from(CODES.flat()));
  });

  it.each(['reference', 'auto'])(
    'is executed: codes and scales travel, sums are bf16 (%s)',
    async (backend) => {
      saveNpy('s.npy', 'f32', [2, 1, 1], Float32Array.of(2, 0.5));
      const args = ['run', 'p.fusco', '--input', 'x.npy', '--scales', 's.npy', '--out', 'out', '--check'];
      const { code, stderr } = await fusco(...args, '--backend', backend);
      expect([code, stderr.split('\n').slice(1)]).toEqual([0, ['checked: every byte is correct', '']]);
      expect([...(loadNpy('out/rank0.recv.npy').data as Uint8Array)]).toEqual(CODES.flat());
      expect([...(loadNpy('out/rank1.recv_scales.npy').data as Float32Array)]).toEqual([2, 0.5]);
      // Both experts return their input, so each token comes back twice.
      const combined = loadNpy('out/rank1.combined.npy');
      expect([combined.dtype, ...combined.data]).toEqual([
        'u16',
        ...VALUES[1]!.map((value) => bf16(2 * 0.5 * value)),
      ]);
    },
  );

  it('has scales of 1 unless they are given, and combines in the dtype of the plan', async () => {
    await fusco(
      'plan',
      'routing',
      '--experts',
      '2',
      '--no-multi-hot',
      '--dtype',
      'fp8',
      '--combine-dtype',
      'f32',
      '--hidden',
      '3',
      '-o',
      'p.fusco',
    );
    expect((await fusco('run', 'p.fusco', '--input', 'x.npy', '--out', 'out', '--check')).code).toBe(0);
    const combined = loadNpy('out/rank0.combined.npy');
    expect([combined.dtype, ...combined.data]).toEqual(['f32', ...VALUES[0]!.map((value) => 2 * value)]);
  });

  it('refuses other inputs and scales of another shape', async () => {
    saveNpy('f.npy', 'f32', [2, 1, 3], new Float32Array(6));
    expectRefusal(
      await fusco('run', 'p.fusco', '--input', 'f.npy', '--out', 'out'),
      'E_SHAPE',
      /not u8 \[1, 3\]/,
    );
    saveNpy('s.npy', 'f32', [2, 1, 2], new Float32Array(4));
    const args = ['run', 'p.fusco', '--input', 'x.npy', '--scales', 's.npy', '--out', 'out'];
    expectRefusal(await fusco(...args), 'E_SHAPE', /scales of rank 0 is f32 .*not f32 \[1, 1\]/);
  });
});

it('says so where the rows are not those that the plan names', async () => {
  saveRoutingByRank('routing', [[[0]], [[1]]], 1);
  await fusco('plan', 'routing', '--experts', '2', '-o', 'p.fusco');
  saveNpy('x.npy', 'f32', [2, 1, 4], new Float32Array(8));
  const { code, stderr } = await fusco('run', 'p.fusco', '--input', 'x.npy', '--out', 'out');
  expect(code).toBe(0);
  expect(stderr).toMatch(
    /^note: the plan says rows of 7168 x bf16, the input has 4 x f32; a plan counts rows/m,
  );
});
