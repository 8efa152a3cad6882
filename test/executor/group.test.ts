import { afterEach, describe, expect, it } from 'vitest';
import type {
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  Memory,
  WeightGradientCall,
} from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group } from '../../executor/group.ts';
import {
  decodePlan,
  type ErrorCode,
  encodePlan,
  type VerifiedPlan,
  verifyPlan,
} from '../../planner/index.ts';
import { nodeSha256 } from '../../planner/node.ts';
import { bytesOf, f32, floats, planOf, poisoned } from '../support/buffers.ts';
import { toTables } from '../support/workloads.ts';

// Rank 0 sends token 0 to experts 0 and 1, token 1 to expert 1 alone; rank 1 sends its token to expert 0 as k 1.
const ROUTING = [
  [
    [0, 1],
    [1, -1],
  ],
  [[-1, 0]],
];
const TOKENS = [2, 1];
const RECV_ROWS = [2, 2];
const ENTRIES = [4, 2];

const code = (expected: ErrorCode) => expect.objectContaining({ name: 'FuscoError', code: expected });

let group: Group | undefined;
afterEach(() => group?.close());

async function open(): Promise<{ group: Group; plan: VerifiedPlan; exchange: Exchange }> {
  group = await createGroup({ ranks: 2, backend: 'reference' });
  const plan = group.plan(toTables(ROUTING, 2), { experts: 2 });
  return { group, plan, exchange: await group.prepare(plan) };
}

const memory = (rows: readonly number[], rowBytes: number) => rows.map((n) => new Uint8Array(n * rowBytes));

/** A call that fits the plan. */
function dispatchCall(change: Partial<DispatchCall['payloads'][number]> = {}): DispatchCall {
  return { payloads: [{ rowBytes: 4, from: memory(TOKENS, 4), to: memory(RECV_ROWS, 4), ...change }] };
}

function combineCall(change: Partial<CombineCall> = {}): CombineCall {
  return { dtype: 'f32', rowBytes: 4, from: memory(RECV_ROWS, 4), to: memory(TOKENS, 4), ...change };
}

function gradientCall(change: Partial<WeightGradientCall> = {}): WeightGradientCall {
  return {
    dtype: 'f32',
    rowBytes: 4,
    outputGradient: memory(TOKENS, 4),
    from: memory(RECV_ROWS, 4),
    to: memory(ENTRIES, 4),
    ...change,
  };
}

describe('a group', () => {
  it('says who it is, and that all its ranks live here', async () => {
    group = await createGroup({ ranks: 3, backend: 'reference' });
    expect([group.ranks, group.localRanks, group.backend]).toEqual([3, [0, 1, 2], 'reference']);
  });

  it.each([0, -1, 1.5, 4097, Number.NaN])('of %s ranks is refused', async (ranks) => {
    await expect(createGroup({ ranks })).rejects.toThrow(code('E_OPTION'));
  });

  it('of an unknown backend is refused', async () => {
    await expect(createGroup({ ranks: 1, backend: 'quantum' as 'reference' })).rejects.toThrow(
      code('E_BACKEND'),
    );
  });

  it('plans only routing of as many ranks as it has', async () => {
    const { group } = await open();
    expect(() => group.plan(toTables([...ROUTING, [[0, 1]]], 2), { experts: 2 })).toThrow(code('E_RANKS'));
  });

  it('prepares only plans of as many ranks as it has', async () => {
    const { group } = await open();
    const other = await planOf([[[0]]], 1, { experts: 1 });
    await expect(group.prepare(other)).rejects.toThrow(code('E_RANKS'));
  });

  it('refuses a decoded plan until it is verified', async () => {
    const { group, plan } = await open();
    const { bytes } = await encodePlan(plan, nodeSha256);
    const decoded = (await decodePlan(bytes, nodeSha256)).plan;
    await expect(group.prepare(decoded as VerifiedPlan)).rejects.toThrow(code('E_UNVERIFIED'));
    // Neither does a copy of a verified plan inherit its standing.
    await expect(group.prepare({ ...plan })).rejects.toThrow(code('E_UNVERIFIED'));
    const exchange = await group.prepare(verifyPlan(decoded));
    const to = poisoned([2, 2]);
    await exchange.dispatch({
      payloads: [{ rowBytes: 1, from: [Uint8Array.of(1, 2), Uint8Array.of(3)], to }],
    });
    expect(to.map(bytesOf)).toEqual([
      [1, 3],
      [1, 2],
    ]);
  });
});

