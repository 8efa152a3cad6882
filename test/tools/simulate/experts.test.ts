// The experts' time and the memory of a rank, against numbers worked out by hand.

import { describe, expect, it } from 'vitest';
import { expertTime, type Model, modelOf, namedModel, rankMemory } from '../../../tools/simulate/experts.ts';
import { machine, planOf } from './support.ts';

const MODEL: Model = { name: 'small', hidden: 500, experts: 2, topk: 1, intermediate: 100, layers: 3 };
/** Two ranks with an expert each; rank 1 receives 300 rows of 400. */
const plan = planOf([[[0], [1], [1], [1]], []], {}, 100);

describe('the time of the experts', () => {
  it('is that of the products of the busiest rank: six operations a row and weight', () => {
    // 300 rows x 6 x 500 x 100 operations at 100 TFLOP/s.
    const found = expertTime(plan, MODEL, machine({ hbmGBps: 1e6 }));
    expect(found).toMatchObject({ rank: 1, bound: 'products' });
    expect(found.us).toBeCloseTo((300 * 6 * 500 * 100) / 100e6, 9);
    expect(found.evenUs).toBeCloseTo((200 * 6 * 500 * 100) / 100e6, 9);
    expect(expertTime(plan, MODEL, machine({ hbmGBps: 1e6, gemmReached: 0.5 })).us).toBeCloseTo(
      2 * found.us,
      9,
    );
  });

  it('is that of reading the weights where few rows share them', () => {
    // 3 x 500 x 100 weights of two bytes at 1 GB/s.
    const found = expertTime(plan, MODEL, machine({ hbmGBps: 1 }));
    expect(found).toMatchObject({ bound: 'weights' });
    expect(found.us).toBeCloseTo((3 * 500 * 100 * 2) / 1e3, 9);
  });

  it('in fp8 takes half the products and half the weights', () => {
    const fp8 = planOf([[[0], [1], [1], [1]], []], { dtype: 'fp8' }, 100);
    const fast = machine({ hbmGBps: 1e6 });
    expect(expertTime(fp8, MODEL, fast).us).toBeCloseTo(expertTime(plan, MODEL, fast).us / 2, 9);
    const slow = machine({ hbmGBps: 1 });
    expect(expertTime(fp8, MODEL, slow).us).toBeCloseTo(expertTime(plan, MODEL, slow).us / 2, 9);
  });
});

describe('the memory of the fullest rank', () => {
  it('counts weights of all layers, and the buffers of one', () => {
    // Rank 0 has 400 tokens and receives 100 rows, rank 1 has none and receives 300.
    const weights = 3 * 3 * 500 * 100 * 2;
    expect(rankMemory(plan, MODEL)).toEqual({
      rank: 0,
      weights,
      receive: 100 * 1000,
      results: 100 * 1000,
      tokens: 400 * 2000,
      landing: 0,
      activations: 3 * 100 * 100 * 2,
      total: weights + 200_000 + 800_000 + 60_000,
    });
    expect(rankMemory(plan, undefined)).toMatchObject({ rank: 0, weights: 0, activations: 0 });
  });
});

it('models are told by their sizes, and by their names', () => {
  expect(modelOf(plan)).toBeUndefined();
  expect(modelOf({ spec: { ...plan.spec, hidden: 7168, experts: 256, topk: 8 } })?.name).toBe('deepseek-v3');
  expect(namedModel('mixtral-8x7b')).toMatchObject({
    hidden: 4096,
    experts: 8,
    topk: 2,
    intermediate: 14_336,
  });
  expect(() => namedModel('other')).toThrow(/qwen3-235b/);
});
