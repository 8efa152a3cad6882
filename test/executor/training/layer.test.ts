import { describe, expect, it } from 'vitest';
import type { BackendName } from '../../../executor/backends/types.ts';
import { findAddon } from '../../../executor/native/addon.ts';
import type { FloatDtype } from '../../../executor/numeric.ts';
import { dequantizeRows, quantizeRows, scaleBlocks } from '../../../executor/training/fp8.ts';
import { ExpertLayer, rowBlocks } from '../../../executor/training/layer.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import { floats, ints, planOf, poisoned, prepare } from '../../support/buffers.ts';
import {
  drawInputs,
  fromRows,
  type Inputs,
  quarters,
  ragged,
  runPass,
  toRows,
} from '../../support/layerPass.ts';
import { obviousPlan, type PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting, type Workload } from '../../support/workloads.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];
const DTYPES: FloatDtype[] = ['f32', 'f16', 'bf16'];

type Options = Omit<PlanOptions, 'ranks'>;

/** Flat, two nodes, and every rank a node. */
const STRATEGIES: [string, Omit<Options, 'experts'>][] = [
  ['flat', {}],
  ['hier, 2 ranks a node', { strategy: 'hier', ranksPerNode: 2 }],
  ['hier, rank by rank, partial f32', { strategy: 'hier', ranksPerNode: 1, partial: 'f32' }],
];

const workload = (change: Partial<Workload> = {}): Workload => ({
  family: 'balanced',
  seed: 7,
  ranks: 4,
  tokens: 13,
  topk: 3,
  experts: 8,
  ...change,
});

/** Fates of every entry, in the order of the entries. */
function fatesOf(routing: PlainRouting, options: Options): ('masked' | 'dropped' | 'kept')[][] {
  const { experts, capacity = 0, align = 1 } = options;
  const ranks = obviousPlan(routing, {
    experts,
    ranks: routing.length,
    align,
    ...(capacity > 0 ? { capacity } : {}),
  });
  return ranks.map((rank) => rank.fates.flat().map((fate) => fate.kind));
}

describe('expert blocks', () => {
  it('say where every expert of a rank starts, and how many of its rows are real', async () => {
    // Expert 1 gets token 0 of both ranks; expert 2 token 1 of rank 0; experts 0 and 3 nothing.
    const plan = await planOf([[[1], [2]], [[1]]], 1, { experts: 4, align: 4 });
    const layer = new ExpertLayer(await prepare(plan), { hidden: 1, dtype: 'f32' });
    const seen = layer.blocks.map(({ rank, experts, expertOffsets, expertCounts }) => ({
      rank,
      experts: [...experts],
      offsets: [...expertOffsets],
      counts: [...expertCounts],
    }));
    expect(seen).toEqual([
      { rank: 0, experts: [0, 1], offsets: [0, 0, 4], counts: [0, 2] },
      { rank: 1, experts: [2, 3], offsets: [0, 4, 4], counts: [1, 0] },
    ]);
    expect(layer.blocks.map((blocks) => [...rowBlocks(blocks)])).toEqual([
      [1, 1, -1, -1],
      [0, -1, -1, -1],
    ]);
  });

  it('name the experts of a placement with replicas', async () => {
    const options = { experts: 3, placement: [1, [0, 1], 0] };
    const layer = new ExpertLayer(await prepare(await planOf([[[0]], [[1]]], 1, options)), {
      hidden: 1,
      dtype: 'f32',
    });
    expect(layer.blocks.map(({ experts }) => [...experts])).toEqual([
      [1, 2],
      [0, 1],
    ]);
    // Expert 0 gives rank 1 its row, so the row of expert 1 goes to rank 0.
    expect(layer.blocks.map(({ expertCounts }) => [...expertCounts])).toEqual([
      [1, 0],
      [1, 0],
    ]);
  });
});

