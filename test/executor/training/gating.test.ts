import { afterEach, describe, expect, it } from 'vitest';
import type { BackendName } from '../../../executor/backends/types.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { findAddon } from '../../../executor/native/addon.ts';
import { floatFromBits } from '../../../executor/numeric.ts';
import {
  expFloat,
  type GateOptions,
  gateTokens,
  gateTokensBackward,
  resolveGate,
} from '../../../executor/training/gating.ts';
import { poisoned } from '../../support/buffers.ts';
import { drawn, specialBias, specialLogits, wantedGate } from '../../support/rowWork.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];

let group: Group | undefined;
afterEach(() => group?.close());

/** Distance of float32 numbers next to `value`. */
function ulp(value: number): number {
  return 2 ** Math.max(-149, Math.floor(Math.log2(value)) - 23);
}

describe('e^x', () => {
  it('is at most 0.98 ulp from the true value, over the whole range', () => {
    let worst = 0;
    for (const sign of [0, 0x80000000]) {
      for (let bits = 0; bits < 0x42d00000; bits += 2003) {
        const x = floatFromBits((bits | sign) >>> 0);
        if (x > 88.7228) break;
        const exact = Math.exp(x);
        worst = Math.max(worst, Math.abs(expFloat(x) - exact) / ulp(exact));
      }
    }
    expect(worst).toBeLessThanOrEqual(0.98);
    expect(worst).toBeGreaterThan(0.5);
  });

  it('is exact where it can be', () => {
    const at = [0, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 89, -104.5];
    expect(at.map(expFloat)).toEqual([
      1,
      1,
      Number.POSITIVE_INFINITY,
      0,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      0,
    ]);
  });
});

function gated(options: GateOptions, logits: readonly number[], bias?: readonly number[]) {
  const spec = resolveGate(options);
  const tokens = logits.length / spec.experts;
  const ids = new Int32Array(tokens * spec.topk);
  const weights = new Float32Array(tokens * spec.topk);
  const scores = new Float32Array(tokens * spec.experts);
  const buffers = { logits: Float32Array.from(logits), ids, weights, scores };
  gateTokens(spec, tokens, bias === undefined ? buffers : { ...buffers, bias: Float32Array.from(bias) });
  return { ids: [...ids], weights: [...weights], scores: [...scores] };
}

describe('a gate', () => {
  it('chooses the best, and of equals the lower id', () => {
    expect(gated({ experts: 5, topk: 3 }, [1, 2, 0, 2, 1]).ids).toEqual([1, 3, 0]);
    // A softmax of equal logits is exact.
    expect(gated({ experts: 4, topk: 2 }, [7, 7, 7, 7])).toEqual({
      ids: [0, 1],
      weights: [0.25, 0.25],
      scores: [0.25, 0.25, 0.25, 0.25],
    });
    expect(gated({ experts: 3, topk: 1, score: 'sigmoid' }, [0, 0, 0]).weights).toEqual([0.5]);
  });

  it('chooses by the bias, and weights without it', () => {
    const options = { experts: 3, topk: 2, score: 'sigmoid' } as const;
    const bare = gated(options, [0, 2, 1]);
    const biased = gated(options, [0, 2, 1], [1, 0, 0]);
    expect([bare.ids, biased.ids]).toEqual([
      [1, 2],
      [0, 1],
    ]);
    expect(biased.weights).toEqual([0.5, bare.weights[0]]);
  });

  it('stays inside the best groups, by their two best experts or by their best', () => {
    // Sigmoid of 0 is 0.5. Groups {0,1}, {2,3}, {4,5}: the first has the best expert, the second the best pair.
    const logits = [3, -9, 1, 1, 0, 0];
    const options = { experts: 6, topk: 2, groups: 3, groupTopk: 1, score: 'sigmoid' } as const;
    expect(gated(options, logits).ids).toEqual([2, 3]);
    expect(gated({ ...options, groupScore: 'max' }, logits).ids).toEqual([0, 1]);
    expect(gated({ ...options, groupTopk: 2 }, logits).ids).toEqual([2, 3]);
    expect(gated({ ...options, groupTopk: 2, topk: 4 }, logits).ids).toEqual([2, 3, 4, 5]);
    expect(gated({ ...options, groupTopk: 3 }, logits).ids).toEqual([0, 2]);
    // Equal groups: the lower one.
    expect(gated(options, [0, 0, 0, 0, 0, 0]).ids).toEqual([0, 1]);
  });

  it('judges a group whose two best are infinities of both signs as lowest of all', () => {
    const options = { experts: 6, topk: 2, groups: 3, groupTopk: 2, score: 'sigmoid' } as const;
    const { NEGATIVE_INFINITY: never, POSITIVE_INFINITY: always } = Number;
    expect(gated(options, [0, 0, 0, 0, 1, 1], [always, never, 0, 0, 0, 0]).ids).toEqual([4, 5]);
  });

  it('judges groups of one expert by that expert', () => {
    const options = { experts: 3, topk: 2, groups: 3, groupTopk: 2 } as const;
    expect(gated(options, [1, 3, 2]).ids).toEqual([1, 2]);
  });

  it('normalises weights to add up to the scale', () => {
    const options = { experts: 4, topk: 2, normalize: true, scale: 2 } as const;
    expect(gated(options, [5, 5, -90, -90]).weights).toEqual([1, 1]);
    // Without a score there is nothing to share, and no division by zero.
    expect(gated({ ...options, score: 'sigmoid' }, [-200, -200, -200, -200]).weights).toEqual([0, 0]);
  });

  it('never prefers a NaN, and has an answer for everything', () => {
    const sigmoid = { experts: 3, topk: 3, score: 'sigmoid' } as const;
    expect(gated(sigmoid, [Number.NaN, -5, 5]).ids).toEqual([2, 1, 0]);
    const { NEGATIVE_INFINITY: never } = Number;
    expect(gated({ experts: 3, topk: 2 }, [never, 0, never])).toEqual({
      ids: [1, 0],
      weights: [1, 0],
      scores: [0, 1, 0],
    });
    expect(gated({ experts: 3, topk: 2 }, [never, never, never]).ids).toEqual([0, 1]);
  });

  it.each([
    [{ experts: 0 }, 'experts is 0'],
    [{ topk: 9 }, 'topk is 9; it must be an integer from 1 to 8'],
    [{ groups: 3 }, '3 groups do not divide 8 experts'],
    [{ groups: 4, groupTopk: 5 }, 'groupTopk is 5'],
    [{ groups: 4, groupTopk: 1, topk: 3 }, 'topk 3 is more than the 2 experts of 1 groups'],
    [{ score: 'relu' }, 'score relu is not one of softmax, sigmoid'],
    [{ groupScore: 'sum' }, 'groupScore sum is not one of max, top2'],
    [{ scale: Number.NaN }, 'scale is NaN'],
    [{ scale: 1e39 }, 'scale is 1e+39'],
  ])('refuses %o', (change, text) => {
    expect(() => resolveGate({ experts: 8, topk: 2, ...change } as GateOptions)).toThrow(text);
  });
});

