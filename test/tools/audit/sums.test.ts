// Error bounds and orders of addition of combined rows, against sums that are computed here, step by step.

import { expect, it } from 'vitest';
import { type AuditLayout, auditLayouts, auditOrders, openAudit } from '../../../executor/native/audit.ts';
import { attempt } from '../../../executor/native/errors.ts';
import {
  bf16ToFloat,
  type FloatDtype,
  f16ToFloat,
  floatToBf16,
  floatToF16,
} from '../../../executor/numeric.ts';
import { loadPlanner } from '../../../planner/node.ts';
import { describeNative } from '../../support/addon.ts';
import { makeRouting, randomFrom, toTables } from '../../support/workloads.ts';

const RANKS = 8;
const PER_NODE = 2;
const EXPERTS = 24;
const TOPK = 6;
const TOKENS = 2;
/** More than are computed at a time. */
const ELEMENTS = 260;

const DTYPES: Readonly<Record<FloatDtype, { bytes: number; round: (value: number) => number }>> = {
  f32: { bytes: 4, round: Math.fround },
  f16: { bytes: 2, round: (value) => f16ToFloat(floatToF16(Math.fround(value))) },
  bf16: { bytes: 2, round: (value) => bf16ToFloat(floatToBf16(Math.fround(value))) },
};

function storedOf(dtype: FloatDtype, values: readonly number[]): Float32Array | Uint16Array {
  if (dtype === 'f32') return Float32Array.from(values);
  return Uint16Array.from(values, dtype === 'f16' ? floatToF16 : floatToBf16);
}

/** One element of a token's terms. */
interface Term {
  value: number;
  weight: number;
  k: number;
  expert: number;
  rank: number;
  node: number;
}

type Round = (value: number) => number;
const { fround } = Math;

const plus = (round: Round) => (sum: number, value: number) => round(sum + value);
const byK = (a: Term, b: Term) => a.k - b.k;
const byExpert = (a: Term, b: Term) => a.expert - b.expert;
const product = ({ value, weight }: Term) => fround(value * weight);

/** fround(sum + value * weight): the product of two float32 is exact in a double; round to odd before the last step. */
function fused(sum: number, { value, weight }: Term): number {
  const exact = value * weight;
  const total = exact + sum;
  const part = total - exact;
  const error = exact - (total - part) + (sum - part);
  if (error === 0) return fround(total);
  const bits = new BigInt64Array(Float64Array.of(total).buffer);
  if (bits[0]! % 2n === 0n) bits[0]! += error > 0 === total > 0 ? 1n : -1n;
  return fround(new Float64Array(bits.buffer)[0]!);
}

/** Groups of terms by a number, ascending. */
function groupsOf(terms: readonly Term[], key: (term: Term) => number): Term[][] {
  const keys = [...new Set(terms.map(key))].sort((a, b) => a - b);
  return keys.map((wanted) => terms.filter((term) => key(term) === wanted));
}

const rankOf = ({ rank }: Term) => rank;
const nodeOf = ({ node }: Term) => node;

/** What each order of addition gives, before the last rounding; `round` is that of the dtype of the rows. */
const ORDERS: Readonly<Record<string, (terms: Term[], round: Round) => number>> = {
  k: (terms) => terms.sort(byK).map(product).reduce(plus(fround), 0),
  'k-fused': (terms) => terms.sort(byK).reduce(fused, 0),
  'k-reverse': (terms) => terms.sort(byK).reverse().map(product).reduce(plus(fround), 0),
  'k-products-rounded': (terms, round) =>
    terms
      .sort(byK)
      .map((term) => round(product(term)))
      .reduce(plus(fround), 0),
  'k-rounded': (terms, round) =>
    terms
      .sort(byK)
      .map((term) => round(product(term)))
      .reduce(plus(round), 0),
  'k-pairs': (terms) => {
    let level = terms.sort(byK).map(product);
    while (level.length > 1) {
      const above: number[] = [];
      for (let i = 0; i < level.length; i += 2) above.push(fround(level[i]! + (level[i + 1] ?? 0)));
      level = above;
    }
    return level[0] ?? 0;
  },
  expert: (terms) => terms.sort(byExpert).map(product).reduce(plus(fround), 0),
  'expert-rounded': (terms, round) =>
    terms
      .sort(byExpert)
      .map((term) => round(product(term)))
      .reduce(plus(round), 0),
  rank: (terms) => byGroups(terms, [rankOf], (value) => value),
  'rank-rounded': (terms, round) => byGroups(terms, [rankOf], round),
  'rank-fused-rounded': (terms, round) =>
    groupsOf(terms, rankOf)
      .map((group) => round(group.sort(byK).reduce(fused, 0)))
      .reduce(plus(fround), 0),
  node: (terms) => byGroups(terms, [nodeOf], (value) => value),
  'node-rounded': (terms, round) => byGroups(terms, [nodeOf], round),
  'node-rank': (terms) => byGroups(terms, [nodeOf, rankOf], (value) => value),
  'node-rank-rounded': (terms, round) => byGroups(terms, [nodeOf, rankOf], round),
};