describe.each(BACKENDS)('a round trip with weights 1/topk on %s', (backend) => {
  const cases: [string, Workload, Omit<Options, 'experts'>][] = [
    ['DeepEP: fewer tokens on each next rank', workload({ family: 'raggedSources', topk: 4 }), { align: 16 }],
    ['top-1', workload({ topk: 1 }), {}],
    ['top-8 of 64', workload({ topk: 8, experts: 64 }), {}],
    ['a rank without rows', workload({ family: 'rankWithoutRows', topk: 2 }), {}],
    ['TransformerEngine: 7 experts', workload({ topk: 2, experts: 7 }), {}],
    ['no tokens at all', workload({ tokens: 0, topk: 2 }), {}],
    ['one rank', workload({ ranks: 1, topk: 4 }), { ranksPerNode: 1 }],
  ];

  it.each(cases)('returns the input, and the gradient likewise: %s', async (_, work, options) => {
    const routing = makeRouting(work);
    for (const [, strategy] of STRATEGIES) {
      if (work.ranks % (strategy.ranksPerNode ?? 1) > 0) continue;
      const plan = await planOf(routing, work.topk, { ...options, ...strategy, experts: work.experts });
      for (const dtype of DTYPES) await expectIdentity(plan, backend, dtype, routing, work.topk);
    }
  });

  async function expectIdentity(
    plan: Awaited<ReturnType<typeof planOf>>,
    backend: BackendName,
    dtype: FloatDtype,
    routing: PlainRouting,
    topk: number,
  ) {
    const hidden = 24;
    const layer = new ExpertLayer(await prepare(plan, backend), { hidden, dtype });
    const { x } = drawInputs(routing, topk, hidden, quarters(3));
    const tokens = x.map((values) =>
      toRows(
        dtype,
        values.map((value) => value + 0),
      ),
    );
    const weights = routing.map(({ length }) => new Float32Array(length * topk).fill(1 / topk));
    const rows = poisoned(layer.exchange.recvRows.map((count) => count * layer.rowBytes));
    const back = poisoned(tokens.map(({ length }) => length));
    await layer.dispatch({ tokens, rows });
    await layer.combine({ rows, tokens: back, weights });
    expect(back).toEqual(tokens);
    // Backward the same: combine's gradient scales each copy by 1/topk, dispatch's adds the copies up.
    const gradient = poisoned(tokens.map(({ length }) => length));
    await layer.combineBackward({ tokensGradient: tokens, rowsGradient: rows, weights });
    await layer.dispatchBackward({ rowsGradient: rows, tokensGradient: gradient });
    expect(gradient).toEqual(tokens);
  }

  it.each([
    // 4 ranks x 13 tokens x top-4 over 8 experts are 26 rows an expert on average.
    ['Megatron: capacity factor 0.5', { capacity: 13 }, 0],
    ['Megatron: drop and pad, capacity factor 0.6', { capacity: 15, align: 15 }, 0],
    ['little capacity', { capacity: 3 }, 0],
    ['masked', {}, 0.4],
    ['masked, dropped and padded', { capacity: 4, align: 8 }, 0.3],
    ['all masked', {}, 1],
  ])(
    '%s: returns the share of the entries that were kept; the others have no gradient',
    async (_, options, masked) => {
      const topk = 4;
      const hidden = 8;
      const routing = makeRouting(workload({ family: 'hotExperts', topk, masked }));
      const planOptions = { ...options, experts: 8 };
      const plan = await planOf(routing, topk, planOptions);
      const fates = fatesOf(routing, planOptions);
      const kept = fates.map((entries, rank) =>
        routing[rank]!.map(
          (_, t) => entries.slice(t * topk, (t + 1) * topk).filter((f) => f === 'kept').length,
        ),
      );
      const layer = new ExpertLayer(await prepare(plan, backend), { hidden, dtype: 'f32' });
      const tokens = drawInputs(routing, topk, hidden, quarters(5)).x;
      const weights = routing.map(({ length }) => new Float32Array(length * topk).fill(1 / topk));
      const rows = layer.exchange.recvRows.map((count) => new Float32Array(count * hidden).fill(9));
      const out = tokens.map(({ length }) => new Float32Array(length).fill(9));
      await layer.dispatch({ tokens, rows });
      await layer.combine({ rows, tokens: out, weights });
      const shares = tokens.map((x, rank) =>
        x.map((value, i) => (value * kept[rank]![Math.floor(i / hidden)]!) / topk + 0),
      );
      expect(out).toEqual(shares);
      const weightsGradient = weights.map(({ length }) => new Float32Array(length).fill(9));
      const rowsGradient = rows.map(({ length }) => new Float32Array(length).fill(9));
      await layer.combineBackward({ tokensGradient: tokens, rowsGradient, weights, rows, weightsGradient });
      const squares = tokens.map((x, rank) =>
        fates[rank]!.map((fate, entry) => {
          const token = Math.floor(entry / topk);
          if (fate !== 'kept') return 0;
          return x.slice(token * hidden, (token + 1) * hidden).reduce((sum, value) => sum + value * value, 0);
        }),
      );
      expect(weightsGradient.map((values) => [...values])).toEqual(squares);
      const gradient = tokens.map(({ length }) => new Float32Array(length).fill(9));
      await layer.dispatchBackward({ rowsGradient, tokensGradient: gradient });
      expect(gradient).toEqual(shares);
    },
  );
});

