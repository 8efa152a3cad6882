// Values whose results are easily got wrong, with the bits written out by hand.

import { expect, it } from 'vitest';
import type { FloatDtype } from '../../executor/numeric.ts';
import { addon, describeNative, uploadTo } from '../support/addon.ts';
import { halves, planOf, words } from '../support/buffers.ts';

/** One rank, one token, experts 0..n-1 in order: slot k of the receive buffer holds term k. */
async function sum(kernels: 'auto' | 'portable', dtype: FloatDtype, terms: number[], weights?: number[]) {
  const routing = [[terms.map((_, k) => k)]];
  const plan = await planOf(routing, terms.length, { experts: terms.length });
  const context = new addon.Context({ threads: 1, kernels });
  const native = uploadTo(context, plan);
  // Enough elements for the vector loop and its tail.
  const elements = 67;
  const Words = dtype === 'f32' ? Uint32Array : Uint16Array;
  const from = new Words(terms.length * elements);
  for (const [k, bits] of terms.entries()) from.fill(bits, k * elements, (k + 1) * elements);
  const to = new Uint8Array(elements * Words.BYTES_PER_ELEMENT);
  const call = { dtype, rowBytes: to.length, from: [from], to: [to] };
  native.combineSync(weights === undefined ? call : { ...call, weights: [Uint32Array.from(weights)] });
  context.close();
  const results = dtype === 'f32' ? words(to) : halves(to);
  expect(new Set(results).size, 'vector loop and tail agree').toBe(1);
  return results[0]!;
}

describeNative.each(['auto', 'portable'] as const)('%s kernels', (kernels) => {
  it('sums from +0, so that -0 alone becomes +0 and overflow becomes infinity', async () => {
    expect(await sum(kernels, 'f32', [0x80000000])).toBe(0);
    expect(await sum(kernels, 'bf16', [0x8000, 0x8000])).toBe(0);
    expect(await sum(kernels, 'f16', [0x8000])).toBe(0);
    expect(await sum(kernels, 'f32', [0x7f7fffff, 0x7f7fffff])).toBe(0x7f800000);
    expect(await sum(kernels, 'f16', [0x7bff, 0x7bff])).toBe(0x7c00);
    expect(await sum(kernels, 'bf16', [0xff7f, 0xff7f])).toBe(0xff80);
  });

  it('keeps subnormals', async () => {
    expect(await sum(kernels, 'f32', [0x00000001, 0x00000002])).toBe(3);
    expect(await sum(kernels, 'f16', [0x0001, 0x03ff])).toBe(0x0400);
    expect(await sum(kernels, 'bf16', [0x8001])).toBe(0x8001);
    // 2^-126 x 0.5 is a subnormal float32.
    expect(await sum(kernels, 'f32', [0x00800000], [0x3f000000])).toBe(0x00400000);
  });

  it('makes every NaN the canonical one', async () => {
    expect(await sum(kernels, 'f32', [0xffc12345])).toBe(0x7fc00000);
    expect(await sum(kernels, 'f16', [0xfc01])).toBe(0x7e00);
    expect(await sum(kernels, 'bf16', [0xff81])).toBe(0x7fc0);
    // Infinity minus infinity, and a weight of 0 times infinity.
    expect(await sum(kernels, 'f32', [0x7f800000, 0xff800000])).toBe(0x7fc00000);
    expect(await sum(kernels, 'bf16', [0x7f80], [0])).toBe(0x7fc0);
    expect(await sum(kernels, 'f16', [0x7c00], [0])).toBe(0x7e00);
  });

  it('rounds once, to nearest even', async () => {
    // bf16: 1 + 2^-8 lies between 0x3f80 and 0x3f81, half way: to even. With 2^-24 more it goes up.
    expect(await sum(kernels, 'bf16', [0x3f80, 0x3b80])).toBe(0x3f80);
    expect(await sum(kernels, 'bf16', [0x3f81, 0x3b80])).toBe(0x3f82);
    expect(await sum(kernels, 'bf16', [0x3f80, 0x3b80, 0x3400])).toBe(0x3f81);
    // f16: 1 + 2^-11 is half way; 65504 + 16 = 65520 is half way to infinity.
    expect(await sum(kernels, 'f16', [0x3c00, 0x1000])).toBe(0x3c00);
    expect(await sum(kernels, 'f16', [0x3c01, 0x1000])).toBe(0x3c02);
    expect(await sum(kernels, 'f16', [0x7bff, 0x4c00])).toBe(0x7c00);
    expect(await sum(kernels, 'f16', [0x7bff, 0x4bff])).toBe(0x7bff);
  });

  it('multiplies, rounds, then adds: never one fused operation', async () => {
    // (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46: rounded, the product loses 2^-46, which a fused operation would keep.
    const up = 0x3f800001;
    expect(await sum(kernels, 'f32', [0xbf800002, up], [0x3f800000, up])).toBe(0);
  });
});
