// The hint of every error is about the file and the option at hand: a walk over all codes, and over the places that throw
// each of them.

import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { beforeEach, describe, expect, it } from 'vitest';
import { createGroup } from '../../../executor/group.ts';
import { ERROR_HINTS, type ErrorCode, FuscoError } from '../../../planner/errors.ts';
import { loadPlanner } from '../../../planner/node.ts';
import { fusco, fuscoJson, save, saveNpy, saveRouting, useTemporaryDirectory } from '../../support/cli.ts';

useTemporaryDirectory();

const NPY_HINT = ERROR_HINTS.E_FORMAT;
const IDS = [[[0, 3]], [[1, 2]]];

beforeEach(async () => {
  saveRouting('r.npy', IDS);
  saveNpy('x.npy', 'f32', [2, 1, 4], new Float32Array(8));
  await fuscoJson('plan', 'r.npy', '--experts', '8', '-o', 'p.fusco');
});

const plan = (file: string, ...options: string[]) => [
  'plan',
  file,
  '--experts',
  '8',
  '-o',
  'q.fusco',
  ...options,
];
const convert = (file: string, ...options: string[]) => [
  ...['placement', 'convert', file, '--ranks', '2', '-o', 'm.json'],
  ...options,
];
const propose = (...options: string[]) => [
  'placement',
  'propose',
  '--ranks',
  '2',
  '-o',
  'm.json',
  ...options,
];
const simulate = (...options: string[]) => ['simulate', 'p.fusco', ...options];

/** What a command is given, the code of its refusal, and what the hint must speak of. */
type Context = readonly [
  name: string,
  prepare: () => void,
  args: readonly string[],
  code: ErrorCode,
  hint: RegExp,
];

const nothing = () => {};
const text = (name: string, content: string) => () => save(name, content);
const record = (rank: number, ids: number[][]) =>
  `${JSON.stringify({ step: 0, layer: 0, rank, num_tokens: ids.length, topk: 2, top_indices: ids })}\n`;

