// Responses of servers in all their forms, and what is said where experts are missing.

import { describe, expect, it } from 'vitest';
import { type RoutingChoice, readAnyRouting } from '../../../tools/readers/anyRouting.ts';
import { parseAxes } from '../../../tools/readers/choice.ts';
import { encodeNpy } from '../../../tools/readers/npy.ts';
import { expectRefusal, fusco, fuscoJson, save, useTemporaryDirectory } from '../../support/cli.ts';
import { rowsOf } from './support.ts';

useTemporaryDirectory();

/** [4 tokens][2 layers][2]. */
const IDS = [
  [
    [0, 3],
    [1, 2],
  ],
  [
    [5, 1],
    [4, 7],
  ],
  [
    [4, 2],
    [0, 6],
  ],
  [
    [7, 6],
    [3, 5],
  ],
];
const LAYER = IDS.map((token) => token[1]!);
const base64 = (array: ArrayBufferView) =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
const int32 = base64(Int32Array.from(IDS.flat(2)));
const payload = (dtype: string, data: ArrayBufferView) => ({
  data: base64(data),
  shape: [4, 2, 2],
  dtype,
  start: 0,
});

async function read(choice: RoutingChoice = {}, path = 'r.jsonl') {
  const notices: string[] = [];
  const notice = (text: string) => void notices.push(text);
  const tables = await readAnyRouting(path, { ranks: 1, layer: 1, ...choice, notice });
  return { rows: rowsOf(tables[0]!), notices };
}

async function refusalOf(choice: RoutingChoice = {}, path = 'r.jsonl'): Promise<string> {
  const error = await readAnyRouting(path, { ranks: 1, layer: 1, ...choice }).catch((thrown) => thrown);
  return `${error.code} ${error.message} (${error.hint})`;
}

const saveLines = (...lines: unknown[]) =>
  save('r.jsonl', lines.map((line) => `${JSON.stringify(line)}\n`).join(''));

