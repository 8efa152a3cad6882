// Files of other programs, read through the one entrance that `fusco plan` uses.

import { readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FuscoError } from '../../../planner/errors.ts';
import { type RoutingChoice, readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { expectRefusal, fusco, fuscoJson, useTemporaryDirectory } from '../../support/cli.ts';
import { EXPERTS, foreign, routing, rowsOf } from './support.ts';

useTemporaryDirectory();

async function read(name: string, choice: RoutingChoice = {}): Promise<number[][][]> {
  return (await readAnyRouting(foreign(name), choice)).map(rowsOf);
}

describe('SGLang', () => {
  const dump = (rank: number) => `sglang/expert_distribution_recorder_1750000000.0_${rank}.pt`;

  it('gives one table per dump, with logical ids and the columns that are used', async () => {
    for (const [step, layer] of [
      [7, 0],
      [8, 2],
    ] as const) {
      const found = await read('sglang', { step, layer });
      expect(found).toEqual([0, 1].map((rank) => routing(10 * rank + step + layer, 4 + rank + (step - 7))));
    }
  });

  it('gives the tokens of one dump to its rank and to no other', async () => {
    const found = await read(dump(1), { step: 8, layer: 1, ranks: 4 });
    expect(found).toEqual([[], routing(10 + 8 + 1, 6), [], []]);
    await expect(read(dump(1), { step: 8, layer: 1 })).rejects.toThrow('rank 0 recorded nothing');
  });

  it.each([
    [{}, 'several layers (0, 1, 2): give --layer'],
    [{ layer: 0 }, 'several steps (forward pass 7, 8): give --step'],
    [{ layer: 3, step: 7 }, 'layer 3 is not among 0, 1, 2'],
    [{ layer: 0, step: 9 }, 'forward pass 9 is not among 7, 8'],
  ])('says what there is: %o', async (choice, text) => {
    await expect(read('sglang', choice)).rejects.toMatchObject({ code: 'E_FOREIGN' });
    await expect(read('sglang', choice)).rejects.toThrow(text);
  });

  it.each(['sglang-stat.pt', 'sglang-counts.json'])('refuses counts: %s', async (name) => {
    await expect(read(name, { layer: 0 })).rejects.toThrow('fusco workload --from-counts');
  });
});

describe('vLLM', () => {
  /** One layer of what make.py calls layers(seed, tokens). */
  const layerOf = (seed: number, tokens: number, layer: number) => routing(seed + layer, tokens);
  const cached = (layer: number) => [[-1, -1], ...layerOf(3, 4, layer).slice(1)];

  it('joins all requests of a JSONL, prompt before choices, lists and base64 alike', async () => {
    for (const layer of [0, 2]) {
      expect(await read('vllm.jsonl', { layer, ranks: 1 })).toEqual([
        [
          ...layerOf(1, 5, layer),
          ...layerOf(2, 3, layer),
          ...cached(layer),
          ...layerOf(4, 2, layer),
          ...layerOf(5, 2, layer),
          ...layerOf(6, 4, layer),
        ],
      ]);
    }
  });

  it('takes one request by its number', async () => {
    expect(await read('vllm.jsonl', { layer: 1, step: 2, ranks: 2 })).toEqual([
      layerOf(6, 4, 1).slice(0, 2),
      layerOf(6, 4, 1).slice(2),
    ]);
  });

  it('reads a response that is one JSON file, and arrays in .npz and .npy', async () => {
    const whole = [[...layerOf(1, 5, 1), ...layerOf(2, 3, 1)]];
    expect(await read('vllm-response.json', { layer: 1, ranks: 1 })).toEqual(whole);
    expect(await read('vllm.npz', { layer: 1, ranks: 1 })).toEqual(whole);
    expect(await read('vllm.npy', { layer: 1, ranks: 1, format: 'vllm' })).toEqual([layerOf(7, 8, 1)]);
  });

  it('takes a .npy for [ranks, tokens, topk] unless a layer is asked for, and says so', async () => {
    const notices: string[] = [];
    const notice = (text: string) => void notices.push(text);
    expect(await read('vllm.npy', { notice })).toHaveLength(8);
    expect(await read('vllm.npy', { layer: 1, ranks: 1, notice })).toEqual([layerOf(7, 8, 1)]);
    expect(notices).toEqual([
      expect.stringContaining('axes (8, 3, 2) read as ranks, tokens, topk (--axes sets another order)'),
      expect.stringContaining('axes (8, 3, 2) read as tokens, layers, topk (--axes sets another order)'),
    ]);
  });

  it('refuses responses without routing', async () => {
    writeFileSync('none.jsonl', '{"choices": [{"routed_experts": null}]}\n');
    await expect(readAnyRouting('none.jsonl', { ranks: 1 })).rejects.toThrow('it holds no routing');
  });
});

describe('Megatron', () => {
  it('gives one table per rank of a directory, without multi-token prediction', async () => {
    expect(await read('megatron', { layer: 2, step: 1 })).toEqual(
      [0, 1].map((rank) => routing(7 * rank + 1 + 2, 5 + rank)),
    );
  });

  it('refuses records that contradict themselves', async () => {
    const record = { step: 0, layer: 0, rank: 0, num_tokens: 2, topk: 1, top_indices: [[1]] };
    const refusal = async (change: object) => {
      writeFileSync('t.jsonl', `${JSON.stringify({ ...record, ...change })}\n`);
      return readAnyRouting('t.jsonl', { ranks: 1 }).catch((error) => `${error.code} ${error.message}`);
    };
    expect(await refusal({})).toBe(
      'E_FOREIGN t.jsonl: line 1: top_indices is [1, 1], num_tokens and topk say [2, 1]',
    );
    expect(await refusal({ top_indices: [[1], [2, 3]] })).toMatch(
      'token 1 has a list in place of a list of 1, as in token 0',
    );
    expect(await refusal({ top_indices: [[1], [2.5]] })).toMatch('token 1 has 2.5 in place of an integer');
    expect(await refusal({ top_indices: [[1], [2 ** 40]] })).toMatch(
      'id 1099511627776 of token 1 is not a 32-bit integer',
    );
    expect(await refusal({ block: 'encoder' })).toMatch('neither decoder nor mtp');
    expect(await refusal({ step: '0' })).toMatch('"step" is not an integer');
    expect(await refusal({ rank: -1, top_indices: [[1], [2]] })).toMatch('rank -1 is not in 0..4095');
  });

  it('names the line that is damaged', async () => {
    const lines = readFileSync(foreign('megatron/router_trace_rank0.jsonl'), 'utf8').split('\n');
    const choice = { layer: 1, step: 0, ranks: 1 };
    writeFileSync('cut.jsonl', lines.with(2, lines[2]!.slice(0, -20)).join('\n'));
    await expect(readAnyRouting('cut.jsonl', choice)).rejects.toThrow('line 3 is not JSON');
    // The last line has an end: its writer was not killed.
    writeFileSync('cut.jsonl', lines.with(5, lines[5]!.slice(0, -20)).join('\n'));
    await expect(readAnyRouting('cut.jsonl', choice)).rejects.toThrow('line 6 is not JSON');
  });

  it('names the rank that is missing', async () => {
    const line = (rank: number) =>
      JSON.stringify({ step: 0, layer: 0, rank, num_tokens: 1, topk: 1, top_indices: [[rank]] });
    writeFileSync('t.jsonl', `${line(0)}\n\n${line(2)}\n`);
    await expect(readAnyRouting('t.jsonl')).rejects.toThrow('rank 1 recorded nothing, the highest is rank 2');
  });
});

describe('TensorRT-LLM', () => {
  it('gives one table per raw file of a directory', async () => {
    expect(await read('trtllm', { layer: 4, step: 11 })).toEqual(
      [0, 1].map((rank) => routing(rank + 11 + 4, 4 - rank)),
    );
  });

  it('refuses the files of counts', async () => {
    await expect(read('trtllm/rank0.safetensors', { layer: 4, step: 11 })).rejects.toThrow('it only counts');
  });
});

describe('mutated recordings', () => {
  it.each(['vllm.jsonl', 'vllm-response.json', 'megatron/router_trace_rank1.jsonl'])('%s', async (name) => {
    const whole = readFileSync(foreign(name));
    let refused = 0;
    const edits = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(edits, fc.option(fc.nat(whole.length), { freq: 4 }), async (changes, cut) => {
        const bytes = Buffer.from(whole);
        for (const [at, value] of changes) bytes[at] = value;
        writeFileSync('mutated', bytes.subarray(0, cut ?? bytes.length));
        const choice = { layer: 1, step: name.startsWith('vllm') ? undefined : 0, ranks: 1 };
        // Whatever the bytes are, reading ends with tables or with one coded refusal.
        const outcome = await readAnyRouting('mutated', choice).catch((error) => error);
        if (!Array.isArray(outcome)) {
          expect(outcome).toBeInstanceOf(FuscoError);
          expect(outcome.code).not.toBe('E_INTERNAL');
          refused++;
        }
      }),
      { numRuns: 400, seed: 9 },
    );
    expect(refused).toBeGreaterThan(50);
  });
});