function byGroups(terms: Term[], keys: ((term: Term) => number)[], round: Round): number {
  const [key, ...rest] = keys;
  if (key === undefined) return terms.sort(byK).map(product).reduce(plus(fround), 0);
  return groupsOf(terms, key)
    .map((group) => round(byGroups(group, rest, round)))
    .reduce(plus(fround), 0);
}

/** Any tree of additions in float32, over rounded products. */
function anyTree(terms: readonly Term[], random: () => number): number {
  const open = terms.map(product);
  while (open.length > 1) {
    const [a] = open.splice(Math.floor(random() * open.length), 1);
    const at = Math.floor(random() * open.length);
    open[at] = fround(open[at]! + a!);
  }
  return open[0] ?? 0;
}

/** A routing with operands whose sums round differently in every order. */
function caseOf(dtype: FloatDtype, seed: number) {
  const random = randomFrom(seed);
  const { round } = DTYPES[dtype];
  const routing = makeRouting({
    family: 'hotExperts',
    seed,
    ranks: RANKS,
    tokens: TOKENS,
    topk: TOPK,
    experts: EXPERTS,
    masked: 0.1,
  });
  const value = () => round((random() - 0.5) * 2 ** Math.floor(6 * random() - 3));
  const input = routing.map((tokens) => Array.from({ length: tokens.length * ELEMENTS }, value));
  const weights = routing.map((tokens) =>
    Float32Array.from({ length: tokens.length * TOPK }, () => random() / 2),
  );
  const termsOf = (source: number, token: number, element: number): Term[] =>
    routing[source]![token]!.flatMap((expert, k) => {
      const rank = Math.floor((expert * RANKS) / EXPERTS);
      const weight = weights[source]![token * TOPK + k]!;
      const term = { value: input[source]![token * ELEMENTS + element]!, weight, k, expert };
      return expert < 0 ? [] : [{ ...term, rank, node: Math.floor(rank / PER_NODE) }];
    });
  return { routing, input, weights, termsOf, random };
}

type Case = ReturnType<typeof caseOf>;

async function auditOf({ routing, input }: Case, dtype: FloatDtype, layout: AuditLayout) {
  const planner = await loadPlanner();
  const options = { experts: EXPERTS, ranks: RANKS, ranksPerNode: PER_NODE };
  const audit = await openAudit(planner.planAll(toTables(routing, TOPK), options), layout);
  const rows = input.map((values) => storedOf(dtype, values));
  attempt(() => audit.setInput({ dtype, rowBytes: ELEMENTS * DTYPES[dtype].bytes, rows }));
  return audit;
}

/** A rank's combined rows, element by element. */
function combinedOf(of: Case, dtype: FloatDtype, rank: number, add: (terms: Term[]) => number) {
  const values = Array.from({ length: TOKENS * ELEMENTS }, (_, i) =>
    add(of.termsOf(rank, Math.floor(i / ELEMENTS), i % ELEMENTS)),
  );
  return storedOf(dtype, values);
}

const fusco = () => auditLayouts().fusco!;
const wide = (): AuditLayout => ({ ...fusco(), accumulate: 'payload', partials: 2 });

describeNative('an order of addition', () => {
  it('is computed below, each of them', () => {
    expect(Object.keys(ORDERS)).toEqual(auditOrders());
  });

  /** The rows of one rank in every order. */
  const rank = 5;
  const known = (['bf16', 'f16', 'f32'] as const).map((dtype, seed) => {
    const of = caseOf(dtype, 10 + seed);
    const sums = new Map(
      Object.entries(ORDERS).map(([name, add]) => [
        name,
        combinedOf(of, dtype, rank, (terms) => add(terms, DTYPES[dtype].round)),
      ]),
    );
    return { dtype, of, sums };
  });

  it.each(Object.keys(ORDERS))('%s is named by the bits that it gives, in every dtype', async (name) => {
    for (const { dtype, of, sums } of known) {
      const audit = await auditOf(of, dtype, wide());
      const combined = sums.get(name)!;
      const report = audit.combine({ rank, combined, weights: of.weights[rank]!, room: 3 });
      expect(report.differences, dtype).toEqual([]);
      const bytes = (array: ArrayBufferView) => Buffer.from(array.buffer as ArrayBuffer);
      const same = [...sums].filter(([, other]) => bytes(other).equals(bytes(combined)));
      expect(report.orders).toEqual(same.map(([other]) => other));
      // Rounding to 8 or 11 bits hides the order of float32 additions; float32 rows show it.
      if (dtype === 'f32') expect(same.length).toBeLessThan(6);
      audit.close();
    }
  });
});