/** The rules in double precision, by sorting. */
function plainGate(
  options: ReturnType<typeof resolveGate>,
  logits: readonly number[],
  bias: readonly number[],
) {
  const { topk, score, groups, groupTopk, groupScore, normalize, scale } = options;
  const max = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - max));
  const total = powers.reduce((sum, value) => sum + value, 0);
  const scores =
    score === 'softmax' ? powers.map((p) => p / total) : logits.map((x) => 1 / (1 + Math.exp(-x)));
  const all = scores.map((value, expert) => ({ expert, value: value + bias[expert]! }));
  const size = logits.length / groups;
  const judged = Array.from({ length: groups }, (_, g) => {
    const values = all
      .slice(g * size, (g + 1) * size)
      .map(({ value }) => value)
      .sort((a, b) => b - a);
    return { g, value: groupScore === 'max' ? values[0]! : values[0]! + (values[1] ?? 0) };
  }).sort((a, b) => b.value - a.value);
  const kept = new Set(judged.slice(0, groupTopk).map(({ g }) => g));
  const ids = all
    .filter(({ expert }) => kept.has(Math.floor(expert / size)))
    .sort((a, b) => b.value - a.value)
    .slice(0, topk)
    .map(({ expert }) => expert);
  const sum = ids.reduce((s, id) => s + scores[id]!, 0);
  return { ids, weights: ids.map((id) => (normalize ? scores[id]! / sum : scores[id]!) * scale) };
}

const MODELS: [string, GateOptions][] = [
  ['Mixtral: softmax, top-2 of 8, normalised', { experts: 8, topk: 2, normalize: true }],
  [
    'DeepSeek-V3: sigmoid, 4 of 8 groups by their two best, normalised, scaled',
    { experts: 256, topk: 8, score: 'sigmoid', groups: 8, groupTopk: 4, normalize: true, scale: 2.5 },
  ],
  [
    'DeepSeek-V2: softmax, 3 of 8 groups by their best',
    { experts: 160, topk: 6, groups: 8, groupTopk: 3, groupScore: 'max', scale: 16 },
  ],
  ['TransformerEngine: top-5 of 7', { experts: 7, topk: 5, score: 'sigmoid' }],
  ['one expert', { experts: 1, topk: 1 }],
];