const CONTEXTS: readonly Context[] = [
  // Files that are no arrays are not to be written with NumPy.
  [
    'a truncated array',
    () => save('a.npy', readFileSync('r.npy').subarray(0, -1)),
    plan('a.npy'),
    'E_FORMAT',
    /numpy\.save/,
  ],
  [
    'a truncated archive',
    () => save('a.npz', zipSync({ 'a.npy': readFileSync('r.npy') }).slice(0, -9)),
    plan('a.npz'),
    'E_FORMAT',
    /numpy\.savez or torch\.save/,
  ],
  [
    'truncated gzip data',
    () => save('a.gz', gzipSync('{}').subarray(0, -3)),
    plan('a.gz'),
    'E_FORMAT',
    /gunzip/,
  ],
  ['a placement that is no JSON', text('m', '[0,'), plan('r.npy', '--placement', 'm'), 'E_FORMAT', /JSON/],
  ['a topology that is no JSON', text('t.json', '{'), simulate('--topology', 't.json'), 'E_FORMAT', /JSON/],
  [
    'a key of a topology',
    text('t.json', '{"nod": 1}'),
    simulate('--topology', 't.json'),
    'E_FORMAT',
    /simulate\.md/,
  ],
  [
    'counts that are no counts',
    text('c', '[[1, -1]]'),
    propose('--counts', 'c'),
    'E_FORMAT',
    /layer_id, expert_id, count/,
  ],
  ['CSV without a column', text('c', 'a,b\n1,2\n'), propose('--counts', 'c'), 'E_FORMAT', /CSV/],
  ['a placement of no known kind', text('m', 'a: 1'), convert('m'), 'E_FORMAT', /--format/],
  [
    'a placement without an expert',
    text('m', '[0,2]'),
    convert('m', '--format', 'phy2log'),
    'E_PLACEMENT',
    /--layer and --format/,
  ],
  [
    'a map of the wrong length',
    text('m', '[0,1]'),
    plan('r.npy', '--placement', 'm'),
    'E_PLACEMENT',
    /one entry per expert/,
  ],
  [
    'a file that plan does not take as a map',
    text('m', '{"phy2log": [0]}'),
    plan('r.npy', '--placement', 'm'),
    'E_PLACEMENT',
    /placement convert/,
  ],
  // Options.
  [
    'a layer of a single array',
    nothing,
    plan('r.npy', '--layer', '1', '--axes', 'ranks,tokens,topk'),
    'E_OPTION',
    /--layer.*--axes/,
  ],
  [
    'an axis of another name',
    nothing,
    plan('r.npy', '--axes', 'a,b'),
    'E_OPTION',
    /--axes tokens,layers,topk/,
  ],
  ['a list of ranks', nothing, plan('r.npy', '--ranks-from', 'x'), 'E_OPTION', /--ranks-from/],
  ['nodes of unequal size', nothing, plan('r.npy', '--node-sizes', '1,2'), 'E_OPTION', /ranks of every node/],
  [
    'ranks that a size does not divide',
    nothing,
    plan('r.npy', '--ranks-per-node', '3'),
    'E_OPTION',
    /integer|range/i,
  ],
  ['a topology of another name', nothing, simulate('--topology', 'moon'), 'E_OPTION', /--topology/],
  [
    'a layer that was not counted',
    text('c', '[[0, 0], [1, 2]]'),
    propose('--counts', 'c', '--layer', '0'),
    'E_OPTION',
    /--layer/,
  ],
  [
    'another number of experts',
    text('c', '[[1, 2]]'),
    propose('--counts', 'c', '--experts', '3'),
    'E_OPTION',
    /--experts/,
  ],
  [
    'a topk that is too large',
    nothing,
    ['workload', 'balanced', '--ranks', '1', '--tokens', '1', '--topk', '4', '--experts', '2', '-o', 'w'],
    'E_OPTION',
    /--topk/,
  ],
  [
    'a placement of several layers',
    text('m', '[[0],[0]]'),
    convert('m', '--format', 'phy2log'),
    'E_OPTION',
    /--layer/,
  ],
  ['an unknown option', nothing, plan('r.npy', '--rank', '2'), 'E_USAGE', /--help/],
  // Ranks.
  [
    'a batch without ranks',
    () => saveNpy('b.npy', 'i32', [2, 2], new Int32Array(4)),
    plan('b.npy'),
    'E_RANKS',
    /--ranks N/,
  ],
  ['other ranks than the array', nothing, plan('r.npy', '--ranks', '3'), 'E_RANKS', /--ranks.*--ranks-from/],
  [
    'a rank without a file',
    () => {
      save('d/rank0.npy', readFileSync('r.npy'));
      save('d/rank2.npy', readFileSync('r.npy'));
    },
    plan('d'),
    'E_RANKS',
    /rank0, rank1/,
  ],
  [
    'a rank without records',
    text('t.jsonl', record(1, [[0, 1]]) + record(2, [[0, 1]])),
    plan('t.jsonl'),
    'E_RANKS',
    /--ranks N.*--ranks-from/,
  ],
  [
    'input of other ranks',
    () => saveNpy('y.npy', 'f32', [3, 1, 4], new Float32Array(12)),
    ['run', 'p.fusco', '--input', 'y.npy', '--out', 'o'],
    'E_RANKS',
    /every rank of the plan/,
  ],
  // Routing.
  [
    'floats for ids',
    () => saveNpy('f.npy', 'f32', [2, 1, 2], new Float32Array(4)),
    plan('f.npy'),
    'E_ROUTING_DTYPE',
    /weights have no ids/,
  ],
  [
    'axes that are not clear',
    () => saveNpy('one.npy', 'i32', [4], new Int32Array(4)),
    plan('one.npy'),
    'E_ROUTING_SHAPE',
    /--axes/,
  ],
  [
    'an id that is the number of experts',
    () => saveRouting('i.npy', [[[0, 8]]]),
    plan('i.npy'),
    'E_ROUTING_ID',
    /--mask-ids 8/,
  ],
  [
    'an id of 255',
    () => saveNpy('i.npy', 'u8', [1, 1, 2], Uint8Array.of(0, 255)),
    plan('i.npy'),
    'E_ROUTING_ID',
    /-1 in an unsigned.*--mask-ids 255/,
  ],
  [
    'a row of zeros',
    () => saveRouting('i.npy', [[[0, 0]]]),
    plan('i.npy'),
    'E_ROUTING_DUPLICATE',
    /--mask-repeated-rows/,
  ],
  [
    'a map of experts',
    () => saveNpy('i.npy', 'u8', [1, 1, 3], Uint8Array.of(0, 1, 1)),
    plan('i.npy'),
    'E_ROUTING_DUPLICATE',
    /--multi-hot/,
  ],
  [
    'an expert twice',
    () => saveRouting('i.npy', [[[4, 5, 4]]]),
    plan('i.npy'),
    'E_ROUTING_DUPLICATE',
    /once.*--axes/,
  ],
  // Recordings.
  [
    'several layers',
    text('v.jsonl', '{"routed_experts": [[[0], [1]]]}\n'),
    plan('v.jsonl', '--ranks', '1'),
    'E_FOREIGN',
    /--layer/,
  ],
  [
    'a layer that is not there',
    text('v.jsonl', '{"routed_experts": [[[0], [1]]]}\n'),
    plan('v.jsonl', '--layer', '7'),
    'E_FOREIGN',
    /--layer/,
  ],
  [
    'a layer without experts',
    text('v.jsonl', '{"routed_experts": [[[-1], [1]]]}\n'),
    plan('v.jsonl', '--layer', '0'),
    'E_FOREIGN',
    /--layer 1/,
  ],
  [
    'ids without a shape',
    text('v.jsonl', '{"meta_info": {"routed_experts": "AAAA"}}\n'),
    plan('v.jsonl'),
    'E_FOREIGN',
    /--axes tokens,layers=48,topk=8/,
  ],
  [
    'several arrays',
    () => save('n.npz', zipSync({ 'a.npy': readFileSync('r.npy'), 'b.npy': readFileSync('r.npy') })),
    plan('n.npz'),
    'E_FOREIGN',
    /--array NAME/,
  ],
  // Files, plans and everything else.
  ['no file', nothing, plan('missing'), 'E_FILE_NOT_FOUND', /path/],
  [
    'no directory for the output',
    nothing,
    ['plan', 'r.npy', '--experts', '8', '-o', 'no/q'],
    'E_FILE_WRITE',
    /directory exists/,
  ],
  ['a directory for a plan', text('d/x', ''), ['verify', 'd'], 'E_FILE_READ', /readable file/],
  [
    'input of another shape',
    () => saveNpy('y.npy', 'f32', [2, 2, 4], new Float32Array(16)),
    ['run', 'p.fusco', '--input', 'y.npy', '--out', 'o'],
    'E_SHAPE',
    /shape and dtype that the plan asks for/,
  ],
  [
    'input of other rows',
    () => saveNpy('y.npy', 'f32', [3, 4], new Float32Array(12)),
    ['run', 'p.fusco', '--input', 'y.npy', '--out', 'o'],
    'E_SHAPE',
    /all 2 rows/,
  ],
  ['a golden file', text('fusco.golden.json', '{}'), ['check'], 'E_GOLDEN', /golden\.md/],
  ['no plan', text('n', 'hello'), ['inspect', 'n'], 'E_PLAN_MAGIC', /fusco plan/],
  [
    'a truncated plan',
    () => save('c', readFileSync('p.fusco').subarray(0, 200)),
    ['verify', 'c'],
    'E_PLAN_TRUNCATED',
    /truncated/,
  ],
  [
    'a plan with another byte',
    () => {
      const bytes = readFileSync('p.fusco');
      bytes[bytes.length - 70]! ^= 1;
      save('c', bytes);
    },
    ['verify', 'c'],
    'E_PLAN_DIGEST',
    /bytes changed/,
  ],
];

