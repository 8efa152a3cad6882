// What the addon takes as memory, and what it refuses.

import { beforeAll, expect, it } from 'vitest';
import type { Memory } from '../../executor/backends/types.ts';
import type { NativeContext, NativePlan } from '../../executor/native/addon.ts';
import { addon, describeNative, uploadTo } from '../support/addon.ts';
import { bytesOf, planOf } from '../support/buffers.ts';

describeNative('buffers', () => {
  // One rank, 2 tokens, one expert: dispatch copies 2 rows of 8 bytes.
  let context: NativeContext;
  let native: NativePlan;
  beforeAll(async () => {
    context = new addon.Context({ threads: 1 });
    native = uploadTo(context, await planOf([[[0], [0]]], 1, { experts: 1 }));
  });
  const FROM = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
  const dispatch = (from: unknown, to: unknown) =>
    native.dispatchSync({ payloads: [{ rowBytes: 8, from: [from as Memory], to: [to as Memory] }] });
  const refusal = (from: unknown, to: unknown) => {
    try {
      dispatch(from, to);
    } catch (error) {
      return { ...(error as object), message: (error as Error).message };
    }
    return undefined;
  };

  it('may be a Buffer, any typed array, a DataView, Wasm memory or shared memory', () => {
    const wasm = new WebAssembly.Memory({ initial: 1 });
    const backings = [
      Buffer.alloc(16),
      new Float64Array(2),
      new Int16Array(8),
      new BigUint64Array(2),
      new DataView(new ArrayBuffer(32), 16, 16),
      new Uint8Array(wasm.buffer, 4096, 16),
      new Uint8Array(new SharedArrayBuffer(16)),
      new Uint8Array(new ArrayBuffer(64), 3, 16),
    ];
    for (const to of backings) {
      dispatch(FROM, to);
      expect(bytesOf(to)).toEqual([...FROM]);
    }
  });

  it('may be an address and a size', () => {
    const to = new Uint8Array(new ArrayBuffer(64), 5, 16);
    dispatch(FROM, { address: addon.addressOf(to), bytes: 16 });
    expect(bytesOf(to)).toEqual([...FROM]);
    const refused = refusal(FROM, { address: 0n, bytes: 16 });
    expect(refused).toMatchObject({
      code: 'E_BUFFER',
      message: 'payload 0: to of rank 0 has 0 bytes, 16 are needed',
    });
    for (const broken of [
      {},
      { address: 1, bytes: 16 },
      { address: 2n ** 64n, bytes: 16 },
      { address: -1n, bytes: 16 },
    ]) {
      expect(refusal(FROM, broken)).toMatchObject({ code: 'E_BUFFER', rank: 0 });
    }
    expect(refusal(FROM, { address: 64n, bytes: 15.5 })).toMatchObject({ code: 'E_BUFFER' });
    expect(refusal(FROM, { address: 64n, bytes: 15 })).toMatchObject({ value: 15, limit: 16 });
  });

  it('are refused when too small, missing or overlapping, before anything is written', () => {
    const to = new Uint8Array(15).fill(9);
    expect(refusal(FROM, to)).toMatchObject({
      code: 'E_BUFFER',
      rank: 0,
      value: 15,
      limit: 16,
      message: 'payload 0: to of rank 0 has 15 bytes, 16 are needed',
    });
    expect(bytesOf(to)).toEqual(new Array(15).fill(9));
    const shared = new Uint8Array(31);
    expect(refusal(shared.subarray(0, 16), shared.subarray(15))).toMatchObject({ code: 'E_BUFFER' });
    for (const nothing of [undefined, null, 5, 'text', [1, 2]]) {
      expect(refusal(FROM, nothing), String(nothing)).toMatchObject({ code: 'E_BUFFER' });
    }
    const none = { payloads: [{ rowBytes: 8, from: [FROM], to: [] }] };
    expect(() => native.dispatchSync(none)).toThrow('payload 0: to: 0 buffers for 1 ranks');
  });

  it('are refused when their memory may move or is gone', () => {
    const resizable = new (ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer)(16, {
      maxByteLength: 32,
    });
    expect(refusal(FROM, new Uint8Array(resizable))).toMatchObject({ code: 'E_BUFFER', rank: 0 });
    const detached = new Uint8Array(16);
    structuredClone(detached, { transfer: [detached.buffer] });
    expect(refusal(FROM, detached)).toMatchObject({
      code: 'E_BUFFER',
      message: 'payload 0: to of rank 0 is detached',
    });
    const wasm = new WebAssembly.Memory({ initial: 1, maximum: 2 });
    const view = new Uint8Array(wasm.buffer, 0, 16);
    wasm.grow(1);
    expect(refusal(FROM, view)).toMatchObject({ code: 'E_BUFFER' });
  });

  it('reject the promise of an asynchronous call with the same fields', async () => {
    const call = { payloads: [{ rowBytes: 8, from: [FROM], to: [new Uint8Array(8)] }] };
    await expect(native.dispatch(call)).rejects.toMatchObject({
      code: 'E_BUFFER',
      rank: 0,
      value: 8,
      limit: 16,
    });
  });

  it('come with arguments that are checked as well', () => {
    const rows = { from: [FROM], to: [new Uint8Array(16)] };
    const wrong: [object, string][] = [
      [{ payloads: 3 }, 'E_OPTION'],
      [{ payloads: [7] }, 'E_OPTION'],
      [{ payloads: [{ ...rows, rowBytes: 0 }] }, 'E_OPTION'],
      [{ payloads: [{ ...rows, rowBytes: 2 ** 30 }] }, 'E_OPTION'],
      [{ payloads: [{ ...rows, rowBytes: 1.5 }] }, 'E_OPTION'],
      [{ payloads: [{ ...rows, rowBytes: 8, per: 'row' }] }, 'E_OPTION'],
      [{ payloads: [{ ...rows, rowBytes: 8, dtype: 'f64' }] }, 'E_DTYPE'],
      [{ payloads: [{ ...rows, rowBytes: 8, dtype: 'fp8' }], scale: [new Float32Array(2)] }, 'E_DTYPE'],
    ];
    for (const [call, code] of wrong) {
      const run = () => native.dispatchSync(call as never);
      expect(run, JSON.stringify(call)).toThrow(expect.objectContaining({ code }));
    }
    const combine = { dtype: 'bf16' as const, from: rows.to, to: [FROM] };
    expect(() => native.combineSync({ ...combine, rowBytes: 7 })).toThrow(
      expect.objectContaining({ code: 'E_DTYPE' }),
    );
    expect(() => new addon.Context({ threads: 1025 })).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
    expect(() => new addon.Plan({} as NativeContext, {} as never)).toThrow(
      expect.objectContaining({ code: 'E_OPTION' }),
    );
  });
});
