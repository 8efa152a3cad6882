// Hierarchical plans executed: what arrives is what a flat plan brings, bit for bit; combine adds along the tree.

import { describe, expect, it } from 'vitest';
import type { BackendName, DispatchCall, Memory } from '../../executor/backends/types.ts';
import type { Exchange } from '../../executor/group.ts';
import { findAddon } from '../../executor/native/addon.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { PlanOptions, VerifiedPlan } from '../../planner/index.ts';
import {
  bytesOf,
  combined,
  encode,
  f32,
  floats,
  halves,
  planOf,
  poisoned,
  prepare,
  u16,
  u32,
  words,
} from '../support/buffers.ts';
import { obviousPlan, type PlainRouting } from '../support/obviousPlan.ts';
import { makeRouting, placementOf, randomFrom } from '../support/workloads.ts';

const hasAddon = findAddon().addon !== undefined;
const BACKENDS: BackendName[] = hasAddon ? ['reference', 'host'] : ['reference'];

type Options = Omit<PlanOptions, 'ranks'>;

/** Groups of 1, 2, 3 and 4 nodes and of 1 rank a node, with masks, drops, replicas, padding and ranks without rows. */
const GROUPS: Record<string, { routing: PlainRouting; topk: number; options: Options }> = {
  'one node': {
    routing: makeRouting({ family: 'balanced', seed: 1, ranks: 4, tokens: 9, topk: 3, experts: 8 }),
    topk: 3,
    options: { experts: 8, ranksPerNode: 4, align: 4 },
  },
  '2 nodes of 2, crowded': {
    routing: makeRouting({
      family: 'hotExperts',
      seed: 2,
      ranks: 4,
      tokens: 17,
      topk: 4,
      experts: 12,
      masked: 0.15,
    }),
    topk: 4,
    options: { experts: 12, ranksPerNode: 2, align: 8, capacity: 14, balance: 'rotate' },
  },
  '3 nodes of 2, replicas, uneven': {
    routing: makeRouting({ family: 'raggedSources', seed: 3, ranks: 6, tokens: 21, topk: 3, experts: 10 }),
    topk: 3,
    options: { experts: 10, ranksPerNode: 2, placement: placementOf('replicas', 10, 6), balance: 'lpt' },
  },
  '4 nodes of 2, a hot rank': {
    routing: makeRouting({ family: 'hotRank', seed: 4, ranks: 8, tokens: 11, topk: 8, experts: 32 }),
    topk: 8,
    options: { experts: 32, ranksPerNode: 2, partial: 'f32' },
  },
  '5 nodes of 1, one without tokens': {
    routing: makeRouting({ family: 'rankWithoutRows', seed: 5, ranks: 5, tokens: 13, topk: 4, experts: 15 }),
    topk: 4,
    options: { experts: 15, ranksPerNode: 1, align: 16 },
  },
};
const GROUP_NAMES = Object.keys(GROUPS);

/** The flat plan of a group, and the hierarchical one. */
async function bothPlans(name: string): Promise<{ flat: VerifiedPlan; hier: VerifiedPlan }> {
  const { routing, topk, options } = GROUPS[name]!;
  const hier = await planOf(routing, topk, { ...options, strategy: 'hier' });
  return { flat: await planOf(routing, topk, { ...options, strategy: 'flat' }), hier };
}

function randomBytes(size: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length: size }, () => Math.floor(256 * random()));
}

/** Floats between -2 and 2 that the dtype holds exactly and that are no smaller than 2^-7. */
function randomValues(count: number, random: () => number): number[] {
  return Array.from({ length: count }, () => {
    const size = Math.floor(128 + 128 * random()) * 2 ** (Math.floor(8 * random()) - 14);
    return random() < 0.5 ? -size : size;
  });
}