describe('an exchange', () => {
  it('is planned once and used many times, each time from the buffers as they are', async () => {
    const { exchange } = await open();
    const x = [new Float32Array(2), new Float32Array(1)];
    const y = [new Float32Array(2), new Float32Array(2)];
    const out = [new Float32Array(2), new Float32Array(1)];
    for (let step = 1; step <= 20; step++) {
      x[0]!.set([step, 10 * step]);
      x[1]!.set([100 * step]);
      await exchange.dispatch({ payloads: [{ rowBytes: 4, from: x, to: y }] });
      expect(y.map((rows) => [...rows])).toEqual([
        [step, 100 * step],
        [step, 10 * step],
      ]);
      await exchange.combine({ dtype: 'f32', rowBytes: 4, from: y, to: out });
      expect(out.map((rows) => [...rows])).toEqual([[2 * step, 10 * step], [100 * step]]);
    }
  });

  it('works through any view: Buffer, DataView, shared memory, part of a larger buffer', async () => {
    const { exchange } = await open();
    const shared = new Uint8Array(new SharedArrayBuffer(16), 8, 8);
    const large = new ArrayBuffer(32);
    const from = [Buffer.from(f32(1, 2)), new DataView(f32(9, 3, 9).buffer, 4, 4)];
    const to = [shared, new Float64Array(large, 16, 1)];
    await exchange.dispatch({ payloads: [{ rowBytes: 4, from, to }] });
    expect(floats(shared)).toEqual([1, 3]);
    expect([...new Float32Array(large)]).toEqual([0, 0, 0, 0, 1, 2, 0, 0]);
  });

  it('takes buffers that are larger than needed, back to back in one allocation', async () => {
    const { exchange } = await open();
    const pool = new Uint8Array(64);
    const part = (offset: number, bytes: number) => pool.subarray(offset, offset + bytes);
    pool.set([1, 2, 3]);
    const from: Memory[] = [part(0, 2), part(2, 1)];
    // The output's used part starts where the input ends; its unused tail may even run into rank 1's output.
    const to: Memory[] = [part(3, 20), part(5, 59)];
    await exchange.dispatch({ payloads: [{ rowBytes: 1, from, to }] });
    expect([...part(0, 8)]).toEqual([1, 2, 3, 1, 3, 1, 2, 0]);
  });
});

describe('closing', () => {
  it('ends an exchange, and twice is harmless', async () => {
    const { group, plan, exchange } = await open();
    exchange.close();
    exchange.close();
    await expect(exchange.dispatch(dispatchCall())).rejects.toThrow(code('E_CLOSED'));
    await expect(exchange.combine(combineCall())).rejects.toThrow(code('E_CLOSED'));
    await expect(exchange.weightGradient(gradientCall())).rejects.toThrow(code('E_CLOSED'));
    // The group goes on.
    await (await group.prepare(plan)).dispatch(dispatchCall());
  });

  it('ends a group with its exchanges, and twice is harmless', async () => {
    const { group, plan, exchange } = await open();
    group.close();
    group.close();
    await expect(exchange.dispatch(dispatchCall())).rejects.toThrow(code('E_CLOSED'));
    await expect(group.prepare(plan)).rejects.toThrow(code('E_CLOSED'));
    await expect(group.check()).rejects.toThrow(code('E_CLOSED'));
    expect(() => group.plan(toTables(ROUTING, 2), { experts: 2 })).toThrow(code('E_CLOSED'));
  });

  it('happens at the end of a `using` block', async () => {
    let kept: Exchange;
    let keptGroup: Group;
    {
      using inner = await createGroup({ ranks: 2, backend: 'reference' });
      using exchange = await inner.prepare(inner.plan(toTables(ROUTING, 2), { experts: 2 }));
      await exchange.dispatch(dispatchCall());
      [kept, keptGroup] = [exchange, inner];
    }
    await expect(kept.dispatch(dispatchCall())).rejects.toThrow(code('E_CLOSED'));
    expect(() => keptGroup.plan(toTables(ROUTING, 2), { experts: 2 })).toThrow(code('E_CLOSED'));
  });
});