describe('gradients', () => {
  /** The loss: what combine returns, times the gradient that backward starts from. Exact for quarters. */
  function loss(out: readonly Uint8Array[], { outGradient }: Inputs): number {
    let sum = 0;
    out.forEach((bytes, rank) => {
      fromRows('f32', bytes).forEach((value, i) => {
        sum += value * outGradient[rank]![i]!;
      });
    });
    return sum;
  }

  it.each(BACKENDS.flatMap((backend) => STRATEGIES.map((s) => [backend, ...s] as const)))(
    'are the finite differences of the loss: %s, %s',
    async (backend, _, strategy) => {
      const routing = [
        [
          [0, 3],
          [1, -1],
        ],
        [[2, 0]],
        [],
        [
          [3, 1],
          [0, 2],
        ],
      ];
      const topk = 2;
      const hidden = 3;
      // Expert 0 has three rows and room for two, so one of its entries is dropped.
      const plan = await planOf(routing, topk, { experts: 4, capacity: 2, align: 2, ...strategy });
      const inputs = drawInputs(routing, topk, hidden, quarters(11));
      const pass = await runPass(plan, backend, 'f32', hidden, inputs);
      // The loss is a polynomial of degree 2 in x and 1 in the weights, and everything is exact in float32: central
      // differences are the gradient itself.
      const step = 0.25;
      const check = async (name: 'x' | 'weights', gradient: readonly Uint8Array[]) => {
        for (const [rank, values] of inputs[name].entries()) {
          for (let i = 0; i < values.length; i++) {
            const losses: number[] = [];
            for (const sign of [1, -1]) {
              const moved = inputs[name].map((part) => part.slice());
              moved[rank]![i]! += sign * step;
              const { out } = await runPass(plan, backend, 'f32', hidden, { ...inputs, [name]: moved });
              losses.push(loss(out, inputs));
            }
            const difference = (losses[0]! - losses[1]!) / (2 * step);
            expect(floats(gradient[rank]!)[i], `${name} of rank ${rank}, element ${i}`).toBeCloseTo(
              difference,
              12,
            );
          }
        }
      };
      await check('x', pass.xGradient);
      await check('weights', pass.weightsGradient);
      expect(pass.weightsGradient.some((bytes) => floats(bytes).some((value) => value !== 0))).toBe(true);
    },
  );

  const plans: [string, Workload, Omit<Options, 'experts'>][] = [
    ['flat', workload({ masked: 0.1 }), { capacity: 9, align: 4 }],
    ['two nodes', workload({ family: 'hotExperts', masked: 0.1 }), { strategy: 'hier', ranksPerNode: 2 }],
    [
      'partial f32',
      workload({ family: 'raggedSources' }),
      { strategy: 'hier', ranksPerNode: 1, partial: 'f32' },
    ],
  ];

  it.each(plans)('are the same bits on every backend: %s', async (_, work, options) => {
    const routing = makeRouting(work);
    const plan = await planOf(routing, work.topk, { ...options, experts: work.experts });
    for (const dtype of DTYPES) {
      // 37 elements: no vector width divides them.
      const inputs = drawInputs(routing, work.topk, 37, ragged(17));
      const wanted = await runPass(plan, 'reference', dtype, 37, inputs);
      expect(wanted.xGradient.some((bytes) => bytes.some((byte) => byte !== 0))).toBe(true);
      for (const backend of BACKENDS) {
        expect(await runPass(plan, backend, dtype, 37, inputs), `${backend} ${dtype}`).toEqual(wanted);
      }
    }
  });

  it.each(BACKENDS)('are the same bits on 1, 2 and 4 ranks: %s', async (backend) => {
    const topk = 3;
    const hidden = 21;
    const four = makeRouting(workload({ family: 'raggedSources', masked: 0.1 }));
    const inputs = drawInputs(four, topk, hidden, ragged(23));
    const joined: string[] = [];
    for (const ranks of [1, 2, 4]) {
      const join = <T>(parts: readonly T[], combine: (group: T[]) => T): T[] =>
        Array.from({ length: ranks }, (_, i) => combine(parts.slice((i * 4) / ranks, ((i + 1) * 4) / ranks)));
      const joinFloats = (parts: readonly Float32Array[]) =>
        join(parts, (group) => Float32Array.from(group.flatMap((part) => [...part])));
      const routing = join<PlainRouting[number]>(four, (group) => group.flat());
      const plan = await planOf(routing, topk, { experts: 8, capacity: 11 });
      const pass = await runPass(plan, backend, 'f32', hidden, {
        x: joinFloats(inputs.x),
        weights: joinFloats(inputs.weights),
        outGradient: joinFloats(inputs.outGradient),
      });
      // Experts are numbered along the ranks, so even the receive buffers are the same bytes, one after the other.
      joined.push(
        [pass.rows, pass.out, pass.rowsGradient, pass.weightsGradient, pass.xGradient]
          .map((buffers) => Buffer.concat(buffers).toString('hex'))
          .join('\n'),
      );
    }
    expect(joined[1]).toBe(joined[0]);
    expect(joined[2]).toBe(joined[0]);
  });
});