describe.each(BACKENDS)('%s: dispatch', (backend) => {
  /** Dispatches with a plan into poisoned buffers and returns every byte of them. */
  async function received(
    plan: VerifiedPlan,
    call: (to: (rowBytes: number) => Uint8Array[]) => DispatchCall,
  ): Promise<number[][]> {
    const buffers: Uint8Array[] = [];
    const exchange = await prepare(plan, backend);
    await exchange.dispatch(
      call((rowBytes) => {
        const made = poisoned(
          exchange.recvRows.map((rows) => rows * rowBytes),
          32,
        );
        buffers.push(...made);
        return made;
      }),
    );
    return buffers.map(bytesOf);
  }

  it.each(GROUP_NAMES)(
    '%s: the receive buffers of a flat plan, padding and origins included',
    async (name) => {
      const { flat, hier } = await bothPlans(name);
      const random = randomFrom(7);
      const { topk } = GROUPS[name]!;
      const rows = [1, 16, 35].map((rowBytes) => ({
        rowBytes,
        from: hier.shards.map(({ tokens }) => randomBytes(tokens * rowBytes, random)),
      }));
      const weights = hier.shards.map(({ tokens }) => randomBytes(4 * tokens * topk, random));
      const call = (to: (rowBytes: number) => Uint8Array[]): DispatchCall => ({
        payloads: [
          ...rows.map((payload) => ({ ...payload, to: to(payload.rowBytes) })),
          { rowBytes: 4, per: 'entry', from: weights, to: to(4) },
        ],
        origins: to(12),
      });
      expect(await received(hier, call)).toEqual(await received(flat, call));
    },
  );

  it.each(GROUP_NAMES)('%s: scaled rows as in a flat plan, each copy by its weight', async (name) => {
    const { flat, hier } = await bothPlans(name);
    const random = randomFrom(8);
    const { topk } = GROUPS[name]!;
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      const rowBytes = 5 * (dtype === 'f32' ? 4 : 2);
      const from = hier.shards.map(({ tokens }) => encode(dtype, randomValues(tokens * 5, random)));
      const scale = hier.shards.map(({ tokens }) => f32(...randomValues(tokens * topk, random)));
      const call = (to: (bytes: number) => Uint8Array[]): DispatchCall => ({
        payloads: [{ rowBytes, dtype, from, to: to(rowBytes) }],
        scale,
      });
      expect(await received(hier, call)).toEqual(await received(flat, call));
    }
  });

  it('a row that lands in a slot is scaled there last', async () => {
    // 2 nodes of 2 ranks. Rank 0's token goes to experts on ranks 2 (its forwarder), 3 and 2 again, weights 2, 3, 5:
    // it lands in the lower of rank 2's rows, from which the others are made before it becomes 2 x itself.
    const plan = await planOf([[[0, 1, 2]], [], [], []], 3, {
      experts: 3,
      ranksPerNode: 2,
      placement: [2, 3, 2],
      strategy: 'hier',
      balance: 'static',
    });
    expect([...plan.shards[0]!.forwardTarget]).toEqual([0]);
    const to = poisoned([0, 0, 8, 4]);
    const empty = new Uint8Array(0);
    const exchange = await prepare(plan, backend);
    await exchange.dispatch({
      payloads: [{ rowBytes: 4, dtype: 'f32', from: [f32(7), empty, empty, empty], to }],
      scale: [f32(2, 3, 5), empty, empty, empty],
    });
    expect(to.map(floats)).toEqual([[], [], [14, 35], [21]]);
  });

  it('keeps every byte of a row that is staged, NaN payloads included', async () => {
    const options: Options = { experts: 4, ranksPerNode: 2, strategy: 'hier', balance: 'static' };
    const plan = await planOf([[[3]], [], [], []], 1, options);
    expect(plan.shards[0]!.staged).toBe(1);
    const to = poisoned([0, 0, 0, 4]);
    const from = [u32(0x7fa12345), new Uint8Array(0), new Uint8Array(0), new Uint8Array(0)];
    await (await prepare(plan, backend)).dispatch({ payloads: [{ rowBytes: 4, from, to }] });
    expect(words(to[3]!)).toEqual([0x7fa12345]);
  });
});

/** `flat`, or hierarchical with partial sums in the payload's dtype or in float32. */
type Tree = 'flat' | 'payload' | 'f32';

const TREES: Record<Tree, Partial<PlanOptions>> = {
  flat: { strategy: 'flat' },
  payload: { strategy: 'hier', partial: 'payload' },
  f32: { strategy: 'hier', partial: 'f32' },
};