describeNative('the bound of a sum', () => {
  it('holds for any tree of float32 additions, and is not wide', async () => {
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      for (let seed = 20; seed < 26; seed++) {
        const of = caseOf(dtype, seed);
        const audit = await auditOf(of, dtype, { ...fusco(), partials: 0 });
        const combined = combinedOf(of, dtype, 1, (terms) => anyTree(terms, of.random));
        const call = { rank: 1, combined, weights: of.weights[1]!, room: 1 };
        const report = audit.combine(call);
        expect(report.differences).toEqual([]);
        expect(report.largestError).toBeGreaterThan(dtype === 'f32' ? 0.1 : 0.5);
        expect(report.largestError).toBeLessThanOrEqual(1);
        audit.close();
      }
    }
  });

  it.each(['f32', 'f16', 'bf16'] as const)(
    'excludes an element of %s a few roundings away',
    async (dtype) => {
      const of = caseOf(dtype, 30);
      const audit = await auditOf(of, dtype, { ...fusco(), partials: 0 });
      const unit = { f32: 2 ** -24, f16: 2 ** -11, bf16: 2 ** -8 }[dtype];
      for (const sign of [1, -1]) {
        const exact = (terms: Term[]) => terms.reduce((sum, { value, weight }) => sum + value * weight, 0);
        const size = (terms: Term[]) =>
          terms.reduce((sum, { value, weight }) => sum + Math.abs(value * weight), 0);
        const off = combinedOf(of, dtype, 2, (terms) => exact(terms) + sign * 12 * unit * size(terms));
        const report = audit.combine({ rank: 2, combined: off, weights: of.weights[2]!, room: 1 });
        expect(report.wrong).toBe(report.rows);
      }
      audit.close();
    },
  );

  it('is wider where a layout says that partial sums, or all sums, are rounded', async () => {
    const of = caseOf('bf16', 40);
    const rounded = combinedOf(of, 'bf16', 3, (terms) => ORDERS['k-rounded']!(terms, DTYPES.bf16.round));
    const call = { rank: 3, combined: rounded, weights: of.weights[3]!, room: 1 };
    const narrow = await auditOf(of, 'bf16', { ...fusco(), partials: 0 });
    const { wrong, counts } = narrow.combine(call);
    expect(wrong).toBeGreaterThan(0);
    expect(counts).toEqual({ rounding: wrong });
    narrow.close();
    const audit = await auditOf(of, 'bf16', { ...fusco(), accumulate: 'payload' });
    expect(audit.combine(call).wrong).toBe(0);
    audit.close();
  });
});