describe.each(BACKENDS)('fp8 rows with scales on %s', (backend) => {
  it.each(STRATEGIES)(
    'arrive as codes and scales of their tokens; combine is in bf16: %s',
    async (_, strategy) => {
      const hidden = 300;
      const topk = 2;
      const routing = makeRouting(workload({ topk, masked: 0.1, tokens: 6 }));
      const plan = await planOf(routing, topk, { experts: 8, align: 4, ...strategy });
      const layer = new ExpertLayer(await prepare(plan, backend), { hidden, dtype: 'bf16', fp8: true });
      const blocks = scaleBlocks(hidden);
      const values = drawInputs(routing, topk, hidden, ragged(29)).x.map((x) => toRows('bf16', x));
      const codes = routing.map(({ length }) => new Uint8Array(length * hidden));
      const scales = routing.map(({ length }) => new Float32Array(length * blocks));
      routing.forEach(({ length }, rank) => {
        quantizeRows({ dtype: 'bf16', rows: length, hidden }, values[rank]!, codes[rank]!, scales[rank]!);
      });
      const { recvRows } = layer.exchange;
      const rows = poisoned(recvRows.map((count) => count * hidden));
      const rowScales = poisoned(recvRows.map((count) => count * 4 * blocks));
      const origins = poisoned(recvRows.map((count) => count * 12));
      await layer.dispatch({ tokens: codes, rows, scales, rowScales, origins });

      // Every row is its origin's codes and scales, and zero in padding.
      let real = 0;
      origins.forEach((bytes, rank) => {
        const origin = ints(bytes);
        for (let row = 0; row < recvRows[rank]!; row++) {
          const [source, token] = origin.slice(3 * row, 3 * row + 2) as [number, number];
          const code = [...rows[rank]!.subarray(row * hidden, (row + 1) * hidden)];
          const scale = floats(rowScales[rank]!).slice(row * blocks, (row + 1) * blocks);
          if (source < 0) {
            expect([...code, ...scale].every((value) => value === 0)).toBe(true);
            continue;
          }
          real++;
          expect(code).toEqual([...codes[source]!.subarray(token * hidden, (token + 1) * hidden)]);
          expect(scale).toEqual([...scales[source]!.subarray(token * blocks, (token + 1) * blocks)]);
        }
      });
      expect(real).toBe(plan.shards.reduce((sum, shard) => sum + shard.kept, 0));

      // Identity experts on the dequantised rows: token by token what dequantising at home gives.
      const y = recvRows.map((count, rank) => {
        const bytes = new Uint8Array(count * layer.rowBytes);
        dequantizeRows({ dtype: 'bf16', rows: count, hidden }, rows[rank]!, rowScales[rank]!, bytes);
        return bytes;
      });
      const out = poisoned(routing.map(({ length }) => length * layer.rowBytes));
      const weights = routing.map((tokens) =>
        Float32Array.from(tokens.flatMap((ids) => ids.map(() => 1 / ids.filter((id) => id >= 0).length))),
      );
      await layer.combine({ rows: y, tokens: out, weights });
      routing.forEach((tokens, rank) => {
        const home = new Uint8Array(out[rank]!.length);
        dequantizeRows({ dtype: 'bf16', rows: tokens.length, hidden }, codes[rank]!, scales[rank]!, home);
        const wanted = fromRows('bf16', home).map((value, i) =>
          tokens[Math.floor(i / hidden)]!.every((id) => id < 0) ? 0 : value + 0,
        );
        expect(fromRows('bf16', out[rank]!)).toEqual(wanted);
      });
    },
  );
});