describe.each(BACKENDS)('%s: the tree of combine, by hand', (backend) => {
  /** One token at rank `home`; its entry k goes to node nodes[k] (1 rank a node) and comes back as values[k]. */
  async function oneToken(
    tree: Tree,
    dtype: FloatDtype,
    nodes: readonly number[],
    values: readonly number[],
    { weights, home = 0 }: { weights?: readonly number[]; home?: number } = {},
  ): Promise<Uint8Array> {
    const ranks = Math.max(home, ...nodes) + 1;
    const routing = Array.from({ length: ranks }, (_, rank) =>
      rank === home ? [nodes.map((_, k) => k)] : [],
    );
    const placement = [...nodes];
    const options = { experts: nodes.length, ranksPerNode: 1, placement, ...TREES[tree] };
    const plan = await planOf(routing, nodes.length, options);
    const pack = dtype === 'f32' ? u32 : u16;
    const from = routing.map((_, rank) => pack(...values.filter((_, k) => nodes[k] === rank)));
    const packed = routing.map((_, rank) => f32(...(rank === home ? (weights ?? []) : [])));
    const rowBytes = dtype === 'f32' ? 4 : 2;
    const out = await combined(plan, dtype, rowBytes, from, weights && packed, backend);
    return out[home]!;
  }

  const bits = (...values: number[]) => words(f32(...values));
  const bf16 = (...values: number[]) => halves(encode('bf16', values));
  const all = async (...args: [FloatDtype, readonly number[], readonly number[], object?]) => {
    const [dtype, nodes, values, more] = args;
    const results: Record<Tree, number> = { flat: 0, payload: 0, f32: 0 };
    for (const tree of ['flat', 'payload', 'f32'] as const) {
      const bytes = await oneToken(tree, dtype, nodes, values, more);
      results[tree] = (dtype === 'f32' ? words(bytes) : halves(bytes))[0]!;
    }
    return results;
  };

  it('adds each node first', async () => {
    // By k: 1e8 + 1 = 1e8, less 1e8 is 0, and 1. By node: (1 + 1) + (1e8 - 1e8) = 2.
    const [one, two] = bits(1, 2) as [number, number];
    const values = bits(1e8, 1, -1e8, 1);
    expect(await all('f32', [1, 0, 1, 0], values)).toEqual({ flat: one, payload: two, f32: two });
  });

  it('adds nodes in ascending order, wherever home is, and k in ascending order inside', async () => {
    // Nodes 0, 1, 2 hold 1e8, -1e8, 1: in this order 1, in the order of k (2, 1, 0) or home first 0.
    const [zero, one] = bits(0, 1) as [number, number];
    for (const home of [0, 1, 2, 3]) {
      const found = await all('f32', [2, 1, 0], bits(1, -1e8, 1e8), { home });
      expect(found).toEqual({ flat: zero, payload: one, f32: one });
    }
    // Inside node 1 k 0, 1, 2 give 1e8 - 1e8 + 1 = 1; node 0 adds 0.5.
    expect(words(await oneToken('f32', 'f32', [1, 1, 1, 0], bits(1e8, -1e8, 1, 0.5)))).toEqual(bits(1.5));
  });

  it('flat, bf16 partials and float32 partials all differ', async () => {
    // k:           0        1       2        3        4        bf16's step at 1 is 2^-7.
    // node:        1        0       1        0        1
    // flat: 2^25 + 1 = 2^25, less 2^25 is 0, + 2^-8 + 2^-8 = 2^-7.
    // float32: node 0 has 1 + 2^-8, node 1 has 2^-8; together 1 + 2^-7.
    // bf16: node 0's 1 + 2^-8 ties to 1; 1 + 2^-8 ties to 1 again.
    const values = bf16(2 ** 25, 1, -(2 ** 25), 2 ** -8, 2 ** -8);
    expect(await all('bf16', [1, 0, 1, 0, 1], values)).toEqual({
      flat: 0x3c00,
      payload: 0x3f80,
      f32: 0x3f81,
    });
  });

  it('rounds every partial, a lone product and the local node too', async () => {
    // Three nodes with (1 + 2^-8) x 1 each: rounded to bf16 they are 1, and the sum is 3. Unrounded it is
    // 3 + 3 x 2^-8, which is three quarters of the step 2^-6 above 3.
    const weights = [1 + 2 ** -8, 1 + 2 ** -8, 1 + 2 ** -8];
    const found = await all('bf16', [0, 1, 2], bf16(1, 1, 1), { weights });
    expect(found).toEqual({ flat: 0x4041, payload: 0x4040, f32: 0x4041 });
    // The same with all three on the local node: one partial, 3 + 3 x 2^-8, is rounded once.
    const own = await all('bf16', [0, 0, 0], bf16(1, 1, 1), { weights });
    expect(own).toEqual({ flat: 0x4041, payload: 0x4041, f32: 0x4041 });
  });

  it('rounds a product before it is added to a partial', async () => {
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 ties to 1 + 2^-11; a fused multiply-add would leave 2^-24.
    const weights = [1, 1 + 2 ** -12];
    const values = bits(-(1 + 2 ** -11), 1 + 2 ** -12);
    expect(await all('f32', [1, 1], values, { weights })).toEqual({ flat: 0, payload: 0, f32: 0 });
  });

  it('starts partials and the sum from +0', async () => {
    expect(await all('f32', [1, 0], [0x80000000, 0x80000000])).toEqual({ flat: 0, payload: 0, f32: 0 });
    expect(await all('bf16', [1], [0x8000])).toEqual({ flat: 0, payload: 0, f32: 0 });
    expect(await all('f16', [1, 2], [0x8000, 0x8000])).toEqual({ flat: 0, payload: 0, f32: 0 });
    // A partial that rounds to -0 in bf16, half of the smallest subnormal, leaves +0.
    expect(await all('bf16', [1], [0x8001], { weights: [0.5] })).toEqual({
      flat: 0x8000,
      payload: 0,
      f32: 0x8000,
    });
  });

  it('keeps subnormal partials, and those of float32 between bf16 steps', async () => {
    expect(await all('f32', [1, 0, 1], [1, 4, 2])).toEqual({ flat: 7, payload: 7, f32: 7 });
    expect(await all('f16', [1, 1, 2], [1, 0x8003, 1])).toEqual({
      flat: 0x8001,
      payload: 0x8001,
      f32: 0x8001,
    });
    // Half of the smallest bf16 from each of two nodes: ties to 0 in bf16, is kept in float32.
    const weights = [0.5, 0.5];
    expect(await all('bf16', [1, 2], [1, 1], { weights })).toEqual({ flat: 1, payload: 0, f32: 1 });
  });

  it('infinities meet across nodes, and partials that overflow their dtype stay infinite', async () => {
    const nan = { flat: 0x7fc00000, payload: 0x7fc00000, f32: 0x7fc00000 };
    expect(await all('f32', [1, 2], [0x7f800000, 0xff800000])).toEqual(nan);
    expect(await all('f32', [1, 2], [0xffa12345, 0x3f800000])).toEqual(nan);
    expect(await all('f32', [1, 0], [0xff800000, 0x3f800000])).toEqual({
      flat: 0xff800000,
      payload: 0xff800000,
      f32: 0xff800000,
    });
    const half = { flat: 0x7e00, payload: 0x7e00, f32: 0x7e00 };
    expect(await all('f16', [1, 2], [0xfc01, 0x3c00])).toEqual(half);
    expect(await all('f16', [1, 0], [0x7c00, 0xfc00])).toEqual(half);
    // Twice the largest f16 less one of it: a node's partial of f16 is infinite, one of float32 is not.
    const large = [0x7bff, 0x7bff, 0xfbff];
    expect(await all('f16', [1, 1, 2], large)).toEqual({ flat: 0x7bff, payload: 0x7c00, f32: 0x7bff });
    // The two infinities of an overflow either way: a NaN where flat finds 0.
    const four = [0x7bff, 0xfbff, 0x7bff, 0xfbff];
    expect(await all('f16', [1, 2, 1, 2], four)).toEqual({ flat: 0, payload: 0x7e00, f32: 0 });
  });
});