describe('the hint of a command', () => {
  it.each(CONTEXTS)('%s', async (_, prepare, args, code, hint) => {
    prepare();
    const { stderr } = await fusco(...args);
    const found = /^error\[(E_[A-Z_]+)\]: (.*) \((.*)\)\n$/s.exec(stderr);
    expect([found?.[1], stderr]).toEqual([code, stderr]);
    // The hint is what follows the message; it may contain parentheses.
    expect(stderr).toMatch(hint);
    const isArray = args.some((arg) => arg.endsWith('.npy'));
    if (!isArray) expect(stderr).not.toContain(NPY_HINT);
    if (code === 'E_OPTION') expect(found![3]).not.toBe(ERROR_HINTS.E_USAGE);
  });
});

describe('the hint in the API', () => {
  const contexts: readonly (readonly [name: string, call: () => unknown, code: ErrorCode, hint: RegExp])[] = [
    [
      'a misspelt option',
      async () =>
        (await createGroup({ ranks: 1, backend: 'reference' })).plan([], { experts: 1, hiden: 2 } as never),
      'E_RANKS',
      /ranks/,
    ],
    [
      'a misspelt option of a plan',
      async () =>
        (await loadPlanner()).planAll([{ ids: new Int32Array(1), tokens: 1, topk: 1 }], {
          experts: 1,
          ranks: 1,
          hiden: 2,
        } as never),
      'E_OPTION',
      /"hidden"/,
    ],
    [
      'a choice',
      async () =>
        (await loadPlanner()).planAll([{ ids: new Int32Array(1), tokens: 1, topk: 1 }], {
          experts: 1,
          ranks: 1,
          strategy: 'x',
        } as never),
      'E_OPTION',
      /flat, hier, auto/,
    ],
    ['a backend', () => createGroup({ ranks: 1, backend: 'x' } as never), 'E_BACKEND', /reference/],
    [
      'a wrong element type',
      async () =>
        (await createGroup({ ranks: 1, backend: 'reference' })).gate({
          options: { experts: 1, topk: 1 },
          tokens: [0],
          logits: [new Float64Array(0)],
          ids: [new Int32Array(0)],
          weights: [new Float32Array(0)],
          scores: [new Float32Array(0)],
        }),
      'E_DTYPE',
      /Float32Array/,
    ],
    [
      'too few buffers',
      async () =>
        (await createGroup({ ranks: 1, backend: 'reference' })).gate({
          options: { experts: 1, topk: 1 },
          tokens: [0],
          logits: [],
          ids: [],
          weights: [],
          scores: [],
        }),
      'E_BUFFER',
      /each local rank/,
    ],
  ];

  it.each(contexts)('%s', async (_, call, code, hint) => {
    const error = await Promise.resolve()
      .then(call)
      .then(
        () => undefined,
        (thrown) => thrown,
      );
    expect(error).toBeInstanceOf(FuscoError);
    expect([error.code, error.hint]).toEqual([code, expect.stringMatching(hint)]);
  });
});

describe('every code', () => {
  it.each(Object.entries(ERROR_HINTS))(
    '%s has a hint of one sentence or more, which an error may replace',
    (code, hint) => {
      const error = new FuscoError(code as ErrorCode, 'x');
      expect(error.hint).toBe(hint);
      expect(hint).toMatch(/^[A-Z`].*[.]$|^docs\/.*[.]$|^This is a bug/s);
      expect(new FuscoError(code as ErrorCode, 'x', { hint: 'Do this.' }).hint).toBe('Do this.');
    },
  );

  it('of a reader, of a placement or of an option is walked above', () => {
    const walked = new Set(CONTEXTS.map(([, , , code]) => code));
    const ofFiles = (Object.keys(ERROR_HINTS) as ErrorCode[]).filter((code) =>
      /^E_(USAGE|OPTION|PLACEMENT|RANKS|FILE_|FORMAT|FOREIGN|GOLDEN|SHAPE|ROUTING_)/.test(code),
    );
    expect(ofFiles.filter((code) => !walked.has(code))).toEqual([]);
  });
});
