// Rows that are no routing, and maps of 0 and 1: what the options make of them, and what is said without the options.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type RoutingChoice, readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import { expectRefusal, fusco, fuscoJson, save, saveNpy, useTemporaryDirectory } from '../../support/cli.ts';
import { rowsOf } from './support.ts';

useTemporaryDirectory();

const plan = (file: string, ...options: string[]) => ['plan', file, '-o', 'p.fusco', ...options];
const inspect = () => fuscoJson('inspect', 'p.fusco');

async function read(path: string, choice: RoutingChoice = {}): Promise<number[][][]> {
  return (await readAnyRouting(path, { ranks: 1, ...choice })).map(rowsOf);
}

describe('rows of one id in all columns', () => {
  const requests = [
    [
      [
        [0, 3],
        [1, 2],
      ],
      [
        [5, 1],
        [4, 7],
      ],
    ],
    [
      [
        [0, 3],
        [2, 1],
      ],
      [
        [0, 0],
        [0, 0],
      ],
    ],
  ];
  const saveResponses = () =>
    save(
      'r.jsonl',
      requests.map((ids) => `${JSON.stringify({ choices: [{ routed_experts: ids }] })}\n`).join(''),
    );
  const options = ['--ranks', '2', '--experts', '8', '--layer', '1'];

  it('are refused with file, line, token and cause', async () => {
    saveResponses();
    expectRefusal(
      await fusco(...plan('r.jsonl', ...options)),
      'E_ROUTING_DUPLICATE',
      /r\.jsonl: line 2, choice 0, token 1, ids 0, 0: rank 1 token 1 k 1: expert 0 .* \(Recorders leave one repeated id in rows that they did not record: --mask-repeated-rows masks such rows\.\)/,
    );
  });

  it('are masked with --mask-repeated-rows', async () => {
    saveResponses();
    await fuscoJson(...plan('r.jsonl', ...options, '--mask-repeated-rows'));
    expect(await inspect()).toMatchObject({ tokens: [2, 2], maskedEntries: 2 });
    const verify = ['verify', 'p.fusco', '--routing', 'r.jsonl', '--layer', '1'];
    expect(await fuscoJson(...verify, '--mask-repeated-rows')).toMatchObject({ matches: true });
    expectRefusal(await fusco(...verify), 'E_ROUTING_DUPLICATE', 'line 2');
  });

  it('columns of -1 are no ids; one id alone is not repeated', async () => {
    saveNpy('a.npy', 'i32', [3, 3], Int32Array.of(4, 4, -1, 4, -1, -1, 4, 4, 5));
    expect(await read('a.npy', { maskRepeatedRows: true })).toEqual([
      [
        [-1, -1, -1],
        [4, -1, -1],
        [4, 4, 5],
      ],
    ]);
    saveNpy('one.npy', 'i32', [2, 1], Int32Array.of(0, 0));
    expect(await read('one.npy', { maskRepeatedRows: true })).toEqual([[[0], [0]]]);
  });
});