/** To the dtype's grid, half to even: by division, not by bits. Normal numbers and zero. */
function roundTo(dtype: FloatDtype, value: number): number {
  if (dtype === 'f32') return Math.fround(value);
  if (value === 0) return 0;
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  const step = 2 ** (exponent - (dtype === 'bf16' ? 7 : 10));
  const low = Math.floor(value / step);
  const rest = value / step - low;
  return (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low) * step;
}

const ELEMENTS = 7;

/** y, w and what combine makes of them, by the obvious plan and one float32 operation after the other. */
function byHand(name: string, dtype: FloatDtype, partial: 'flat' | 'payload' | 'f32', seed: number) {
  const { routing, topk, options } = GROUPS[name]!;
  const random = randomFrom(seed);
  const obvious = obviousPlan(routing, { ...options, ranks: routing.length } as never);
  const y = obvious.map((rank) =>
    Array.from({ length: rank.expertOffsets.at(-1)! }, () => randomValues(ELEMENTS, random)),
  );
  const w = routing.map((tokens) => tokens.map(() => randomValues(topk, random)));
  const nodes = routing.length / options.ranksPerNode!;
  const magnitude = routing.map((): number[] => []);
  const exact = routing.map((): number[] => []);
  const out = obvious.map(({ fates }, source) =>
    fates.flatMap((ids, token) =>
      Array.from({ length: ELEMENTS }, (_, i) => {
        const products = ids.flatMap((fate, k) => {
          if (fate.kind !== 'kept') return [];
          const node = partial === 'flat' ? 0 : Math.floor(fate.rank / options.ranksPerNode!);
          return [{ node, product: w[source]![token]![k]! * y[fate.rank]![fate.row]![i]! }];
        });
        let sum = 0;
        for (let node = 0; node < nodes; node++) {
          const here = products.filter((entry) => entry.node === node);
          let part = 0;
          for (const { product } of here) part = Math.fround(part + Math.fround(product));
          if (partial === 'payload') part = roundTo(dtype, part);
          sum = Math.fround(sum + part);
        }
        magnitude[source]!.push(products.reduce((total, { product }) => total + Math.abs(product), 0));
        exact[source]!.push(products.reduce((total, { product }) => total + product, 0));
        return roundTo(dtype, sum);
      }),
    ),
  );
  const from: Memory[] = y.map((rows) => encode(dtype, rows.flat()));
  return { from, weights: w.map((tokens) => f32(...tokens.flat())), out, magnitude, exact };
}

