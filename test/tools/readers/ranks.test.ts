// Which recorded ranks are the group: idle ones, pipeline stages, several groups, files that were cut.

import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { type RoutingChoice, readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { parseRanges } from '../../../tools/readers/choice.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveNpy,
  saveRoutingByRank,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { rowsOf } from './support.ts';

useTemporaryDirectory();

const IDS = [
  [0, 3],
  [5, 1],
];

/** Lines of a trace, one per rank, step and layer. */
function record(rank: number, step: number, layer: number, ids = IDS): string {
  const sizes = { num_tokens: ids.length, topk: 2 };
  return `${JSON.stringify({ step, stage: 'pre_dispatch', block: 'decoder', layer, rank, ...sizes, top_indices: ids })}\n`;
}

/** A directory with a file per rank: [step, layer] of its records. */
function saveTrace(ranks: Readonly<Record<number, readonly (readonly [number, number])[]>>): void {
  for (const [rank, records] of Object.entries(ranks)) {
    const lines = records.map(([step, layer]) => record(Number(rank), step, layer));
    save(`trace/router_trace_rank${rank}.jsonl`, lines.join(''));
  }
}

async function tokensOf(
  choice: RoutingChoice,
  path = 'trace',
): Promise<{ tokens: number[]; notices: string[] }> {
  const notices: string[] = [];
  const tables = await readAnyRouting(path, { ...choice, notice: (text) => void notices.push(text) });
  for (const table of tables) if (table.tokens > 0) expect(rowsOf(table)).toEqual(IDS);
  return { tokens: tables.map(({ tokens }) => tokens), notices };
}

async function refusalOf(choice: RoutingChoice, path = 'trace'): Promise<string> {
  const error = await readAnyRouting(path, choice).catch((thrown) => thrown);
  return `${error.code} ${error.message} (${error.hint})`;
}

const both = [
  [1, 1],
  [2, 1],
] as const;

describe('ranks that recorded nothing', () => {
  it.each([
    ['the last', { 0: both, 1: both, 2: both, 3: [[1, 1]] }, [2, 2, 2, 0]],
    ['the first', { 0: [[1, 1]], 1: both, 2: both, 3: both }, [0, 2, 2, 2]],
    ['all but one', { 0: [[1, 1]], 1: [[1, 1]], 2: both, 3: [[1, 1]] }, [0, 0, 2, 0]],
    ['one that never recorded anything', { 0: both, 1: both, 2: [], 3: both }, [2, 2, 0, 2]],
  ] as const)('%s: has no tokens, and is announced', async (_, ranks, tokens) => {
    saveTrace(ranks);
    const found = await tokensOf({ step: 2, layer: 1 });
    expect(found.tokens).toEqual(tokens);
    const idle = tokens.flatMap((count, rank) => (count === 0 ? [rank] : []));
    expect(found.notices).toEqual([
      `${idle.length === 1 ? 'rank' : 'ranks'} ${idle.join(', ')} recorded nothing of this layer and step: no tokens`,
    ]);
    expect((await tokensOf({ step: 2, layer: 1, ranks: 4 })).tokens).toEqual(tokens);
  });

  it('plans the same rows as if the rank had a file of no tokens', async () => {
    saveTrace({ 0: both, 1: both, 2: both, 3: [[1, 1]] });
    const args = ['--layer', '1', '--step', '2', '--experts', '8'];
    const planned = await fuscoJson('plan', 'trace', ...args, '-o', 'p.fusco');
    saveRoutingByRank('numpy', [IDS, IDS, IDS, []], 2);
    const wanted = await fuscoJson('plan', 'numpy', '--experts', '8', '-o', 'q.fusco');
    expect(planned.planId).toBe(wanted.planId);
    // Owners of 0, 3, 5, 1 are 0, 1, 2, 0.
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({
      tokens: [2, 2, 2, 0],
      recvRows: [6, 3, 3, 0],
    });
    const verify = await fusco('verify', 'p.fusco', '--routing', 'trace', '--layer', '1', '--step', '2');
    expect(verify).toMatchObject({ code: 0 });
  });

  it('without a file need --ranks, which says how many there are', async () => {
    saveTrace({ 1: both, 2: both });
    expect(await refusalOf({ step: 2, layer: 1 })).toMatch(
      /^E_RANKS trace: rank 0 recorded nothing, the highest is rank 2 \(Give --ranks N if the others had no tokens/,
    );
    expect((await tokensOf({ step: 2, layer: 1, ranks: 4 })).tokens).toEqual([0, 2, 2, 0]);
  });

  it('one rank alone says nothing about the others', async () => {
    saveTrace({ 0: both });
    expect(await refusalOf({ step: 2, layer: 1 })).toMatch(
      /^E_RANKS trace: only rank 0 recorded.*give --ranks/,
    );
    expect((await tokensOf({ step: 2, layer: 1, ranks: 1 })).tokens).toEqual([2]);
    expect((await tokensOf({ step: 2, layer: 1, ranks: 3 })).tokens).toEqual([2, 0, 0]);
  });

  it('--as-batch splits the tokens of a recording, whatever rank had them', async () => {
    saveTrace({ 1: both, 2: both });
    const choice = { step: 2, layer: 1, asBatch: true };
    const rows = async (more: RoutingChoice, path = 'trace') =>
      (await readAnyRouting(path, { ...choice, ...more })).map(rowsOf);
    expect(await rows({ ranks: 2 })).toEqual([IDS, IDS]);
    expect(await rows({ ranks: 4 })).toEqual([[IDS[0]], [IDS[1]], [IDS[0]], [IDS[1]]]);
    expect(await rows({ ranks: 2, ranksFrom: [2] })).toEqual([[IDS[0]], [IDS[1]]]);
    expect(await refusalOf(choice)).toMatch(/shape \(4, 2\) does not say how many ranks share its tokens/);
    saveNpy('a.npy', 'i32', [2, 1, 2], Int32Array.of(0, 1, 2, 3));
    const array = { asBatch: true, layer: undefined, step: undefined };
    expect(await rows({ ...array, ranks: 1 }, 'a.npy')).toEqual([
      [
        [0, 1],
        [2, 3],
      ],
    ]);
    // The place of a token survives the split.
    save(
      'trace/router_trace_rank2.jsonl',
      record(2, 2, 1, [
        [0, 1],
        [4, 4],
      ]),
    );
    const args = [
      'plan',
      'trace',
      '--layer',
      '1',
      '--step',
      '2',
      '--experts',
      '8',
      '-o',
      'p.fusco',
      '--as-batch',
    ];
    expectRefusal(
      await fusco(...args, '--ranks', '4'),
      'E_ROUTING_DUPLICATE',
      /rank2\.jsonl: line 1, token 1, ids 4, 4: rank 3 token 0/,
    );
  });

  it('are never more than --ranks', async () => {
    saveTrace({ 0: both, 1: both, 2: both });
    expect(await refusalOf({ step: 2, layer: 1, ranks: 2 })).toMatch(
      /it contains 3 ranks, not the 2 requested/,
    );
  });
});

describe('pipeline stages and several groups', () => {
  const stage = (layers: readonly number[]) => layers.map((layer) => [1, layer] as const);
  const STAGES = Object.fromEntries(
    Array.from({ length: 8 }, (_, rank) => [rank, stage(rank < 4 ? [1, 2] : [3, 4])]),
  );

  it('a layer is planned for the ranks that have it', async () => {
    saveTrace(STAGES);
    expect((await tokensOf({ layer: 1 })).notices).toEqual([
      'layer 1 was recorded by ranks 0..3 of 8: planned as a group of 4 (--ranks-from selects others)',
    ]);
    const found = await tokensOf({ layer: 3 });
    expect(found).toEqual({
      tokens: [2, 2, 2, 2],
      notices: [
        'layer 3 was recorded by ranks 4..7 of 8: planned as a group of 4 (--ranks-from selects others)',
      ],
    });
    expect((await tokensOf({ layer: 3, ranks: 4 })).tokens).toEqual([2, 2, 2, 2]);
    expect((await tokensOf({ layer: 3, ranksFrom: [4, 5, 6, 7] })).notices).toEqual([]);
    // Asked for all eight, the ranks of the other stage have no tokens.
    expect((await tokensOf({ layer: 3, ranks: 8 })).tokens).toEqual([0, 0, 0, 0, 2, 2, 2, 2]);
  });

  it('a rank that is silent, or a hole, leaves the stage open', async () => {
    saveTrace({ ...STAGES, 7: [] });
    expect(await refusalOf({ layer: 3 })).toMatch(
      /layer 3 was recorded by ranks 4\.\.6, other layers by 0\.\.3; rank 7 recorded nothing \(Say which ranks.*--ranks-from/,
    );
    expect((await tokensOf({ layer: 3, ranksFrom: [4, 5, 6, 7] })).tokens).toEqual([2, 2, 2, 0]);
    saveTrace({ ...STAGES, 5: stage([1]) });
    expect(await refusalOf({ layer: 3 })).toMatch(/recorded by ranks 4, 6, 7, other layers by 0, 1, 2, 3, 5/);
  });

  it('--ranks-from takes one of several groups, also of ranks that are not neighbors', async () => {
    saveTrace(Object.fromEntries(Array.from({ length: 8 }, (_, rank) => [rank, [[1, 1]] as const])));
    const args = ['plan', 'trace', '--layer', '1', '--experts', '8', '-o', 'p.fusco', '--ranks-from'];
    for (const list of ['4..7', '0,2,4,6', '0..1,6..7']) {
      await fuscoJson(...args, list);
      expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({
        tokens: [2, 2, 2, 2],
        recvRows: [8, 4, 4, 0],
      });
    }
    expectRefusal(await fusco(...args, '4..9', '--ranks', '4'), 'E_RANKS', '--ranks-from names 6');
    expectRefusal(await fusco(...args, '8..9'), 'E_RANKS', 'ranks 8, 9 recorded nothing');
    expectRefusal(await fusco(...args, '7..4'), 'E_OPTION', 'neither a number nor FIRST..LAST');
    expectRefusal(await fusco(...args, '1,1'), 'E_OPTION', '1 occurs twice');
    expectRefusal(await fusco(...args, '4..9999'), 'E_OPTION', 'numbers lie in 0..4095');
  });

  it('--ranks-from takes ranks of an array and of files per rank', async () => {
    saveNpy('r.npy', 'i32', [4, 1, 2], Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7));
    const take = async (path: string, ranksFrom: number[]) =>
      (await readAnyRouting(path, { ranksFrom })).map(rowsOf);
    expect(await take('r.npy', [2, 3])).toEqual([[[4, 5]], [[6, 7]]]);
    saveRoutingByRank('numpy', [[[0, 1]], [[2, 3]], [[4, 5]]], 2);
    expect(await take('numpy', [0, 2])).toEqual([[[0, 1]], [[4, 5]]]);
    expect(await refusalOf({ ranksFrom: [2, 4] }, 'r.npy')).toMatch(/there is no rank 4 of 4/);
    saveNpy('batch.npy', 'i32', [2, 2], Int32Array.of(0, 1, 2, 3));
    expect(await refusalOf({ ranksFrom: [0] }, 'batch.npy')).toMatch(
      /does not say which rank had which tokens/,
    );
  });

  it('lists are numbers and ranges', () => {
    expect(parseRanges('--x', '8..11,0,2')).toEqual([
      { first: 0, last: 0 },
      { first: 2, last: 2 },
      { first: 8, last: 11 },
    ]);
  });
});

describe('a trace whose last line was cut', () => {
  it('is read up to it, with a notice', async () => {
    save('t.jsonl', record(0, 1, 1) + record(1, 1, 1) + record(0, 2, 1).slice(0, 40));
    const found = await tokensOf({ layer: 1 }, 't.jsonl');
    expect(found).toEqual({
      tokens: [2, 2],
      notices: ['t.jsonl: line 3 is truncated and skipped; it was the last'],
    });
    save('r.jsonl', '{"routed_experts": [[[0, 3]], [[5, 1]]]}\n{"routed_experts": [[[0,');
    expect((await tokensOf({ ranks: 1 }, 'r.jsonl')).tokens).toEqual([2]);
  });

  it('does not make a rank idle whose record may be in the missing part', async () => {
    saveTrace({ 0: both, 1: both });
    save('trace/router_trace_rank1.jsonl', record(1, 1, 1) + record(1, 2, 1).slice(0, -30));
    expect((await tokensOf({ step: 1, layer: 1 })).tokens).toEqual([2, 2]);
    expect(await refusalOf({ step: 2, layer: 1 })).toMatch(
      /^E_RANKS trace: the file of rank 1 is truncated before a record of this layer and step/,
    );
  });

  it('of a file of all ranks may have lost the record of any', async () => {
    save('t.jsonl', record(0, 1, 1) + record(1, 1, 1) + record(0, 2, 1) + record(1, 2, 1).slice(0, -30));
    expect((await tokensOf({ step: 1, layer: 1 }, 't.jsonl')).tokens).toEqual([2, 2]);
    expect(await refusalOf({ step: 2, layer: 1 }, 't.jsonl')).toMatch(/the file of rank 1 is truncated/);
  });

  it('of one line alone is refused', async () => {
    save('t.jsonl', record(0, 1, 1).slice(0, -20));
    expect(await refusalOf({ layer: 1 }, 't.jsonl')).toMatch(/^E_FOREIGN /);
  });

  it('compressed files of a trace are read as the others', async () => {
    saveTrace({ 0: both });
    save('trace/router_trace_rank1.jsonl.gz', gzipSync(record(1, 2, 1)));
    expect((await tokensOf({ step: 2, layer: 1 })).tokens).toEqual([2, 2]);
  });
});

it('an option that does not apply to a file is refused', async () => {
  saveTrace({ 0: both, 1: both });
  save('r.jsonl', '{"routed_experts": [[[0, 3]], [[5, 1]]]}\n');
  saveNpy('a.npy', 'i32', [2, 1, 2], Int32Array.of(0, 1, 2, 3));
  const args = ['--layer', '1', '--step', '1', '--experts', '8', '--ranks', '2', '-o', 'p.fusco'];
  const refuses = async (path: string, option: string[], text: string) =>
    expectRefusal(await fusco('plan', path, ...args, ...option), 'E_OPTION', text);
  await refuses(
    'trace',
    ['--axes', 'tokens,topk'],
    '--axes does not apply to a router trace (Leave out --axes.)',
  );
  await refuses('trace', ['--array', 'ids'], '--array does not apply to a router trace');
  await refuses('r.jsonl', ['--physical-ids'], '--physical-ids does not apply to responses');
  await refuses('a.npy', ['--physical-ids'], '--physical-ids does not apply to arrays of ids');
});

it('onFound hears of everything that a file holds, whatever is chosen', async () => {
  const found: string[] = [];
  const onFound = (step: number | undefined, layer: number | undefined, joins: boolean) =>
    void found.push(`${step} ${layer} ${joins}`);
  saveTrace({ 0: both, 1: both });
  await readAnyRouting('trace', { step: 1, layer: 1, onFound });
  expect([...new Set(found)]).toEqual(['1 1 false', '2 1 false']);
  found.length = 0;
  const ids = encodeNpy('i32', [1, 2], Int32Array.of(0, 1));
  save('l.npz', zipSync({ 'layer_0.npy': Buffer.concat(ids), 'layer_1.npy': Buffer.concat(ids) }));
  await expect(readAnyRouting('l.npz', { ranks: 1, onFound })).rejects.toThrow(
    'several of its arrays are layers',
  );
  // Steps have no numbers here.
  expect(found).toEqual(['undefined 0 true', 'undefined 1 true']);
});