describe('fusco plan', () => {
  const options = ['--experts', String(EXPERTS), '-o', 'p.fusco'];

  it('plans a recording, and an option says what to take of it', async () => {
    await fuscoJson('plan', foreign('megatron'), ...options, '--layer', '2', '--step', '1');
    expect((await fuscoJson('inspect', 'p.fusco')).tokens).toEqual([5, 6]);
    const verify = (layer: string) =>
      fusco('verify', 'p.fusco', '--routing', foreign('megatron'), '--layer', layer, '--step', '1');
    expect([(await verify('2')).code, (await verify('1')).code]).toEqual([0, 1]);
    await fuscoJson(
      'plan',
      foreign('vllm.npy'),
      ...options,
      '--format',
      'vllm',
      '--layer',
      '0',
      '--ranks',
      '2',
    );
    expect((await fuscoJson('inspect', 'p.fusco')).tokens).toEqual([4, 4]);
  });

  it('refuses in one line what it cannot read', async () => {
    expectRefusal(await fusco('plan', foreign('megatron'), ...options), 'E_FOREIGN', 'give --layer');
    expectRefusal(
      await fusco('plan', foreign('sglang'), ...options, '--format', 'trtllm'),
      'E_FOREIGN',
      'no files of trtllm',
    );
    expectRefusal(
      await fusco('plan', foreign('vllm.jsonl'), ...options, '--layer', '0'),
      'E_RANKS',
      'give --ranks',
    );
    expectRefusal(
      await fusco('plan', foreign('megatron'), ...options, '--layer', '1', '--step', '0', '--ranks', '1'),
      'E_RANKS',
    );
    writeFileSync('old.pt', Uint8Array.of(0x80, 2, 0x8a, 10, 0x6c, 0xfc));
    expectRefusal(await fusco('plan', 'old.pt', ...options), 'E_FOREIGN', 'before 1.6');
    writeFileSync('other.json', '{"a": 1}\n');
    expectRefusal(await fusco('plan', 'other.json', ...options), 'E_FOREIGN', 'neither a router trace');
  });
});
