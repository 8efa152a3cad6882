// fp8 rows on GPUs: the bits of executor/training/fp8.ts, for every dtype, size and address; what a call may not be.

import assert from 'node:assert/strict';
import { type Cuda, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import type { ExternalMemory, Fp8Call } from '../../executor/backends/types.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import { spin } from '../../executor/internal.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { dequantizeRows, quantizeRows, scaleBlocks } from '../../executor/training/fp8.ts';
import { SIZE, toRows } from '../support/layerPass.ts';
import { specialRows } from '../support/rowWork.ts';
import { assertSame, Buffers, type GpuCase, openGpu, POISON, randomRows, rejection } from './support.ts';

const DTYPES: FloatDtype[] = ['f32', 'f16', 'bf16'];
/** Bytes after every buffer that must stay as they are. */
const GUARD = 64;

/** Quantizes on the device and back; codes, scales and values with their guards. */
async function onDevice(
  cuda: Cuda,
  group: Group,
  call: Omit<Fp8Call, 'values' | 'codes' | 'scales'>,
  rows: readonly Uint8Array[],
  offset: number,
): Promise<Uint8Array[][]> {
  using buffers = new Buffers(cuda);
  const { hidden } = call;
  const guarded = (bytes: (count: number) => number, at: number) =>
    buffers.poisoned(
      call.rows.map((count) => bytes(count) + GUARD),
      at,
    );
  const values = buffers.up(rows, offset * SIZE[call.dtype]);
  const codes = guarded((count) => count * hidden, offset);
  const scales = guarded((count) => 4 * count * scaleBlocks(hidden), 4 * offset);
  const back = guarded((count) => count * hidden * SIZE[call.dtype], offset * SIZE[call.dtype]);
  await group.quantize({ ...call, values, codes, scales });
  await group.dequantize({ ...call, values: back, codes, scales });
  return [codes, scales, back].map((list) => buffers.down(list));
}

/** What the oracle gives, with the same guards. */
function wanted(
  { dtype, hidden, rows }: Omit<Fp8Call, 'values' | 'codes' | 'scales'>,
  values: readonly Uint8Array[],
): Uint8Array[][] {
  const guarded = (size: number) => new Uint8Array(size + GUARD).fill(POISON);
  const codes = rows.map((count) => guarded(count * hidden));
  const scales = rows.map((count) => guarded(4 * count * scaleBlocks(hidden)));
  const back = values.map(({ length }) => guarded(length));
  rows.forEach((count, i) => {
    const shape = { dtype, rows: count, hidden };
    quantizeRows(shape, values[i]!, codes[i]!, scales[i]!);
    dequantizeRows(shape, codes[i]!, scales[i]!, back[i]!);
  });
  return [codes, scales, back];
}

function assertBits(actual: Uint8Array[][], expected: Uint8Array[][], hidden: number, size: number): void {
  const rowBytes = [hidden, 4 * scaleBlocks(hidden), hidden * size];
  ['codes', 'scales', 'values'].forEach((name, i) => {
    assertSame(name, actual[i]!, expected[i]!, rowBytes[i]!);
  });
}

const shapes: GpuCase[] = DTYPES.flatMap((dtype) =>
  [0, 1].map((offset) => ({
    name: `fp8: ${dtype} rows of every size, ${offset} elements after an aligned address`,
    async run() {
      using gpu = await openGpu(2);
      const { cuda, group } = gpu;
      for (const hidden of [1, 4, 8, 16, 127, 128, 129, 136, 256, 300, 1000, 2176]) {
        const call = { dtype, hidden, rows: [37, 2] };
        const values = call.rows.map((count) => toRows(dtype, specialRows(count * hidden)));
        const actual = await onDevice(cuda, group, call, values, offset);
        assertBits(actual, wanted(call, values), hidden, SIZE[dtype]);
      }
    },
  })),
);

/** Every 16-bit pattern, in order: blocks of one exponent each, infinities and NaNs at the end of either sign. */
const patterns: GpuCase[] = (['f16', 'bf16'] as const).map((dtype) => ({
  name: `fp8: all 65,536 ${dtype} numbers, in order and mixed`,
  async run() {
    using gpu = await openGpu(1);
    const { cuda, group } = gpu;
    for (const step of [1, 40_503]) {
      const bits = Uint16Array.from({ length: 65_536 }, (_, i) => (i * step) % 65_536);
      const values = [new Uint8Array(bits.buffer)];
      const call = { dtype, hidden: 1024, rows: [64] };
      assertBits(await onDevice(cuda, group, call, values, 0), wanted(call, values), 1024, 2);
    }
  },
}));

const values: GpuCase[] = [
  ...DTYPES.map((dtype) => ({
    name: `fp8: every code with every kind of scale is dequantized to ${dtype}`,
    async run() {
      const scaleOf = Float32Array.of(1, 1, 3e-41, Number.NaN, Number.POSITIVE_INFINITY, -2, 7e35, 0);
      const hidden = 256;
      const codes = Uint8Array.from({ length: 4 * hidden }, (_, i) => i);
      const shape = { dtype, rows: 4, hidden };
      const expected = new Uint8Array(4 * hidden * SIZE[dtype]);
      dequantizeRows(shape, codes, scaleOf, expected);
      using gpu = await openGpu(1);
      const { cuda, group } = gpu;
      // Aligned, and not.
      for (const offset of [0, 1]) {
        using buffers = new Buffers(cuda);
        const call = {
          ...{ dtype, hidden, rows: [4] },
          values: buffers.poisoned([expected.length], offset * SIZE[dtype]),
          codes: buffers.up([codes], offset),
          scales: buffers.up([scaleOf]),
        };
        await group.dequantize(call);
        assertSame('values', buffers.down(call.values), [expected], hidden * SIZE[dtype]);
      }
    },
  })),
  {
    name: 'fp8: 2,048 rows of 7,168 bf16 are the same as on the host backend',
    async run() {
      const call = { dtype: 'bf16', hidden: 7168, rows: [2048] } as const;
      const rows = [randomRows(3, 2048 * 7168 * 2, 'bf16')];
      using gpu = await openGpu(1);
      const { cuda, group } = gpu;
      using host = await createGroup({ ranks: 1, backend: 'host' });
      const codes = [new Uint8Array(2048 * 7168 + GUARD).fill(POISON)];
      const scales = [new Uint8Array(4 * 2048 * 56 + GUARD).fill(POISON)];
      const back = [new Uint8Array(2048 * 7168 * 2 + GUARD).fill(POISON)];
      await host.quantize({ ...call, values: rows, codes, scales });
      await host.dequantize({ ...call, values: back, codes, scales });
      assertBits(await onDevice(cuda, group, call, rows, 0), [codes, scales, back], 7168, 2);
    },
  },
  {
    name: 'fp8: JavaScript buffers may have any address; a rank without rows does nothing',
    async run() {
      const call = { dtype: 'bf16', hidden: 200, rows: [5, 0] } as const;
      const rows = [toRows('bf16', specialRows(1000)), new Uint8Array(0)];
      const [codes, scales, back] = wanted(call, rows);
      using group = await createGroup({ ranks: 2, backend: 'cuda' });
      const fresh = (like: Uint8Array[]) =>
        like.map(({ length }) => new Uint8Array(length + 1).fill(POISON).subarray(1));
      const actual = [fresh(codes!), fresh(scales!), fresh(back!)] as const;
      await group.quantize({ ...call, values: rows, codes: actual[0], scales: actual[1] });
      await group.dequantize({ ...call, values: actual[2], codes: actual[0], scales: actual[1] });
      assertBits([...actual], [codes!, scales!, back!], 200, 2);
    },
  },
  {
    name: 'fp8: a call enqueues after the work on the rank’s stream and returns',
    async run() {
      const call = { dtype: 'f32', hidden: 512, rows: [8, 8] } as const;
      const rows = call.rows.map((count) => toRows('f32', specialRows(count * 512)));
      const expected = wanted(call, rows);
      using gpu = await openGpu(2);
      const { cuda, group, buffers } = gpu;
      const source = buffers.up(rows);
      const from = buffers.poisoned(rows.map(({ length }) => length));
      const codes = buffers.poisoned([8 * 512 + GUARD, 8 * 512 + GUARD]);
      const scales = buffers.poisoned([8 * 16 + GUARD, 8 * 16 + GUARD]);
      cuda.synchronize();
      spin(cuda, 1, 30e6);
      from.forEach((buffer, rank) => {
        cuda.copy(rank, buffer, source[rank]!, buffer.bytes);
      });
      const start = performance.now();
      const done = group.quantize({ ...call, values: from, codes, scales });
      assert.ok(performance.now() - start < 20, 'the call waited for the GPU');
      await done;
      assertSame('codes', buffers.down(codes), expected[0]!, 512);
      assertSame('scales', buffers.down(scales), expected[1]!, 16);
    },
  },
  {
    name: 'fp8: a captured conversion replays with new rows',
    async run() {
      const call = { dtype: 'bf16', hidden: 384, rows: [16] } as const;
      using gpu = await openGpu(1);
      const { cuda, group, buffers } = gpu;
      const values = buffers.poisoned([16 * 384 * 2]);
      const codes = buffers.poisoned([16 * 384 + GUARD]);
      const scales = buffers.poisoned([16 * 12 + GUARD]);
      let done = Promise.resolve();
      using graph = cuda.capture(() => {
        done = group.quantize({ ...call, values, codes, scales });
      });
      await done;
      for (const seed of [5, 6]) {
        const rows = randomRows(seed, 16 * 384 * 2, 'bf16');
        cuda.copy(0, values[0]!, rows, rows.length);
        graph.launch();
        const expected = wanted(call, [rows]);
        assertSame('codes', buffers.down(codes), expected[0]!, 384);
        assertSame('scales', buffers.down(scales), expected[1]!, 12);
      }
    },
  },
];

/** Changes of a good call, and the code that each is refused with. */
function misuse(call: Fp8Call): [string, object, string][] {
  const [values] = call.values as DeviceBuffer[];
  const [codes] = call.codes as DeviceBuffer[];
  const [scales] = call.scales as DeviceBuffer[];
  const part = (buffer: DeviceBuffer, from: number, bytes: number): ExternalMemory[] => [
    { address: buffer.address + BigInt(from), bytes },
  ];
  return [
    ['short values', { values: part(values!, 0, 779) }, 'E_BUFFER'],
    ['short codes', { codes: part(codes!, 0, 389) }, 'E_BUFFER'],
    ['short scales', { scales: part(scales!, 0, 23) }, 'E_BUFFER'],
    ['no scales', { scales: [] }, 'E_BUFFER'],
    ['values between elements', { values: part(values!, 1, 780) }, 'E_BUFFER'],
    ['scales between elements', { scales: part(scales!, 2, 24) }, 'E_BUFFER'],
    ['codes in the values', { codes: part(values!, 400, 390) }, 'E_BUFFER'],
    ['scales in the codes', { scales: part(codes!, 0, 24) }, 'E_BUFFER'],
    ['an address that was never allocated', { values: [{ address: 4096n, bytes: 780 }] }, 'E_BUFFER'],
    ['a dtype that cannot be rounded', { dtype: 'fp8' }, 'E_DTYPE'],
    ['rows of nothing', { hidden: 0 }, 'E_OPTION'],
    ['rows too long', { hidden: 2 ** 24 }, 'E_OPTION'],
    ['fewer rows than none', { rows: [-1] }, 'E_OPTION'],
  ];
}

const refusals: GpuCase = {
  name: 'fp8: misuse is refused before anything is written',
  async run() {
    using cuda = openCuda(1);
    const group = await createGroup({ ranks: 1, backend: 'cuda', cuda });
    using buffers = new Buffers(cuda);
    // Each a little larger than the 3 rows of 130 elements need.
    const all = [buffers.poisoned([800]), buffers.poisoned([400]), buffers.poisoned([32])] as const;
    const [values, codes, scales] = all;
    const call: Fp8Call = { dtype: 'bf16', hidden: 130, rows: [3], values, codes, scales };
    for (const [what, change, code] of misuse(call)) {
      for (const name of ['quantize', 'dequantize'] as const) {
        assert.equal(await rejection(group[name]({ ...call, ...change })), code, `${name}: ${what}`);
      }
    }
    for (const list of all) assert.ok(buffers.down(list)[0]!.every((byte) => byte === POISON));
    await group.quantize(call);
    group.close();
    assert.equal(await rejection(group.quantize(call)), 'E_CLOSED');
  },
};

export const fp8Cases: GpuCase[] = [...shapes, ...patterns, ...values, refusals];
