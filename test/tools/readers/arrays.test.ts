// Files of arrays: which one holds the ids, what its axes are, and what is said where that was a guess.

import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { type RoutingChoice, readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { parseAxes } from '../../../tools/readers/choice.ts';
import { encodeNpy, type NdDtype } from '../../../tools/readers/npy.ts';
import { expectRefusal, fusco, fuscoJson, save, saveNpy, useTemporaryDirectory } from '../../support/cli.ts';
import { foreign, routing, rowsOf } from './support.ts';

useTemporaryDirectory();

const ROWS = routing(1, 4);

async function read(path: string, choice: RoutingChoice = {}) {
  const notices: string[] = [];
  const notice = (text: string) => void notices.push(text);
  const tables = await readAnyRouting(path, { ranks: 1, ...choice, notice });
  return { rows: tables.map(rowsOf), notices };
}

async function refusalOf(path: string, choice: RoutingChoice = {}): Promise<string> {
  const error = await readAnyRouting(path, { ranks: 1, ...choice }).catch((thrown) => thrown);
  return `${error.code} ${error.message} (${error.hint})`;
}

function npy(dtype: NdDtype, shape: readonly number[], data: ArrayBufferView): Uint8Array {
  return Buffer.concat(encodeNpy(dtype, shape, data));
}

const ids = (rows: readonly number[][]) =>
  npy('i64', [rows.length, 2], BigInt64Array.from(rows.flat(), BigInt));

function saveNpz(name: string, arrays: Readonly<Record<string, Uint8Array>>): void {
  save(
    name,
    zipSync(Object.fromEntries(Object.entries(arrays).map(([key, bytes]) => [`${key}.npy`, bytes]))),
  );
}

describe("PyTorch's own files", () => {
  it.each([
    ['uint16.pt', {}],
    ['uint32-view.pt', {}],
    ['parameter.pt', {}],
    ['dict.pt', {}],
    ['dict.pt', { array: 'topk_ids' }],
    ['list.pt', { layer: 1 }],
    ['numbers.pt', { layer: 1 }],
    ['nested.pt', { layer: 1 }],
    ['nested.pt', { layer: 1, array: 'layer_*.topk_ids' }],
    ['nested.pt', { array: 'layer_1.topk_ids' }],
    ['routed.pt', { layer: 1 }],
    ['routed.pt', { layer: 1, axes: parseAxes('tokens,layers,topk') }],
    ['requests.pt', { layer: 1 }],
    ['layers.safetensors', { layer: 1 }],
    ['layers.safetensors', { array: 'layer_1' }],
    ['one.safetensors', {}],
  ] as const)('%s %o', async (name, choice) => {
    expect((await read(foreign(`torch/${name}`), choice)).rows).toEqual([ROWS]);
  });

  it('a list of arrays with layers is a list of requests', async () => {
    const path = foreign('torch/requests.pt');
    expect((await read(path, { layer: 1, step: 0 })).rows).toEqual([ROWS.slice(0, 1)]);
    expect((await read(path, { layer: 1, step: 1 })).rows).toEqual([ROWS.slice(1)]);
  });

  it('a map of booleans is one', async () => {
    const found = await read(foreign('torch/map.pt'), { experts: 6 });
    expect(found.rows).toEqual([ROWS.map((row) => row.toSorted((a, b) => a - b))]);
    expect(found.notices).toEqual([
      '6 columns of booleans read as a map [tokens, experts] (--multi-hot states this)',
    ]);
  });

  it.each([
    [
      'list.pt',
      {},
      /several of its arrays are layers of ids: "0" i32 \(4, 2\), "1" i32 \(4, 2\) .*--layer, or with --array/,
    ],
    [
      'routed.pt',
      {},
      /E_ROUTING_SHAPE .*may be \(tokens, layers, topk\) or \(ranks, tokens, topk\) .*--axes/,
    ],
    [
      'dict.pt',
      { array: 'ids' },
      /no array is named "ids": "topk_weights" float \(4, 2\), "topk_ids" i64 \(4, 2\)/,
    ],
    ['dict.pt', { array: 'topk_weights' }, /E_ROUTING_DTYPE .*ids are bf16 or fp8, not integers/],
    ['uint16.pt', { layer: 0 }, /E_OPTION .*--layer 0: the array was read as tokens, topk, of one layer/],
    ['uint16.pt', { step: 0 }, /E_OPTION .*--step 0: the array was read as tokens, topk, of one step/],
    ['list.pt', { layer: 2 }, /layer 2 is not among 0, 1/],
  ] as const)('%s %o is refused', async (name, choice, text) => {
    expect(await refusalOf(foreign(`torch/${name}`), choice)).toMatch(text);
  });
});

describe('archives with other arrays', () => {
  const weights = npy('f32', [4, 2], new Float32Array(8));

  it('the only array that can be ids is taken', async () => {
    saveNpz('a.npz', {
      topk_weights: weights,
      topk_ids: ids(ROWS),
      positions: npy('i64', [4], new BigInt64Array(4)),
    });
    expect((await read('a.npz')).rows).toEqual([ROWS]);
  });

  it('layers by the number in their names, routed experts by their name', async () => {
    saveNpz('l.npz', { layer_0: ids(routing(0, 4)), layer_1: ids(ROWS) });
    expect((await read('l.npz', { layer: 1 })).rows).toEqual([ROWS]);
    const routed = npy('u8', [4, 1, 2], Uint8Array.from(ROWS.flat()));
    saveNpz('r.npz', { routed_experts: routed, input_ids: npy('i32', [4, 2], new Int32Array(8)) });
    expect(await read('r.npz', { layer: 0 })).toEqual({ rows: [ROWS], notices: [] });
  });

  it('an open choice lists the names', async () => {
    saveNpz('a.npz', { chosen: ids(ROWS), tokens: ids(ROWS) });
    expect(await refusalOf('a.npz')).toBe(
      'E_FOREIGN a.npz: several of its arrays may be the ids: "chosen" i64 (4, 2), "tokens" i64 (4, 2) ' +
        '(Choose the ids with --array NAME; an asterisk in NAME stands for the number of a layer.)',
    );
    await fuscoJson('plan', 'a.npz', '--array', 'chosen', '--ranks', '2', '--experts', '6', '-o', 'p.fusco');
    saveNpz('w.npz', { weights });
    expect(await refusalOf('w.npz')).toMatch(/^E_ROUTING_DTYPE w\.npz\/weights: ids are f32, not integers/);
    saveNpz('two.npz', { weights, more: weights });
    expect(await refusalOf('two.npz')).toMatch(/none of its arrays can be ids \[tokens, topk\]/);
  });
});

describe('axes', () => {
  /** Ids [2 layers][4 tokens][2], of layer l routing(l). */
  const LAYERS = [routing(0, 4), ROWS];

  it.each([
    ['layers,tokens,topk', [2, 4, 2], LAYERS.flat(2)],
    ['tokens,layers,topk', [4, 2, 2], [0, 1, 2, 3].flatMap((t) => LAYERS.flatMap((layer) => layer[t]!))],
    [
      'layers,topk,tokens',
      [2, 2, 4],
      LAYERS.flatMap((layer) => [0, 1].flatMap((k) => layer.map((row) => row[k]!))),
    ],
    [
      'requests,tokens,layers,topk',
      [2, 2, 2, 2],
      [0, 1, 2, 3].flatMap((t) => LAYERS.flatMap((layer) => layer[t]!)),
    ],
    [
      'batch,tokens,layers,topk',
      [2, 2, 2, 2],
      [0, 1, 2, 3].flatMap((t) => LAYERS.flatMap((layer) => layer[t]!)),
    ],
    ['steps,layers,tokens,topk', [1, 2, 4, 2], LAYERS.flat(2)],
  ])('%s', async (axes, shape, values) => {
    saveNpy('a.npy', 'i16', shape, Int16Array.from(values));
    const args = ['--axes', axes, '--layer', '1', '--ranks', '2', '--experts', '6'];
    const planned = await fuscoJson('plan', 'a.npy', ...args, '-o', 'p.fusco');
    expect(planned).not.toHaveProperty('notices');
    saveNpy('wanted.npy', 'i16', [4, 2], Int16Array.from(ROWS.flat()));
    const wanted = await fuscoJson('plan', 'wanted.npy', '--ranks', '2', '--experts', '6', '-o', 'q.fusco');
    expect(planned.planId).toBe(wanted.planId);
  });

  it('ranks and layers together', async () => {
    saveNpy(
      'a.npy',
      'i16',
      [2, 2, 2, 2],
      Int16Array.from([0, 1, 2, 3].flatMap((t) => LAYERS.flatMap((l) => l[t]!))),
    );
    const choice = { axes: parseAxes('ranks,tokens,layers,topk'), layer: 1, ranks: undefined };
    expect((await read('a.npy', choice)).rows).toEqual([ROWS.slice(0, 2), ROWS.slice(2)]);
  });

  it('a step of an array, and all its requests unless one is chosen', async () => {
    saveNpy('a.npy', 'i16', [2, 2, 2], Int16Array.from(ROWS.flat()));
    const steps = parseAxes('steps,tokens,topk');
    expect((await read('a.npy', { axes: steps, step: 1 })).rows).toEqual([ROWS.slice(2)]);
    expect(await refusalOf('a.npy', { axes: steps })).toMatch(/several steps \(step 0, 1\): give --step/);
    const requests = parseAxes('requests,tokens,topk');
    expect((await read('a.npy', { axes: requests })).rows).toEqual([ROWS]);
    expect((await read('a.npy', { axes: requests, step: 0 })).rows).toEqual([ROWS.slice(0, 2)]);
  });

  it('a guess is one line with the result, and a field of --json', async () => {
    saveNpy('a.npy', 'i16', [2, 2, 2], Int16Array.from(ROWS.flat()));
    const args = ['plan', 'a.npy', '--experts', '6', '-o', 'p.fusco'];
    const line = 'a.npy: axes (2, 2, 2) read as ranks, tokens, topk (--axes sets another order)';
    const { stderr } = await fusco(...args);
    expect(stderr.split('\n')[0]).toBe(`note: ${line}`);
    expect(await fuscoJson(...args)).toMatchObject({ notices: [line] });
    expect(await fuscoJson(...args, '--ranks', '2')).not.toHaveProperty('notices');
    expect(await fuscoJson(...args, '--axes', 'ranks,tokens,topk')).not.toHaveProperty('notices');
    const verify = ['verify', 'p.fusco', '--routing', 'a.npy', '--axes', 'ranks,tokens,topk'];
    expect(await fuscoJson(...verify)).toMatchObject({ matches: true });
  });

  it('four axes with a layer are requests of tokens', async () => {
    saveNpy('a.npy', 'i16', [2, 2, 1, 2], Int16Array.from(ROWS.flat()));
    const found = await read('a.npy', { layer: 0 });
    expect(found).toEqual({
      rows: [ROWS],
      notices: [
        'a.npy: axes (2, 2, 1, 2) read as requests, tokens, layers, topk (--axes sets another order)',
      ],
    });
    expect(await refusalOf('a.npy')).toMatch(
      /^E_ROUTING_SHAPE .*\(2, 2, 1, 2\) is not \(ranks, tokens, topk\)/,
    );
  });

  it.each([
    ['tokens', /there is no axis topk/],
    ['tokens,topk,topk', /an axis occurs twice/],
    ['tokens,topk,colors', /"colors" is not one of ranks, steps/],
    ['steps,requests,tokens,topk', /steps and requests exclude each other/],
    ['tokens,layers=x,topk', /"layers=x" is not one of/],
    ['tokens,layers,topk', /shape \(4, 2\) is not tokens,layers,topk/],
    ['tokens=3,topk', /shape \(4, 2\) is not tokens=3,topk/],
  ])('--axes %s is refused', async (axes, text) => {
    saveNpy('a.npy', 'i16', [4, 2], Int16Array.from(ROWS.flat()));
    const result = await fusco('plan', 'a.npy', '--axes', axes, '--experts', '6', '--ranks', '1', '-o', 'p');
    expectRefusal(result, result.stderr.includes('E_OPTION') ? 'E_OPTION' : 'E_ROUTING_SHAPE', text);
  });
});

describe("files that are compressed, or nobody's", () => {
  it('gzip is unpacked, whatever is in it', async () => {
    save('a.npy.gz', gzipSync(ids(ROWS)));
    expect((await read('a.npy.gz')).rows).toEqual([ROWS]);
    save('r.jsonl.gz', gzipSync(`{"routed_experts": ${JSON.stringify(ROWS.map((row) => [row]))}}\n`));
    expect((await read('r.jsonl.gz', { layer: 0 })).rows).toEqual([ROWS]);
  });

  it('what is wrong is said of the file, with or without --layer', async () => {
    save('t.csv', 'layer,expert\n1,0\n');
    for (const choice of [{}, { layer: 1 }]) {
      expect(await refusalOf('t.csv', choice)).toMatch(/^E_FOREIGN t\.csv: text that begins like CSV/);
    }
    save('t.txt', 'hello');
    expect(await refusalOf('t.txt', { layer: 1 })).toMatch(/^E_FORMAT t\.txt: not a \.npy file/);
  });
});