describeNative('sums of special values', () => {
  /** One token whose row has these values, sent to two experts with these weights. */
  async function verdictOf(
    row: readonly number[],
    found: readonly number[],
    weights = [0.5, 0.25],
    dtype: FloatDtype = 'f32',
  ) {
    const planner = await loadPlanner();
    const plan = planner.planAll([{ ids: Int32Array.of(0, 1), tokens: 1, topk: 2 }], {
      experts: 2,
      ranks: 1,
    });
    const audit = await openAudit(plan, { ...fusco(), partials: 0 });
    audit.setInput({ dtype, rowBytes: row.length * DTYPES[dtype].bytes, rows: [storedOf(dtype, row)] });
    const combined = storedOf(dtype, found);
    const report = audit.combine({ rank: 0, combined, weights: Float32Array.from(weights), room: 1 });
    audit.close();
    return report.counts;
  }

  it('NaN operands give NaN, and nothing else does', async () => {
    expect(await verdictOf([Number.NaN, 1], [Number.NaN, 0.75])).toEqual({});
    expect(await verdictOf([Number.NaN, 1], [1, 0.75])).toEqual({ values: 1 });
    expect(await verdictOf([2, 1], [Number.NaN, 0.75])).toEqual({ nan: 1 });
  });

  it('infinite operands give infinity of their sign', async () => {
    expect(await verdictOf([-Infinity, 1], [-Infinity, 0.75])).toEqual({});
    expect(await verdictOf([-Infinity, 1], [Infinity, 0.75])).toEqual({ values: 1 });
    expect(await verdictOf([2, 1], [Infinity, 0.75])).toEqual({ values: 1 });
  });

  it('may overflow where the exact sum rounds to infinity', async () => {
    expect(await verdictOf([60000], [Infinity], [1, 0.5], 'f16')).toEqual({});
    expect(await verdictOf([60000], [-Infinity], [1, 0.5], 'f16')).not.toEqual({});
    expect(await verdictOf([40000], [60000], [1, 0.5], 'f16')).toEqual({});
  });

  it('keep subnormal numbers, to half of the smallest', async () => {
    const tiny = 2 ** -149;
    expect(await verdictOf([3 * tiny], [2 * tiny])).toEqual({});
    expect(await verdictOf([40 * tiny], [30 * tiny])).toEqual({});
    expect(await verdictOf([40 * tiny], [36 * tiny])).not.toEqual({});
  });

  it('of a token without experts are zero', async () => {
    const planner = await loadPlanner();
    const plan = planner.planAll([{ ids: Int32Array.of(-1), tokens: 1, topk: 1 }], { experts: 1, ranks: 1 });
    const audit = await openAudit(plan, fusco());
    audit.setInput({ dtype: 'f32', rowBytes: 8, rows: [Float32Array.of(1, 2)] });
    expect(audit.combine({ rank: 0, combined: Float32Array.of(0, -0), room: 1 }).wrong).toBe(0);
    expect(audit.combine({ rank: 0, combined: Float32Array.of(0, 1), room: 1 }).wrong).toBe(1);
    audit.close();
  });
});

describeNative('the terms of a sum', () => {
  const ids = [
    { ids: Int32Array.of(0, 1, 2, 3), tokens: 1, topk: 4 },
    { ids: Int32Array.of(), tokens: 0, topk: 4 },
  ];

  it('are ranks where each rank returns one row and nothing is weighted', async () => {
    const planner = await loadPlanner();
    const plan = planner.planAll(ids, { experts: 4, ranks: 2 });
    const audit = await openAudit(plan, auditLayouts()['deepep-v1']!);
    const rows = [Float32Array.of(3, 5), new Float32Array(0)];
    audit.setInput({ dtype: 'f32', rowBytes: 8, rows });
    expect(audit.combine({ rank: 0, combined: Float32Array.of(6, 10), room: 1 }).wrong).toBe(0);
    expect(audit.combine({ rank: 0, combined: Float32Array.of(12, 20), room: 1 }).wrong).toBe(1);
    // What each rank returns, in the layout.
    const outputs = [Float32Array.of(1, 2), Float32Array.of(10, 20)];
    expect(audit.combine({ rank: 0, combined: Float32Array.of(11, 22), outputs, room: 1 }).wrong).toBe(0);
    const weights = new Float32Array(4);
    const call = { rank: 0, combined: Float32Array.of(0, 0), outputs, weights, room: 1 };
    expect(() => audit.combine(call)).toThrow('outputs were weighted before combine');
    audit.close();
  });

  it('are not known of outputs in no specified order', async () => {
    const planner = await loadPlanner();
    const audit = await openAudit(planner.planAll(ids, { experts: 4, ranks: 2 }), auditLayouts().pplx!);
    audit.setInput({ dtype: 'f32', rowBytes: 4, rows: [Float32Array.of(1), new Float32Array(0)] });
    const outputs = [new Float32Array(2), new Float32Array(2)];
    const call = { rank: 0, combined: Float32Array.of(0), outputs, room: 1 };
    expect(() => audit.combine(call)).toThrow(expect.objectContaining({ code: 'E_OPTION' }));
    audit.close();
  });

  it('are refused of rows that cannot be added', async () => {
    const planner = await loadPlanner();
    const audit = await openAudit(planner.planAll(ids, { experts: 4, ranks: 2 }), fusco());
    const combined = Uint8Array.of(0);
    expect(() => audit.combine({ rank: 0, combined, room: 1 })).toThrow('no input was set');
    audit.setInput({ dtype: 'fp8', rowBytes: 1, rows: [Uint8Array.of(1), new Uint8Array(0)] });
    expect(() => audit.combine({ rank: 0, combined, room: 1 })).toThrow(
      expect.objectContaining({ code: 'E_DTYPE' }),
    );
    expect(() => audit.combine({ rank: 9, combined, room: 1 })).toThrow(
      expect.objectContaining({ code: 'E_OPTION' }),
    );
    audit.close();
  });
});
