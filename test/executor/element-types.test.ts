// Typed arrays of another element type than the call's, and keys that no option has: refused before anything is moved.

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BackendName, Memory } from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group, type GroupOptions } from '../../executor/group.ts';
import { findAddon } from '../../executor/native/addon.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import { connect } from '../../executor/rendezvous/session.ts';
import { dequantizeRows, quantizeRows } from '../../executor/training/fp8.ts';
import { gateTokens, resolveGate } from '../../executor/training/gating.ts';
import { ExpertLayer } from '../../executor/training/layer.ts';
import { PlanAhead } from '../../executor/training/planAhead.ts';
import type { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';

const BACKENDS: BackendName[] = findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];
const IDS = Int32Array.of(2, 1, 0, 3);
const OPTIONS = { experts: 8, topk: 2 };

async function refusalOf(run: () => unknown): Promise<FuscoError> {
  try {
    await run();
  } catch (error) {
    return error as FuscoError;
  }
  throw new Error('accepted');
}

/** Views of the same bytes, of every class that is not bytes. */
function viewsOf(bytes: Uint8Array): ArrayBufferView[] {
  const classes = [Int8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array];
  const wide = [Float32Array, Float64Array, BigInt64Array, BigUint64Array];
  return [...classes, ...wide].map((View) => new View(bytes.buffer as ArrayBuffer));
}

const bytes = (length: number) => new Uint8Array(length + (-length & 7));

