// Gating on GPUs: the bits of executor/training/gating.ts, for every number of experts, choice and group; what a call may not be.

import assert from 'node:assert/strict';
import type { Cuda, DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import type { GateBackwardCall, GateCall } from '../../executor/backends/types.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import type { GateOptions } from '../../executor/training/gating.ts';
import { drawn, type Gated, specialBias, specialLogits, wantedGate } from '../support/rowWork.ts';
import { assertSame, Buffers, type GpuCase, openGpu, POISON, rejection } from './support.ts';

/** Bytes after every output that must stay as they are. */
const GUARD = 64;

interface GateInputs {
  readonly tokens: readonly number[];
  readonly logits: readonly Float32Array[];
  readonly bias: readonly Float32Array[] | undefined;
  readonly weightsGradient: readonly Float32Array[];
}

/** Forward and backward on the device; outputs with their guards. */
async function onDevice(
  cuda: Cuda,
  group: Group,
  options: GateOptions,
  inputs: GateInputs,
): Promise<Record<keyof Gated, Uint8Array[]>> {
  using buffers = new Buffers(cuda);
  const { tokens, bias } = inputs;
  const sized = (each: number) => buffers.poisoned(tokens.map((count) => 4 * count * each + GUARD));
  const ids = sized(options.topk);
  const weights = sized(options.topk);
  const scores = sized(options.experts);
  const logitsGradient = sized(options.experts);
  await group.gate({
    ...{ options, tokens, ids, weights, scores },
    logits: buffers.up(inputs.logits),
    ...(bias === undefined ? {} : { bias: buffers.up(bias) }),
  });
  const weightsGradient = buffers.up(inputs.weightsGradient);
  await group.gateBackward({ options, tokens, ids, scores, weightsGradient, logitsGradient });
  return {
    ids: buffers.down(ids),
    weights: buffers.down(weights),
    scores: buffers.down(scores),
    logitsGradient: buffers.down(logitsGradient),
  };
}

async function compare(
  cuda: Cuda,
  group: Group,
  options: GateOptions,
  inputs: GateInputs,
  note: string,
): Promise<void> {
  const actual = await onDevice(cuda, group, options, inputs);
  const expected = inputs.tokens.map((count, i) =>
    wantedGate(options, count, inputs.logits[i]!, inputs.bias?.[i], inputs.weightsGradient[i]!),
  );
  const rows = { ids: options.topk, weights: options.topk, scores: options.experts };
  for (const name of ['scores', 'ids', 'weights', 'logitsGradient'] as const) {
    const guarded = expected.map((gated) => {
      const bytes = new Uint8Array(gated[name].length + GUARD).fill(POISON);
      bytes.set(gated[name]);
      return bytes;
    });
    const words = name === 'logitsGradient' ? options.experts : rows[name];
    assertSame(`${note}: ${name}`, actual[name], guarded, 4 * words);
  }
}

function inputsOf(options: GateOptions, tokens: readonly number[], seed: number): GateInputs[] {
  const { experts, topk } = options;
  const logits = tokens.map((count, i) => specialLogits(seed + i, count, experts));
  const weightsGradient = tokens.map((count, i) => drawn(seed + 50 + i, count * topk, 2));
  const same = (values: Float32Array) => tokens.map(() => values);
  return [
    { tokens, logits, weightsGradient, bias: undefined },
    { tokens, logits, weightsGradient, bias: same(drawn(seed + 80, experts, 0.5)) },
    { tokens, logits, weightsGradient, bias: same(specialBias(seed + 90, experts)) },
  ];
}

/** Both sides of every size at which the kernel changes, and some between. */
const EXPERTS = [1, 2, 7, 31, 32, 33, 64, 65, 100, 128, 160, 255, 256, 257, 512, 513, 1000, 1024, 1025, 3000];

const sizes: GpuCase[] = EXPERTS.map((experts) => ({
  name: `gate: ${experts} experts, softmax and sigmoid, one to 256 of them`,
  async run() {
    using gpu = await openGpu(2);
    const { cuda, group } = gpu;
    for (const score of ['softmax', 'sigmoid'] as const) {
      for (const topk of new Set([1, Math.min(8, experts), Math.min(256, experts)])) {
        const normalize = topk !== 1;
        const options: GateOptions = { experts, topk, score, normalize, scale: normalize ? 2.5 : 1 };
        for (const [i, inputs] of inputsOf(options, [21, 3], experts).entries()) {
          await compare(cuda, group, options, inputs, `${score}, top-${topk}, bias ${i}`);
        }
      }
    }
  },
}));

/** [experts, groups, groupTopk, topk] */
const GROUPS: [number, number, number, number][] = [
  [256, 8, 4, 8],
  [160, 8, 3, 6],
  [64, 8, 1, 8],
  [12, 4, 2, 6],
  [30, 10, 7, 5],
  [99, 33, 32, 9],
  [100, 50, 1, 2],
  [64, 64, 9, 3],
  [70, 70, 40, 40],
  [1024, 2, 1, 256],
  [1024, 128, 100, 16],
  [1024, 1024, 1023, 4],
  [1002, 334, 33, 7],
  [2048, 8, 4, 8],
  [1500, 500, 40, 11],
  [1200, 1200, 70, 5],
];

const groupLimited: GpuCase[] = GROUPS.map(([experts, groups, groupTopk, topk]) => ({
  name: `gate: ${groupTopk} of ${groups} groups of ${experts} experts, top-${topk}`,
  async run() {
    using gpu = await openGpu(2);
    const { cuda, group } = gpu;
    for (const groupScore of ['max', 'top2'] as const) {
      for (const score of ['softmax', 'sigmoid'] as const) {
        const options: GateOptions = { experts, topk, score, groups, groupTopk, groupScore, normalize: true };
        for (const [i, inputs] of inputsOf(options, [14, 1], experts + groups).entries()) {
          await compare(cuda, group, options, inputs, `${groupScore}, ${score}, bias ${i}`);
        }
      }
    }
  },
}));

const other: GpuCase[] = [
  {
    name: 'gate: 40,000 experts in 20,000 groups',
    async run() {
      using gpu = await openGpu(1);
      const { cuda, group } = gpu;
      const options: GateOptions = {
        experts: 40_000,
        topk: 5,
        groups: 20_000,
        groupTopk: 4,
        score: 'sigmoid',
      };
      const [inputs] = inputsOf(options, [2], 77);
      await compare(cuda, group, options, inputs!, 'large');
    },
  },
  {
    name: 'gate: 20,000 tokens, more than there are warps at a time; ties, and nothing but NaN',
    async run() {
      using gpu = await openGpu(1);
      const { cuda, group } = gpu;
      const options: GateOptions = { experts: 16, topk: 4, normalize: true, scale: 0.5 };
      const tokens = [20_000];
      const [inputs] = inputsOf(options, tokens, 5);
      await compare(cuda, group, options, inputs!, 'many');
      for (const value of [0, -0, Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, -200]) {
        for (const score of ['softmax', 'sigmoid'] as const) {
          const logits = [new Float32Array(16 * 9).fill(value)];
          const weightsGradient = [drawn(1, 9 * 4, 2)];
          const equal = { tokens: [9], logits, weightsGradient, bias: undefined };
          await compare(cuda, group, { ...options, score }, equal, `all ${value}, ${score}`);
        }
      }
    },
  },
  {
    name: 'gate: JavaScript buffers may have any address; a rank without tokens does nothing',
    async run() {
      using group = await createGroup({ ranks: 2, backend: 'cuda' });
      const options: GateOptions = { experts: 40, topk: 3, score: 'sigmoid', normalize: true };
      const [, inputs] = inputsOf(options, [11, 0], 6);
      const { tokens, logits, bias, weightsGradient } = inputs!;
      const sized = (each: number) =>
        tokens.map((count) => new Uint8Array(4 * count * each + 1).fill(POISON).subarray(1));
      const ids = sized(3);
      const weights = sized(3);
      const scores = sized(40);
      const logitsGradient = sized(40);
      await group.gate({ options, tokens, logits, bias: bias!, ids, weights, scores });
      await group.gateBackward({ options, tokens, ids, scores, weightsGradient, logitsGradient });
      const expected = wantedGate(options, 11, logits[0]!, bias![0], weightsGradient[0]!);
      const actual = { ids, weights, scores, logitsGradient };
      for (const [name, list] of Object.entries(actual)) {
        assertSame(name, [list[0]!], [expected[name as keyof Gated]], 4);
      }
      const bad = { options, tokens: [1, 0], scores, weightsGradient, logitsGradient };
      for (const id of [-1, 40]) {
        const code = await rejection(
          group.gateBackward({ ...bad, ids: [Int32Array.of(0, id, 1), new Int32Array(0)] }),
        );
        assert.equal(code, 'E_OPTION');
      }
    },
  },
  {
    name: 'gate: ids on the device that are out of range have no effect',
    async run() {
      const options: GateOptions = { experts: 50, topk: 4, score: 'sigmoid', scale: 3 };
      const tokens = [8];
      const [inputs] = inputsOf(options, tokens, 31);
      const gradient = inputs!.weightsGradient[0]!;
      const { ids, scores } = wantedGate(options, 8, inputs!.logits[0]!, undefined, gradient);
      const forged = new Int32Array(ids.buffer.slice(0));
      [-1, 50, 2 ** 31 - 1, -(2 ** 31)].forEach((id, i) => {
        forged[5 * i] = id;
      });
      // As if these entries had no gradient.
      const muted = gradient.map((value, i) => (i % 5 === 0 && i < 20 ? 0 : value));
      const expected = wantedGate(options, 8, inputs!.logits[0]!, undefined, muted).logitsGradient;
      using gpu = await openGpu(1);
      const { group, buffers } = gpu;
      const logitsGradient = buffers.poisoned([expected.length]);
      await group.gateBackward({
        ...{ options, tokens, logitsGradient },
        ids: buffers.up([forged]),
        scores: buffers.up([scores]),
        weightsGradient: buffers.up([gradient]),
      });
      assertSame('gradient', buffers.down(logitsGradient), [expected], 4 * 50);
    },
  },
];

const refusals: GpuCase = {
  name: 'gate: misuse is refused before anything is written',
  async run() {
    using gpu = await openGpu(1);
    const { group, buffers } = gpu;
    const of = (words: number) => buffers.poisoned([4 * words + 8]);
    const options: GateOptions = { experts: 4, topk: 2 };
    const inputs = { logits: of(12), weightsGradient: of(6) };
    const outputs = { ids: of(6), weights: of(6), scores: of(12), logitsGradient: of(12) };
    const { ids, weights, scores, logitsGradient } = outputs;
    const forward: GateCall = { options, tokens: [3], logits: inputs.logits, ids, weights, scores };
    const backward: GateBackwardCall = {
      ...{ options, tokens: [3], ids, scores, logitsGradient },
      weightsGradient: inputs.weightsGradient,
    };
    const at = ([buffer]: DeviceBuffer[], from: number, bytes: number) => [
      { address: buffer!.address + BigInt(from), bytes },
    ];
    const bad: [Partial<GateCall>, string][] = [
      [{ logits: at(inputs.logits, 0, 47) }, 'E_BUFFER'],
      [{ logits: at(inputs.logits, 2, 48) }, 'E_BUFFER'],
      [{ logits: [new Float32Array(11)] }, 'E_BUFFER'],
      [{ bias: at(inputs.logits, 0, 15) }, 'E_BUFFER'],
      [{ ids: at(scores, 0, 24) }, 'E_BUFFER'],
      [{ weights: at(weights, 0, 23) }, 'E_BUFFER'],
      [{ scores: inputs.logits }, 'E_BUFFER'],
      [{ scores: [] }, 'E_BUFFER'],
      [{ scores: [{ address: 4096n, bytes: 48 }] }, 'E_BUFFER'],
      [{ tokens: [-1] }, 'E_OPTION'],
      [{ options: { experts: 4, topk: 5 } }, 'E_OPTION'],
      [{ options: { experts: 4, topk: 2, groups: 3 } }, 'E_OPTION'],
    ];
    for (const [change, code] of bad) {
      assert.equal(await rejection(group.gate({ ...forward, ...change })), code, Object.keys(change)[0]);
    }
    const badBackward: [Partial<GateBackwardCall>, string][] = [
      [{ logitsGradient: at(logitsGradient, 0, 47) }, 'E_BUFFER'],
      [{ logitsGradient: scores }, 'E_BUFFER'],
      [{ weightsGradient: at(inputs.weightsGradient, 1, 24) }, 'E_BUFFER'],
      [{ options: { experts: 0, topk: 0 } }, 'E_OPTION'],
    ];
    for (const [change, code] of badBackward) {
      const found = await rejection(group.gateBackward({ ...backward, ...change }));
      assert.equal(found, code, Object.keys(change)[0]);
    }
    for (const list of Object.values(outputs)) {
      assert.ok(buffers.down(list)[0]!.every((byte) => byte === POISON));
    }
  },
};

export const gatingCases: GpuCase[] = [...sizes, ...groupLimited, ...other, refusals];