describe.each(MODELS)('%s', (_, options) => {
  const spec = resolveGate(options);
  const { experts, topk } = spec;

  it('is what sorting in double precision gives', () => {
    const tokens = 50;
    const logits = drawn(3, tokens * experts, 8);
    const bias = drawn(4, experts, 0.2);
    const { ids, weights } = gated(options, [...logits], [...bias]);
    for (let t = 0; t < tokens; t++) {
      const plain = plainGate(spec, [...logits.subarray(t * experts, (t + 1) * experts)], [...bias]);
      expect(ids.slice(t * topk, (t + 1) * topk)).toEqual(plain.ids);
      plain.weights.forEach((weight, k) => {
        expect(Math.abs(weights[t * topk + k]! - weight)).toBeLessThan(2e-6 * spec.scale);
      });
    }
  });

  it('has the gradient of finite differences', () => {
    const logits = drawn(5, experts, 4);
    const upstream = drawn(6, topk, 2);
    const { ids, scores } = gated(options, [...logits]);
    const gradient = new Float32Array(experts);
    gateTokensBackward(spec, 1, {
      ids: Int32Array.from(ids),
      scores: Float32Array.from(scores),
      weightsGradient: upstream,
      logitsGradient: gradient,
    });
    // The chosen experts stay chosen under steps this small.
    const loss = (at: readonly number[]) =>
      plainGate(spec, at, new Array(experts).fill(0)).weights.reduce((s, w, k) => s + w * upstream[k]!, 0);
    const step = 1e-5;
    for (let e = 0; e < experts; e++) {
      const moved = (by: number) => [...logits].map((x, i) => (i === e ? x + by : x));
      const difference = (loss(moved(step)) - loss(moved(-step))) / (2 * step);
      expect(Math.abs(gradient[e]! - difference), `expert ${e}`).toBeLessThan(1e-5 * spec.scale);
    }
  });

  it.each(BACKENDS)('is the same bits on %s, whatever the logits', async (backend) => {
    group = await createGroup({ ranks: 2, backend });
    const tokens = [Math.max(24, Math.floor(1000 / experts)), 2];
    const logits = tokens.map((count) => specialLogits(7, count, experts));
    const weightsGradient = tokens.map((count) => drawn(8, count * topk, 2));
    const biases = [drawn(10, experts, 0.5), specialBias(11, experts)];
    for (const bias of [undefined, ...biases.map((values) => tokens.map(() => values))]) {
      const ids = poisoned(tokens.map((count) => 4 * count * topk));
      const weights = poisoned(tokens.map((count) => 4 * count * topk + 1)).map((bytes) => bytes.subarray(1));
      const scores = poisoned(tokens.map((count) => 4 * count * experts));
      const logitsGradient = poisoned(tokens.map((count) => 4 * count * experts));
      const call = { options, tokens, logits, ids, weights, scores };
      await group.gate(bias === undefined ? call : { ...call, bias });
      await group.gateBackward({ options, tokens, ids, scores, weightsGradient, logitsGradient });
      tokens.forEach((count, rank) => {
        expect({
          ids: ids[rank],
          weights: weights[rank],
          scores: scores[rank],
          logitsGradient: logitsGradient[rank],
        }).toEqual(wantedGate(options, count, logits[rank]!, bias?.[rank], weightsGradient[rank]!));
      });
    }
  });
});

describe.each(BACKENDS)('on %s', (backend) => {
  const options = { experts: 4, topk: 2 };
  const code = (expected: string) => expect.objectContaining({ name: 'FuscoError', code: expected });
  const floats = (count: number) => [new Float32Array(count)];

  it('refuses buffers that are too small, and ids that no gate gives', async () => {
    group = await createGroup({ ranks: 1, backend });
    const forward = {
      options,
      tokens: [3],
      logits: floats(12),
      ids: [new Int32Array(6)],
      weights: floats(6),
      scores: floats(12),
    };
    await group.gate(forward);
    for (const change of [
      { logits: floats(11) },
      { bias: floats(3) },
      { ids: [new Int32Array(5)] },
      { weights: floats(5) },
      { scores: floats(11) },
      { scores: [] },
      { scores: forward.logits },
      { weights: [new Uint8Array(forward.ids[0]!.buffer)] },
      { bias: forward.scores },
    ]) {
      await expect(group.gate({ ...forward, ...change })).rejects.toThrow(code('E_BUFFER'));
    }
    await expect(group.gate({ ...forward, options: { experts: 4, topk: 5 } })).rejects.toThrow(
      code('E_OPTION'),
    );
    const backward = {
      options,
      tokens: [3],
      ids: forward.ids,
      scores: forward.scores,
      weightsGradient: floats(6),
      logitsGradient: floats(12),
    };
    await group.gateBackward(backward);
    for (const id of [-1, 4]) {
      const ids = [Int32Array.of(0, 1, 0, 1, 0, id)];
      await expect(group.gateBackward({ ...backward, ids })).rejects.toThrow(
        `id ${id} of entry 5 is not in 0..3`,
      );
    }
    await expect(group.gateBackward({ ...backward, logitsGradient: floats(11) })).rejects.toThrow(
      code('E_BUFFER'),
    );
  });

  it('gates no tokens', async () => {
    group = await createGroup({ ranks: 1, backend });
    const none = floats(0);
    const ids = [new Int32Array(0)];
    await group.gate({ options, tokens: [0], logits: none, ids, weights: none, scores: none });
  });
});