function decode(dtype: FloatDtype, bytes: Uint8Array): number[] {
  if (dtype === 'f32') return floats(bytes);
  if (dtype === 'bf16') return floats(u32(...halves(bytes).map((half) => half * 65536)));
  return halves(bytes).map((half) => {
    const size = half & 0x7fff;
    const value = size < 1024 ? size * 2 ** -24 : (1024 + (size & 1023)) * 2 ** ((size >> 10) - 25);
    return half & 0x8000 ? -value : value;
  });
}

describe.each(BACKENDS)('%s: combine of whole groups', (backend) => {
  const cases = GROUP_NAMES.flatMap((name) =>
    (['f32', 'bf16', 'f16'] as const).flatMap((dtype) =>
      (['payload', 'f32'] as const).map((partial) => [name, dtype, partial] as const),
    ),
  );

  it.each(cases)('%s, %s rows, %s partials: every sum along its tree', async (name, dtype, partial) => {
    const { routing, topk, options } = GROUPS[name]!;
    const plan = await planOf(routing, topk, { ...options, strategy: 'hier', partial });
    const { from, weights, out } = byHand(name, dtype, partial, 21);
    const rowBytes = ELEMENTS * (dtype === 'f32' ? 4 : 2);
    const found = await combined(plan, dtype, rowBytes, from, weights, backend);
    expect(found.map((bytes) => decode(dtype, bytes))).toEqual(out.map((values) => values.map((v) => v + 0)));
  });

  // Unit roundoffs: of float32 2^-24, of bf16 2^-8. Here a sum has at most 8 products, 8 + 4 additions.
  const SMALL = 16 * 2 ** -24;
  const BF16 = 2 ** -8;
  it.each([
    { dtype: 'f32', partial: 'payload', bound: SMALL, says: 'a few units in the last place' },
    { dtype: 'f32', partial: 'f32', bound: SMALL, says: 'a few units in the last place' },
    { dtype: 'bf16', partial: 'f32', bound: BF16 + SMALL, says: '2^-8' },
    { dtype: 'bf16', partial: 'payload', bound: 2 * BF16 + BF16 ** 2 + SMALL, says: '2^-8 a level' },
  ] as const)(
    '$dtype rows, $partial partials: off by $says of the sum of |w y|',
    async ({ dtype, partial, bound }) => {
      const ofFlat = dtype === 'f32' ? SMALL : BF16 + SMALL;
      let differs = 0;
      for (const [seed, name] of GROUP_NAMES.entries()) {
        const { routing, topk, options } = GROUPS[name]!;
        const { from, weights, magnitude, exact } = byHand(name, dtype, partial, 31 + seed);
        const rowBytes = ELEMENTS * (dtype === 'f32' ? 4 : 2);
        const outOf = async (more: Options) => {
          const plan = await planOf(routing, topk, more);
          const out = await combined(plan, dtype, rowBytes, from, weights, backend);
          return out.flatMap((bytes) => decode(dtype, bytes));
        };
        const hier = await outOf({ ...options, strategy: 'hier', partial });
        const flat = await outOf({ ...options, strategy: 'flat' });
        const sizes = magnitude.flat();
        const sums = exact.flat();
        const beyond = hier.filter((value, i) => {
          const near = Math.abs(value - sums[i]!) <= bound * sizes[i]!;
          return !near || Math.abs(value - flat[i]!) > (bound + ofFlat) * sizes[i]!;
        });
        expect(beyond).toEqual([]);
        expect(hier.length).toBe(sums.length);
        differs += hier.filter((value, i) => value !== flat[i]).length;
      }
      // Another order of additions is seen in float32 and in bf16 partials; the last rounding to bf16 hides it.
      if (dtype === 'f32' || partial === 'payload') expect(differs).toBeGreaterThan(0);
    },
  );

  it.each(GROUP_NAMES)('%s: the gradient of the weights is that of a flat plan', async (name) => {
    const { flat, hier } = await bothPlans(name);
    const { from } = byHand(name, 'f32', 'flat', 41);
    const random = randomFrom(42);
    const outputGradient = hier.shards.map(({ tokens }) =>
      encode('f32', randomValues(tokens * ELEMENTS, random)),
    );
    const gradientOf = async (exchange: Exchange) => {
      const to = poisoned(hier.shards.map(({ entries }) => 4 * entries));
      await exchange.weightGradient({ dtype: 'f32', rowBytes: 4 * ELEMENTS, outputGradient, from, to });
      return to.map(bytesOf);
    };
    const wanted = await gradientOf(await prepare(flat, backend));
    expect(wanted.flat().some((byte) => byte !== 0)).toBe(true);
    expect(await gradientOf(await prepare(hier, backend))).toEqual(wanted);
  });

  it.each([2, 4, 8])('a round trip with weights 1/%i returns the input', async (topk) => {
    const routing = Array.from({ length: 6 }, (_, rank) =>
      Array.from({ length: 5 }, (_, token) =>
        Array.from({ length: topk }, (_, k) => (3 * rank + 5 * token + 7 * k) % 18),
      ),
    );
    const plan = await planOf(routing, topk, { experts: 18, ranksPerNode: 2, align: 4, strategy: 'hier' });
    const exchange = await prepare(plan, backend);
    const x = routing.map((_, rank) => f32(...Array.from({ length: 15 }, (_, i) => 16 * rank + i - 7)));
    const weights = routing.map(() => f32(...new Array<number>(5 * topk).fill(1 / topk)));
    const arrived = poisoned(exchange.recvRows.map((rows) => 12 * rows));
    const out = poisoned(routing.map(() => 60));
    await exchange.dispatch({ payloads: [{ rowBytes: 12, from: x, to: arrived }] });
    await exchange.combine({ dtype: 'f32', rowBytes: 12, from: arrived, to: out, weights });
    expect(out.map(bytesOf)).toEqual(x.map(bytesOf));
  });
});