describe('buffers are refused before anything moves', () => {
  const shared = new Uint8Array(64);
  const at = (offset: number, bytes: number) => shared.subarray(offset, offset + bytes);
  const fine = memory(RECV_ROWS, 4);

  const badDispatches: [string, string, DispatchCall][] = [
    ['too few inputs', 'from: 1 buffers for 2 ranks', dispatchCall({ from: memory([2], 4) })],
    ['too many outputs', 'to: 3 buffers for 2 ranks', dispatchCall({ to: memory([2, 2, 2], 4) })],
    [
      'an input one byte short',
      'from of rank 1 has 3 bytes, 4 are needed',
      dispatchCall({ from: [at(0, 8), at(8, 3)] }),
    ],
    [
      'an output one byte short',
      'to of rank 0 has 7 bytes, 8 are needed',
      dispatchCall({ to: [at(0, 7), at(8, 8)] }),
    ],
    ['an entry payload of token size', 'rank 0 has 8 bytes, 16 are needed', dispatchCall({ per: 'entry' })],
    ['outputs that share a byte', 'overlaps', dispatchCall({ to: [at(0, 8), at(7, 8)] })],
    ['one output twice', 'overlaps', dispatchCall({ to: [at(0, 8), at(0, 8)] })],
    [
      'an output over an input',
      'overlaps',
      dispatchCall({ from: [at(0, 8), at(8, 4)], to: [at(11, 8), at(32, 8)] }),
    ],
    [
      'an input inside an output',
      'overlaps',
      dispatchCall({ from: [at(34, 8), at(0, 4)], to: [at(8, 8), at(33, 31)] }),
    ],
    [
      'no buffer',
      'neither a typed array nor',
      dispatchCall({ from: [[1, 2] as unknown as Memory, at(0, 4)] }),
    ],
    ['null', 'neither a typed array nor', dispatchCall({ from: [null as unknown as Memory, at(0, 4)] })],
    [
      'an ArrayBuffer',
      'neither a typed array nor',
      dispatchCall({ from: [new ArrayBuffer(8) as unknown as Memory, at(0, 4)] }),
    ],
    [
      'a size that is no number',
      'needed',
      dispatchCall({ from: [{ address: 64n, bytes: Number.NaN }, at(0, 4)] }),
    ],
    ['rows of 0 bytes', 'rows of 0 bytes', dispatchCall({ rowBytes: 0 })],
    ['rows of half a byte', 'rows of 1.5 bytes', dispatchCall({ rowBytes: 1.5 })],
    ['rows of more than 16 MiB', 'rows of 16777217 bytes', dispatchCall({ rowBytes: 16777217 })],
    [
      'origins that are too small',
      'origins of rank 1 has 23 bytes, 24 are needed',
      { ...dispatchCall(), origins: memory([24, 23], 1) },
    ],
    ['too few origins', 'origins: 1 buffers', { ...dispatchCall(), origins: memory([24], 1) }],
    ['too few scales', 'scale: 1 buffers', { ...dispatchCall({ dtype: 'f32' }), scale: memory([4], 4) }],
    [
      'a scale that is too small',
      'scale of rank 1 has 4 bytes, 8 are needed',
      { ...dispatchCall({ dtype: 'f32' }), scale: memory([4, 1], 4) },
    ],
    [
      'payloads that share an output',
      'overlaps',
      { payloads: [...dispatchCall({ to: fine }).payloads, ...dispatchCall({ to: fine }).payloads] },
    ],
  ];

  it.each(badDispatches)('dispatch: %s', async (_, text, call) => {
    const { exchange } = await open();
    shared.fill(0xaa);
    await expect(exchange.dispatch(call)).rejects.toThrow(code('E_BUFFER'));
    await expect(exchange.dispatch(call)).rejects.toThrow(text);
    expect(shared.every((byte) => byte === 0xaa)).toBe(true);
  });

  const badCombines: [string, string, CombineCall][] = [
    ['too few inputs', 'from: 1 buffers', combineCall({ from: memory([2], 4) })],
    [
      'an input too short',
      'from of rank 1 has 4 bytes, 8 are needed',
      combineCall({ from: memory([2, 1], 4) }),
    ],
    ['an output too short', 'to of rank 0 has 4 bytes, 8 are needed', combineCall({ to: memory([1, 1], 4) })],
    [
      'weights too short',
      'weights of rank 0 has 12 bytes, 16 are needed',
      combineCall({ weights: memory([3, 2], 4) }),
    ],
    [
      'an output over the weights',
      'overlaps',
      combineCall({ to: [at(0, 8), at(8, 4)], weights: [at(8, 16), at(24, 8)] }),
    ],
  ];

  it.each(badCombines)('combine: %s', async (_, text, call) => {
    const { exchange } = await open();
    shared.fill(0xaa);
    await expect(exchange.combine(call)).rejects.toThrow(code('E_BUFFER'));
    await expect(exchange.combine(call)).rejects.toThrow(text);
    expect(shared.every((byte) => byte === 0xaa)).toBe(true);
  });

  const badGradients: [string, string, WeightGradientCall][] = [
    ['too few gradients', 'outputGradient: 1 buffers', gradientCall({ outputGradient: memory([2], 4) })],
    ['rows too short', 'from of rank 0 has 4 bytes, 8 are needed', gradientCall({ from: memory([1, 2], 4) })],
    [
      'an output too short',
      'to of rank 1 has 4 bytes, 8 are needed',
      gradientCall({ to: memory([4, 1], 4) }),
    ],
  ];

  it.each(badGradients)('weight gradient: %s', async (_, text, call) => {
    const { exchange } = await open();
    await expect(exchange.weightGradient(call)).rejects.toThrow(code('E_BUFFER'));
    await expect(exchange.weightGradient(call)).rejects.toThrow(text);
  });

  const bothGradients = (change: Partial<CombineGradientCall> = {}): CombineGradientCall => ({
    ...{ dtype: 'f32', rowBytes: 4, outputGradient: memory(TOKENS, 4), from: memory(RECV_ROWS, 4) },
    ...{ weights: memory(ENTRIES, 4), to: memory(RECV_ROWS, 4), weightsGradient: memory(ENTRIES, 4) },
    ...change,
  });

  it.each([
    ['too few gradients', 'outputGradient: 1 buffers', { outputGradient: memory([2], 4) }],
    ['weights too short', 'weights of rank 1 has 4 bytes, 8 are needed', { weights: memory([4, 1], 4) }],
    ['rows too short', 'to of rank 0 has 4 bytes, 8 are needed', { to: memory([1, 2], 4) }],
    ['an output too short', 'weightsGradient: 1 buffers', { weightsGradient: memory([4], 4) }],
    ['origins too short', 'origins of rank 1 has 12 bytes, 24 are', { origins: memory([2, 1], 12) }],
    [
      'outputs that overlap',
      'overlaps',
      { to: [at(0, 8), at(8, 8)], weightsGradient: [at(4, 16), at(24, 8)] },
    ],
    ['rows that are overwritten', 'overlaps', { from: [at(0, 8), at(8, 8)], to: [at(0, 8), at(16, 8)] }],
  ] as const)('combine gradient: %s', async (_, text, change) => {
    const { exchange } = await open();
    await exchange.combineGradient(bothGradients());
    shared.fill(0xaa);
    await expect(exchange.combineGradient(bothGradients(change))).rejects.toThrow(code('E_BUFFER'));
    await expect(exchange.combineGradient(bothGradients(change))).rejects.toThrow(text);
    expect(shared.every((byte) => byte === 0xaa)).toBe(true);
  });

  it.each([
    ['bytes', 4],
    ['fp8', 4],
    ['f32', 3],
    ['bf16', 5],
  ] as const)('%s rows of %i bytes cannot be added up or scaled: E_DTYPE', async (dtype, rowBytes) => {
    const { exchange } = await open();
    const wide = { rowBytes, from: memory(RECV_ROWS, 16), to: memory(ENTRIES, 16) };
    const sums = { ...wide, dtype: dtype as 'f32' };
    await expect(exchange.combine(sums)).rejects.toThrow(code('E_DTYPE'));
    const gradient = { ...sums, outputGradient: memory(TOKENS, 16) };
    await expect(exchange.weightGradient(gradient)).rejects.toThrow(code('E_DTYPE'));
    const wideGradients = { ...gradient, weights: memory(ENTRIES, 4), weightsGradient: memory(ENTRIES, 4) };
    await expect(exchange.combineGradient(wideGradients)).rejects.toThrow(code('E_DTYPE'));
    const scale = memory(ENTRIES, 4);
    await expect(exchange.dispatch({ payloads: [{ ...wide, dtype }], scale })).rejects.toThrow(
      code('E_DTYPE'),
    );
    await expect(exchange.dispatch({ payloads: [wide], scale })).rejects.toThrow(code('E_DTYPE'));
    // Without a scale they are only bytes.
    await exchange.dispatch({ payloads: [{ ...wide, dtype }] });
  });

  it('the reference reaches no memory by its address, and says so before it writes', async () => {
    const { exchange } = await open();
    const to = poisoned([8, 8]);
    const from = [new Uint8Array(8), { address: 4096n, bytes: 8 }];
    await expect(exchange.dispatch({ payloads: [{ rowBytes: 4, from, to }] })).rejects.toThrow(
      code('E_BUFFER'),
    );
    expect(to.every((buffer) => buffer.every((byte) => byte === 0xaa))).toBe(true);
  });
});