describe.each(BACKENDS)('%s', (backend) => {
  let group: Group;
  let exchange: Exchange;
  beforeEach(async () => {
    group = await createGroup({ ranks: 1, backend } as GroupOptions);
    const plan = group.plan([{ ids: IDS, tokens: 2, topk: 2 }], { experts: 8, hidden: 4, dtype: 'f32' });
    exchange = await group.prepare(plan);
  });
  afterEach(() => group.close());

  /** Of all views of `length` bytes, only those of `classes` are taken, and bytes in every form. */
  async function takesOnly(
    length: number,
    classes: readonly string[],
    call: (memory: Memory[]) => Promise<unknown>,
  ) {
    for (const view of viewsOf(bytes(length))) {
      const { name } = view.constructor;
      if (classes.includes(name)) await call([view]);
      else {
        const { code, message, hint } = await refusalOf(() => call([view]));
        expect([name, code]).toEqual([name, 'E_DTYPE']);
        expect(message).toContain(name);
        expect(hint).toContain(classes[0]);
      }
    }
    await call([bytes(length)]);
    await call([Buffer.alloc(length)]);
    await call([new DataView(new ArrayBuffer(length))]);
  }

  const floats = (length: number) => [new Float32Array(length)];
  const gate = {
    ...{ options: OPTIONS, tokens: [2], logits: floats(16), bias: floats(8) },
    ...{ ids: [new Int32Array(4)], weights: floats(4), scores: floats(16) },
  };

  it.each([
    ['logits', 64],
    ['bias', 32],
    ['weights', 16],
    ['scores', 64],
  ] as const)('gate: %s are f32', async (name, length) => {
    await takesOnly(length, ['Float32Array'], (memory) => group.gate({ ...gate, [name]: memory }));
  });

  it('gate: ids are i32, and are not written into 64-bit words', async () => {
    await takesOnly(16, ['Int32Array'], (memory) => group.gate({ ...gate, ids: memory }));
    const wide = new BigInt64Array(4).fill(-77n);
    await refusalOf(() => group.gate({ ...gate, ids: [wide] }));
    expect([...wide]).toEqual([-77n, -77n, -77n, -77n]);
  });

  it('the gradient of the gate: ids i32, everything else f32', async () => {
    await group.gate(gate);
    const call = {
      ...{ options: OPTIONS, tokens: [2], ids: gate.ids, scores: gate.scores },
      ...{ weightsGradient: floats(4), logitsGradient: floats(16) },
    };
    await takesOnly(64, ['Float32Array'], (scores) => group.gateBackward({ ...call, scores }));
    await takesOnly(64, ['Float32Array'], (logitsGradient) =>
      group.gateBackward({ ...call, logitsGradient }),
    );
    await takesOnly(16, ['Float32Array'], (weightsGradient) =>
      group.gateBackward({ ...call, weightsGradient }),
    );
    await takesOnly(16, ['Int32Array'], (ids) => group.gateBackward({ ...call, ids }));
  });

  it.each([
    ['f32', ['Float32Array']],
    ['f16', ['Uint16Array', 'Float16Array']],
    ['bf16', ['Uint16Array']],
  ] as const)('rows of %s in combine and in the gradient of the weights', async (dtype, classes) => {
    const rowBytes = 8;
    const rows = () => [bytes(4 * rowBytes)];
    const combine = (change: object) =>
      exchange.combine({ dtype, rowBytes, from: rows(), to: rows(), ...change });
    await takesOnly(32, classes, (from) => combine({ from }));
    await takesOnly(16, classes, (to) => combine({ to }));
    await takesOnly(16, ['Float32Array'], (weights) => combine({ weights }));
    const gradient = (change: object) =>
      exchange.weightGradient({
        ...{ dtype, rowBytes, outputGradient: rows(), from: rows(), to: floats(4) },
        ...change,
      });
    await takesOnly(16, classes, (outputGradient) => gradient({ outputGradient }));
    await takesOnly(32, classes, (from) => gradient({ from }));
    await takesOnly(16, ['Float32Array'], (to) => gradient({ to }));
  });

  it('dispatch: origins i32, scale f32, rows as their payload says', async () => {
    const rowBytes = 16;
    const dispatch = (payload: object, call: object = {}) =>
      exchange.dispatch({
        payloads: [{ rowBytes, from: [bytes(32)], to: [bytes(64)], ...payload }],
        ...call,
      });
    await takesOnly(48, ['Int32Array'], (origins) => dispatch({}, { origins }));
    await takesOnly(16, ['Float32Array'], (scale) => dispatch({ dtype: 'f32' }, { scale }));
    for (const [dtype, classes] of [
      ['f32', ['Float32Array']],
      ['bf16', ['Uint16Array']],
      ['fp8', ['Uint8Array']],
    ] as const) {
      await takesOnly(32, classes, (from) => dispatch({ dtype, from }));
      await takesOnly(64, classes, (to) => dispatch({ dtype, to }));
    }
  });

  it('dispatch of opaque rows: any type, the same on both sides', async () => {
    const dispatch = (from: Memory, to: Memory) =>
      exchange.dispatch({ payloads: [{ rowBytes: 16, from: [from], to: [to] }] });
    for (const view of viewsOf(bytes(32))) await dispatch(view, bytes(64));
    await dispatch(new Float64Array(4), new Float64Array(8));
    const refusal = await refusalOf(() => dispatch(new Float64Array(4), new Float32Array(16)));
    expect(refusal.toString()).toBe('E_DTYPE payload 0: rows of a Float64Array in a Float32Array');
  });

  it.each(['f32', 'bf16'] as const)('fp8 of %s: values, codes of bytes, scales of f32', async (dtype) => {
    const classes = { f32: ['Float32Array'], bf16: ['Uint16Array'] }[dtype];
    const size = dtype === 'f32' ? 4 : 2;
    const shape = { dtype: dtype as FloatDtype, hidden: 16, rows: [2] };
    const call = { ...shape, values: [bytes(32 * size)], codes: [bytes(32)], scales: floats(2) };
    for (const work of ['quantize', 'dequantize'] as const) {
      await takesOnly(32 * size, classes, (values) => group[work]({ ...call, values }));
      await takesOnly(32, ['Uint8Array'], (codes) => group[work]({ ...call, codes }));
      await takesOnly(8, ['Float32Array'], (scales) => group[work]({ ...call, scales }));
    }
  });

  it('an expert layer states its types', async () => {
    const layer = new ExpertLayer(exchange, { hidden: 4, dtype: 'f32' });
    const rows = floats(16);
    await layer.dispatch({ tokens: floats(8), rows });
    const wrong = [new Float64Array(8)];
    expect((await refusalOf(() => layer.dispatch({ tokens: wrong, rows }))).code).toBe('E_DTYPE');
    const weights = [new Float64Array(4)];
    expect((await refusalOf(() => layer.combine({ rows, tokens: floats(8), weights }))).code).toBe('E_DTYPE');
  });

  it('a key that a call does not have is refused with the nearest one', async () => {
    const combine = { dtype: 'f32', rowBytes: 16, from: floats(16), to: floats(8) } as const;
    const cases: [() => unknown, string, string][] = [
      [() => exchange.combine({ ...combine, weight: floats(4) } as never), 'weight', 'weights'],
      [() => exchange.dispatch({ payloads: [], origin: [] } as never), 'origin', 'origins'],
      [
        () => exchange.dispatch({ payloads: [{ rowBytes: 16, from: [], to: [], dtpye: 'f32' }] } as never),
        'dtpye',
        'dtype',
      ],
      [() => group.gate({ ...gate, logit: [] } as never), 'logit', 'logits'],
      [() => group.gate({ ...gate, options: { ...OPTIONS, topK: 2 } } as never), 'topK', 'topk'],
      [() => group.quantize({ hiden: 4 } as never), 'hiden', 'hidden'],
      [() => new ExpertLayer(exchange, { hidden: 4, dtype: 'f32', fp_8: true } as never), 'fp_8', 'fp8'],
    ];
    for (const [run, key, nearest] of cases) await refusesKey(run, key, nearest);
  });
});