describe('a layer', () => {
  const open = async (options: ConstructorParameters<typeof ExpertLayer>[1]) =>
    new ExpertLayer(await prepare(await planOf([[[0]]], 1, { experts: 1 })), options);
  const one = () => [new Float32Array(1)];

  it('refuses dtypes that cannot be added up, and rows of nothing', async () => {
    await expect(open({ hidden: 1, dtype: 'fp8' as 'f32' })).rejects.toThrow('not one of f32, f16, bf16');
    await expect(open({ hidden: 0, dtype: 'f32' })).rejects.toThrow('hidden is 0');
  });

  it('refuses half a pair of buffers', async () => {
    const layer = await open({ hidden: 1, dtype: 'f32' });
    const call = { tokens: one(), rows: one() };
    await expect(layer.dispatch({ ...call, weights: one() })).rejects.toThrow('weights needs rowWeights');
    await expect(layer.dispatch({ ...call, rowWeights: one() })).rejects.toThrow('rowWeights needs weights');
    await expect(layer.dispatch({ ...call, scales: one(), rowScales: one() })).rejects.toThrow(
      'scales needs fp8',
    );
    await expect(
      layer.combineBackward({ tokensGradient: one(), rowsGradient: one(), rows: one() }),
    ).rejects.toThrow('rows needs weightsGradient');
    const fp8 = await open({ hidden: 1, dtype: 'f32', fp8: true });
    await expect(fp8.dispatch(call)).rejects.toThrow('fp8 needs scales');
    await expect(fp8.dispatch({ ...call, scales: one() })).rejects.toThrow('scales needs rowScales');
  });

  it('adds up the times of its stages until they are taken', async () => {
    const layer = await open({ hidden: 1, dtype: 'f32' });
    const report = await layer.dispatch({ tokens: one(), rows: one() });
    const again = await layer.dispatch({ tokens: one(), rows: one() });
    expect(layer.times.dispatch).toBe(report.nanoseconds + again.nanoseconds);
    await layer.combineBackward({
      tokensGradient: one(),
      rowsGradient: one(),
      rows: one(),
      weightsGradient: one(),
    });
    const times = layer.takeTimes();
    expect(times.combineBackward).toBeGreaterThan(0);
    expect(times.weightGradient).toBeGreaterThan(0);
    expect([times.combine, times.dispatchBackward]).toEqual([0, 0]);
    expect(Object.values(layer.times)).toEqual([0, 0, 0, 0, 0]);
  });
});