describe('ids that mean no expert', () => {
  it.each([
    ['u8', Uint8Array.of(0, 255, 1, 2), '255', /255 is -1 in an unsigned integer: --mask-ids 255 masks it/],
    ['u16', Uint16Array.of(0, 65535, 1, 2), '65535', /65535 is -1 in an unsigned integer/],
    ['u32', Uint32Array.of(0, 2 ** 32 - 1, 1, 2), '4294967295', /4294967295 is -1 in an unsigned/],
    ['i32', Int32Array.of(0, 8, 1, 2), '8', /the number of experts for "no expert": --mask-ids 8 masks it/],
    ['i32', Int32Array.of(0, 9, 1, 2), '9..15', /zero-computation experts \(--mask-ids 8\.\.LAST/],
    ['i32', Int32Array.of(0, -7, 1, 2), '-7', /Only -1 means no expert: --mask-ids=-7 masks it/],
  ] as const)('%s %o', async (dtype, data, list, hint) => {
    saveNpy('a.npy', dtype, [1, 2, 2], data);
    const result = await fusco(...plan('a.npy', '--experts', '8'));
    expectRefusal(result, 'E_ROUTING_ID', hint);
    expect(result.stderr).toMatch(/a\.npy: token 0, ids 0, -?[0-9]+: rank 0 token 0 k 1/);
    await fuscoJson(...plan('a.npy', '--experts', '8', `--mask-ids=${list}`));
    expect(await inspect()).toMatchObject({ maskedEntries: 1, recvRows: [3] });
  });

  it('in the recording of a rank, with its file and line', async () => {
    const record = { step: 0, layer: 0, rank: 1, num_tokens: 2, topk: 1, top_indices: [[0], [9]] };
    save(
      't/router_trace_rank0.jsonl',
      `${JSON.stringify({ ...record, rank: 0, top_indices: [[0], [1]] })}\n`,
    );
    save('t/router_trace_rank1.jsonl', `\n${JSON.stringify(record)}\n`);
    expectRefusal(
      await fusco(...plan('t', '--experts', '8')),
      'E_ROUTING_ID',
      /t\/router_trace_rank1\.jsonl: line 2, token 1, ids 9: rank 1 token 1 k 0/,
    );
  });
});

describe('a layer in which nothing was recorded', () => {
  it('is refused with the first layer that has experts', async () => {
    const ids = [
      [
        [-1, -1],
        [-1, -1],
        [0, 3],
      ],
      [
        [-1, -1],
        [-1, -1],
        [5, 1],
      ],
    ];
    save('r.jsonl', `${JSON.stringify({ routed_experts: ids })}\n`);
    const options = ['--ranks', '1', '--experts', '8', '--layer'];
    expectRefusal(
      await fusco(...plan('r.jsonl', ...options, '0')),
      'E_FOREIGN',
      /nothing was recorded in layer 0, the first layer with experts is 2: every id is -1 .*--layer 2/,
    );
    await fuscoJson(...plan('r.jsonl', ...options, '2'));
  });

  it('also where masks leave nothing', async () => {
    save('r.jsonl', '{"routed_experts": [[[0, 0]], [[0, 0]]]}\n');
    const choice = { layer: 0, ranks: 1, maskRepeatedRows: true };
    await expect(readAnyRouting('r.jsonl', choice)).rejects.toThrow(
      'nothing was recorded in layer 0, nor in any other',
    );
  });

  it('ids of one layer may all be masked', async () => {
    saveNpy('a.npy', 'i32', [1, 2, 2], new Int32Array(4).fill(-1));
    await fuscoJson(...plan('a.npy', '--experts', '8'));
    expect(await inspect()).toMatchObject({ maskedEntries: 4 });
  });
});

describe('maps of 0 and 1', () => {
  // Tokens 0..3 chose {0, 3}, {1, 2}, {0, 1}, {2, 3}.
  const MAP = Uint8Array.of(1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1);
  const bool = () => {
    const bytes = Buffer.concat(encodeNpy('u8', [4, 4], MAP));
    save('map.npy', Buffer.from(bytes.toString('latin1').replace('|u1', '|b1'), 'latin1'));
  };
  const options = ['--ranks', '2', '--experts', '4'];

  it.each(['bool', 'u8'])('%s: read with --multi-hot, and announced without it', async (dtype) => {
    if (dtype === 'bool') bool();
    else saveNpy('map.npy', 'u8', [4, 4], MAP);
    const asked = await fuscoJson(...plan('map.npy', ...options, '--multi-hot'));
    expect(asked).not.toHaveProperty('notices');
    expect(await inspect()).toMatchObject({ tokens: [2, 2], recvRows: [4, 4], topk: 2, maskedEntries: 0 });
    const found = await fuscoJson(...plan('map.npy', ...options));
    expect(found.planId).toBe(asked.planId);
    expect(found.notices).toEqual([
      expect.stringContaining('read as a map [tokens, experts] (--multi-hot states this)'),
    ]);
  });

  it('tokens with fewer experts are filled up with -1, over all ranks', async () => {
    saveNpy('map.npy', 'i8', [2, 2, 3], Int8Array.of(0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1));
    expect(await read('map.npy', { ranks: 2, multiHot: true })).toEqual([
      [
        [-1, -1, -1],
        [1, -1, -1],
      ],
      [
        [0, 1, 2],
        [2, -1, -1],
      ],
    ]);
  });

  it('of two experts may be ids: one of two options says which', async () => {
    saveNpy('two.npy', 'i8', [4, 2], Int8Array.of(1, 0, 1, 0, 1, 0, 1, 0));
    const two = ['--ranks', '2', '--experts', '2'];
    expectRefusal(
      await fusco(...plan('two.npy', ...two)),
      'E_ROUTING_SHAPE',
      /may be ids or a map of two experts \(Give --multi-hot for a map .*, or --no-multi-hot for ids/,
    );
    await fuscoJson(...plan('two.npy', ...two, '--multi-hot'));
    expect(await inspect()).toMatchObject({ recvRows: [4, 0] });
    await fuscoJson(...plan('two.npy', ...two, '--no-multi-hot'));
    expect(await inspect()).toMatchObject({ recvRows: [4, 4] });
  });

  it('of booleans may be one file per rank', async () => {
    bool();
    save('maps/rank0.npy', readFileSync('map.npy'));
    save('maps/rank1.npy', readFileSync('map.npy'));
    await fuscoJson(...plan('maps', '--experts', '4'));
    expect(await inspect()).toMatchObject({ tokens: [4, 4], topk: 2, recvRows: [8, 8] });
  });

  it('refuses what is no map', async () => {
    saveNpy('ids.npy', 'i8', [2, 4], Int8Array.of(0, 1, 2, 3, 0, 1, 2, 3));
    expectRefusal(
      await fusco(...plan('ids.npy', ...options, '--multi-hot')),
      'E_ROUTING_SHAPE',
      /token 0, expert 2: 2 in a map of 0 and 1 \(Leave out --multi-hot/,
    );
    bool();
    expectRefusal(
      await fusco(...plan('map.npy', '--ranks', '2', '--experts', '5')),
      'E_ROUTING_DTYPE',
      /--multi-hot/,
    );
  });
});
