// A combine gradient as two calls, for backends that have no such exchange.

import { describe, expect, it } from 'vitest';
import { addReports, bothSettled, combineGradientParts } from '../../../executor/backends/combineGradient.ts';
import type { CombineGradientCall, ExchangeReport, WireReport } from '../../../executor/backends/types.ts';
import { createGroup } from '../../../executor/group.ts';
import { f32, planOf, poisoned } from '../../support/buffers.ts';

describe('a combine gradient', () => {
  it('has the bits of its two parts', async () => {
    const plan = await planOf(
      [
        [
          [0, 1],
          [2, -1],
        ],
        [[3, 0]],
      ],
      2,
      { experts: 4, align: 2 },
    );
    using group = await createGroup({ ranks: 2, backend: 'reference' });
    using exchange = await group.prepare(plan);
    const rows = exchange.recvRows;
    const call = (): CombineGradientCall => ({
      ...{ dtype: 'f32', rowBytes: 8, outputGradient: [f32(1, 2, 3, 4), f32(5, 6)] },
      from: rows.map((count) => Float32Array.from({ length: 2 * count }, (_, i) => i / 8)),
      ...{ weights: [f32(2, 3, 4, 5), f32(6, 7)], to: poisoned(rows.map((count) => 8 * count)) },
      ...{ weightsGradient: poisoned([16, 8]), origins: poisoned(rows.map((count) => 12 * count)) },
    });
    const [whole, parts] = [call(), call()];
    await exchange.combineGradient(whole);
    const { dispatch, weightGradient } = combineGradientParts(parts);
    await exchange.dispatch(dispatch);
    await exchange.weightGradient(weightGradient);
    expect(parts).toEqual(whole);
  });

  it('without origins dispatches none', () => {
    const parts = combineGradientParts({
      ...{
        dtype: 'f32',
        rowBytes: 4,
        outputGradient: [],
        from: [],
        weights: [],
        to: [],
        weightsGradient: [],
      },
    });
    expect(parts.dispatch).not.toHaveProperty('origins');
  });
});

const wire = (n: number): WireReport => ({
  ...{
    sentBytes: n,
    receivedBytes: 2 * n,
    directBytes: 3 * n,
    rounds: 1,
    slices: 2,
    readyNanoseconds: 5 * n,
  },
  peers: [0, 1].map((rank) => ({
    ...{ rank, sentBytes: n, receivedBytes: n, waitNanoseconds: rank * n, wireNanoseconds: 7 * n },
  })),
});
const report = (n: number): ExchangeReport => ({
  ...{ backend: 'nccl', strategy: 'flat', nanoseconds: n, startedAt: n, bytesRead: 10 * n, bytesWritten: n },
  wire: wire(n),
});

describe('the report of two calls', () => {
  it('starts with the first, and adds up bytes, times and peers', () => {
    expect(addReports(report(1), report(2))).toEqual({
      ...{ ...report(3), startedAt: 1 },
      wire: { ...wire(3), rounds: 2, slices: 4 },
    });
  });

  it('has no wire where none travelled', () => {
    const { wire: _, ...local } = report(1);
    expect(addReports(local, local)).toEqual({ ...local, nanoseconds: 2, bytesRead: 20, bytesWritten: 2 });
  });
});

describe('two calls', () => {
  it('have both ended before one of them fails', async () => {
    let hasEnded = false;
    const late = new Promise<void>((resolve) => setTimeout(resolve, 20)).then(() => {
      hasEnded = true;
    });
    await expect(bothSettled(Promise.reject(new Error('first')), late)).rejects.toThrow('first');
    expect(hasEnded).toBe(true);
  });
});