describe('SGLang', () => {
  const generate = {
    text: 'x',
    meta_info: { prompt_tokens: 3, completion_tokens: 2, routed_experts: int32 },
  };
  const chat = { choices: [{ index: 0, sgl_ext: { routed_experts: int32 } }] };

  it.each([
    ['generate, tokens counted', generate, 'tokens,layers=2,topk=2'],
    ['generate, one size alone', generate, 'tokens,layers,topk=2'],
    ['chat', chat, 'tokens,layers=2,topk=2'],
    ['chat, all sizes', chat, 'tokens=4,layers=2,topk=2'],
    ['chat, tokens last to be known', chat, 'tokens=4,layers=2,topk'],
  ])('%s', async (_, response, axes) => {
    saveLines(response);
    expect((await read({ axes: parseAxes(axes) })).rows).toEqual(LAYER);
  });

  it('a list of responses, as a batch is answered', async () => {
    save('r.json', JSON.stringify([generate, generate], null, 1));
    const found = await read({ axes: parseAxes('tokens,layers=2,topk=2') }, 'r.json');
    expect(found.rows).toEqual([...LAYER, ...LAYER]);
  });

  it.each([
    [
      chat,
      undefined,
      /line 1, choice 0: 64 bytes of int32 ids without a shape, as SGLang's responses have them .*--axes tokens,layers=48,topk=8/,
    ],
    [generate, undefined, /line 1, meta_info: .* of 4 tokens, as SGLang's/],
    [generate, 'tokens,layers=3,topk=2', /without a shape/],
    [generate, 'tokens=5,layers=2,topk=2', /without a shape/],
    [chat, 'tokens,layers,topk=2', /without a shape/],
  ])('without sizes, or with others: %#', async (response, axes, text) => {
    saveLines(response);
    expect(await refusalOf({ axes: axes === undefined ? undefined : parseAxes(axes) })).toMatch(text);
  });
});

describe('payloads', () => {
  it.each([
    ['uint8', Uint8Array],
    ['int16', Int16Array],
    ['torch.int32', Int32Array],
    ['uint16', Uint16Array],
  ] as const)('that describe themselves: %s', async (dtype, Ids) => {
    const value = payload(dtype, Ids.from(IDS.flat(2)));
    saveLines({ choices: [{ index: 0, routed_experts: value }] });
    expect((await read()).rows).toEqual(LAYER);
  });

  it('a .npy in base64, and lists, with other axes', async () => {
    const npy = Buffer.concat(encodeNpy('u8', [4, 2, 2], Uint8Array.from(IDS.flat(2))));
    saveLines({ routed_experts: base64(npy) });
    expect((await read()).rows).toEqual(LAYER);
    const layers = [0, 1].map((layer) => IDS.map((token) => token[layer]!));
    saveLines({ routed_experts: layers });
    expect((await read({ axes: parseAxes('layers,tokens,topk') })).rows).toEqual(LAYER);
  });

  it.each([
    [{ ...payload('uint8', new Uint8Array(16)), dtype: 'float32' }, /dtype "float32" is not one of uint8/],
    [{ ...payload('uint8', new Uint8Array(15)) }, /15 bytes, u8 \(4, 2, 2\) takes 16/],
    [{ ...payload('uint8', new Uint8Array(16)), shape: [4, -2, 2] }, /"shape" is not a list of sizes/],
    [{ ...payload('uint8', new Uint8Array(16)), data: [1] }, /"data" is not base64/],
    ['not base64!', /it is not base64/],
    [[[[0, 3], [1]]], /token 0 has a list in place of a list of 2, as in token 0/],
    [7, /it is not a list of tokens/],
    [[[]], /shape \(1, 0\) is not \(tokens, layers, topk\)/],
  ])('refuses %j', async (value, text) => {
    saveLines({ routed_experts: value });
    expect(await refusalOf()).toMatch(text);
  });
});

describe('responses and layers that are missing', () => {
  it('responses without experts are passed over, with their lines', async () => {
    const full = { choices: [{ routed_experts: IDS }] };
    saveLines(full, { choices: [{ routed_experts: null }] }, full, { choices: [] });
    const found = await read();
    expect(found.rows).toEqual([...LAYER, ...LAYER]);
    expect(found.notices).toEqual(['r.jsonl: 2 responses without routed_experts skipped: line 2, 4']);
    const args = ['plan', 'r.jsonl', '--layer', '1', '--ranks', '2', '--experts', '8', '-o', 'p.fusco'];
    expect(await fuscoJson(...args)).toMatchObject({ notices: found.notices });
  });

  it('an answer that is no response is refused with its line', async () => {
    saveLines({ choices: [{ routed_experts: IDS }] }, { error: { message: 'too long' } });
    expect(await refusalOf()).toMatch(/^E_FOREIGN r\.jsonl: line 2: it is no response/);
  });

  it('a response that lacks the layer is refused with its line', async () => {
    const short = IDS.map((token) => token.slice(0, 1));
    saveLines({ routed_experts: IDS }, { routed_experts: short });
    expect(await refusalOf()).toMatch(/line 2, routed_experts: it has 1 layers, others have layer 1/);
    expect((await read({ layer: 0 })).rows).toHaveLength(8);
    saveLines({ routed_experts: short });
    expect(await refusalOf()).toMatch(/layer 1 is not among 0/);
  });

  it('ids of another topk are refused with their line', async () => {
    saveLines(
      { routed_experts: IDS },
      { routed_experts: IDS.map((token) => token.map((ids) => ids.slice(1))) },
    );
    expect(await refusalOf()).toMatch(/line 2, routed_experts: topk 1 after topk 2/);
  });

  it('JSON of something else is refused', async () => {
    save('r.json', '[{"a": 1}]');
    expectRefusal(
      await fusco('plan', 'r.json', '--experts', '8', '-o', 'p.fusco'),
      'E_FOREIGN',
      'neither a router trace (top_indices) nor responses of vLLM or SGLang',
    );
  });
});