async function refusesKey(run: () => unknown, key: string, nearest: string): Promise<void> {
  const { code, message, hint } = await refusalOf(run);
  expect([code, message]).toEqual(['E_OPTION', expect.stringContaining(`has no option "${key}"`)]);
  expect(hint).toContain(`Did you mean "${nearest}"?`);
}

describe('options', () => {
  it('of a plan, a group, a session and planning ahead', async () => {
    const planner = await loadPlanner();
    const table = { ids: IDS, tokens: 2, topk: 2 };
    const plan = (option: object) => planner.planAll([table], { experts: 8, ranks: 1, ...option });
    await refusesKey(() => plan({ Strategy: 'hier' }), 'Strategy', 'strategy');
    await refusesKey(() => plan({ ranks_per_node: 8 }), 'ranks_per_node', 'ranksPerNode');
    expect(plan({ placement: undefined }).spec.experts).toBe(8);
    await refusesKey(() => createGroup({ ranks: 1, thread: 2 } as GroupOptions), 'thread', 'threads');
    const nccl = { steps: 1 } as object;
    await refusesKey(() => createGroup({ backend: 'nccl', nccl }), 'steps', 'stats');
    await refusesKey(() => connect({ deadlineMS: 1000 } as object), 'deadlineMS', 'deadlineMs');
    await refusesKey(() => PlanAhead.open({ ranks: 1, verified: true } as never), 'verified', 'verify');
  });

  it('that are no object', async () => {
    expect((await refusalOf(() => resolveGate(null as never))).code).toBe('E_OPTION');
  });
});

describe('the functions of one rank', () => {
  it('refuse other element types as the group does', async () => {
    const spec = resolveGate(OPTIONS);
    const buffers = {
      ...{ logits: new Float32Array(16), weights: new Float32Array(4), scores: new Float32Array(16) },
      ids: new Int32Array(4),
    };
    gateTokens(spec, 2, buffers);
    const doubles = new Float64Array(16);
    const shape = { dtype: 'f32', rows: 1, hidden: 16 } as const;
    const [codes, scales] = [new Uint8Array(16), new Float32Array(1)];
    quantizeRows(shape, new Float32Array(16), codes, scales);
    for (const run of [
      () => gateTokens(spec, 2, { ...buffers, logits: doubles }),
      () => gateTokens(spec, 2, { ...buffers, ids: new BigInt64Array(4) }),
      () => quantizeRows(shape, doubles, codes, scales),
      () => dequantizeRows(shape, codes, doubles, new Float32Array(16)),
    ]) {
      expect((await refusalOf(run)).code).toBe('E_DTYPE');
    }
  });
});
