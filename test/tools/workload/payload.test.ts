// Rows that identify their token, and checksums of tables.

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { bf16ToFloat, f16ToFloat } from '../../../executor/numeric.ts';
import { makeWorkload } from '../../../tools/workload/families.ts';
import { checksumOf, payloadRows } from '../../../tools/workload/payload.ts';
import { fuscoJson, loadNpy, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

describe('a row of a workload', () => {
  it('says rank, token, step and place in each group of eight elements', () => {
    const { dtype, shape, data } = payloadRows(0x0102, 0x10204, 18, 'f32', 259);
    expect([dtype, shape]).toEqual(['f32', [0x10204, 18]]);
    // The last token, whose last group is incomplete.
    const row = [165, 2, 1, 3, 2, 1, 3];
    expect([...data.subarray(-18)]).toEqual([...row, 0, ...row, 1, 165, 2]);
  });

  it.each([
    ['bf16', bf16ToFloat],
    ['f16', f16ToFloat],
    ['fp8', (bits: number) => bits],
  ] as const)('has the same numbers in %s', (dtype, decode) => {
    const plain = [...payloadRows(255, 300, 16, 'f32', 200).data];
    expect([...payloadRows(255, 300, 16, dtype, 200).data].map(decode)).toEqual(plain);
  });

  it('is written by the command, a file a rank', async () => {
    const sizes = ['--ranks', '3', '--tokens', '4', '--topk', '1', '--experts', '3'];
    const rows = ['--rows', 'x', '--hidden', '10', '--step', '7'];
    await fuscoJson('workload', 'empty-rank', ...sizes, '-o', 'ids', ...rows);
    const found = [0, 1, 2].map((rank) => loadNpy(`x/rank${rank}.npy`));
    expect(found.map(({ dtype, shape }) => [dtype, shape])).toEqual([
      ['u16', [4, 10]],
      ['u16', [4, 10]],
      ['u16', [0, 10]],
    ]);
    const { data } = payloadRows(1, 4, 10, 'bf16', 7);
    expect(found[1]!.data).toEqual(data);
  });
});

describe('the checksum of a table', () => {
  it('is SHA-256 of tokens, topk and ids as 32-bit integers, whatever their dtype', async () => {
    const expected = createHash('sha256')
      .update(Int32Array.of(2, 2, 5, -1, 0, 3))
      .digest('hex');
    const values = [5, -1, 0, 3];
    expect(await checksumOf([{ ids: Int16Array.from(values), tokens: 2, topk: 2 }])).toBe(expected);
    expect(await checksumOf([{ ids: BigInt64Array.from(values, BigInt), tokens: 2, topk: 2 }])).toBe(
      expected,
    );
  });

  it('is printed for every table and for all of them', async () => {
    const sizes = { seed: 3, ranks: 2, tokens: 5, topk: 2, experts: 6 };
    const tables = makeWorkload({ family: 'ragged', ...sizes });
    const options = ['--seed', '3', '--ranks', '2', '--tokens', '5', '--topk', '2', '--experts', '6'];
    const { checksum, checksums } = await fuscoJson('workload', 'ragged', ...options, '-o', 'ids');
    expect(checksum).toBe(await checksumOf(tables));
    expect(checksums).toEqual([await checksumOf([tables[0]!]), await checksumOf([tables[1]!])]);
  });
});

describe('the family idle-rank', () => {
  it('sends nothing to the last rank', () => {
    const tables = makeWorkload({ family: 'idle-rank', seed: 1, ranks: 4, tokens: 50, topk: 3, experts: 8 });
    const ids = tables.flatMap((table) => [...table.ids].map(Number));
    expect([...new Set(ids)].sort()).toEqual([0, 1, 2, 3, 4, 5]);
  });
});
