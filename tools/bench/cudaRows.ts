// The time of fp8 and gating on the GPU, compared with a device copy of the same number of bytes in the same run, and
// with the host backend on all processors of this machine.

import { type Cuda, openCuda } from '../../executor/backends/cuda/context.ts';
import type { Memory } from '../../executor/backends/types.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import { scaleBlocks } from '../../executor/training/fp8.ts';
import type { GateOptions } from '../../executor/training/gating.ts';
import { DeviceClock, DeviceMemory } from './device.ts';
import { timedAsync } from './measure.ts';
import { measure } from './runner.ts';

/** Row work is too slow on the host for as many rounds as on the GPU. */
const HOST_ROUNDS = 3;
const TOKENS = [4096, 32_768];

/** The two gates that differ most: none of the options, and all of them. */
const GATES: [string, GateOptions][] = [
  ['gate, softmax top-8 of 256', { experts: 256, topk: 8 }],
  [
    'gate, sigmoid top-8 of 256, 4 of 8 groups',
    { experts: 256, topk: 8, score: 'sigmoid', groups: 8, groupTopk: 4, normalize: true, scale: 2.5 },
  ],
];

type Place = 'device' | 'host';

interface RowWork {
  readonly name: string;
  /** Bytes that must be read and written once. */
  readonly bytes: number;
  run(group: Group, place: Place): Promise<void>;
}

/** A buffer on the device and a JavaScript buffer with the same bytes. */
type Pairs = (bytes: number) => Record<Place, Memory[]>;

function pairsOf(cuda: Cuda, memory: DeviceMemory): Pairs {
  return (bytes) => {
    const device = memory.random(0, bytes);
    const host = new Uint8Array(bytes);
    cuda.copy(0, host, device, bytes);
    cuda.synchronize();
    return { device: [device], host: [host] };
  };
}

function fp8Work(tokens: number, hidden: number, pairOf: Pairs): RowWork[] {
  const values = pairOf(tokens * hidden * 2);
  const codes = pairOf(tokens * hidden);
  const scales = pairOf(tokens * 4 * scaleBlocks(hidden));
  const bytes = tokens * (3 * hidden + 4 * scaleBlocks(hidden));
  const call = (place: Place) => ({
    ...({ dtype: 'bf16', hidden, rows: [tokens] } as const),
    ...{ values: values[place], codes: codes[place], scales: scales[place] },
  });
  return [
    { name: 'bf16 to fp8', bytes, run: (group, place) => group.quantize(call(place)) },
    { name: 'fp8 to bf16', bytes, run: (group, place) => group.dequantize(call(place)) },
  ];
}

function gateWork(count: number, pairOf: Pairs): RowWork[] {
  return GATES.flatMap(([name, options]): RowWork[] => {
    const { experts, topk } = options;
    const logits = pairOf(count * experts * 4);
    const scores = pairOf(count * experts * 4);
    const ids = pairOf(count * topk * 4);
    const weights = pairOf(count * topk * 4);
    const logitsGradient = pairOf(count * experts * 4);
    const bytes = 8 * count * (experts + topk);
    const shared = (place: Place) => ({ options, tokens: [count], ids: ids[place], scores: scores[place] });
    return [
      {
        ...{ name, bytes },
        run: (group, place) =>
          group.gate({ ...shared(place), logits: logits[place], weights: weights[place] }),
      },
      {
        ...{ name: `${name}, gradient`, bytes },
        run: (group, place) =>
          group.gateBackward({
            ...shared(place),
            ...{ weightsGradient: weights[place], logitsGradient: logitsGradient[place] },
          }),
      },
    ];
  });
}

async function benchTokens(tokens: number, hidden: number, rounds: number) {
  using cuda = openCuda(1);
  using group = await createGroup({ ranks: 1, backend: 'cuda', cuda });
  using host = await createGroup({ ranks: 1, backend: 'host' });
  using clock = new DeviceClock(cuda);
  using memory = new DeviceMemory(cuda);
  const pairOf = pairsOf(cuda, memory);
  const work = [...fp8Work(tokens, hidden, pairOf), ...gateWork(tokens, pairOf)];
  const most = Math.ceil(Math.max(...work.map(({ bytes }) => bytes)) / 2);
  const from = memory.random(0, most);
  const to = memory.alloc(0, most);
  const copy = (bytes: number) => clock.timed(() => cuda.copy(0, to, from, Math.round(bytes / 2)));
  const onDevice = work.flatMap(({ name, bytes, run }) => [
    [name, { bytes, run: clock.timed(() => run(group, 'device')) }],
    [`copy for ${name}`, { bytes, run: copy(bytes) }],
  ]);
  const onHost = work.map(({ name, run }) => [name, () => timedAsync(() => run(host, 'host'))] as const);
  const device = await measure(Object.fromEntries(onDevice), { rounds });
  const hosts = await measure(Object.fromEntries(onHost), { rounds: Math.min(rounds, HOST_ROUNDS) });
  return work.map(({ name, bytes }) => {
    const { ms, rate } = device[name]!;
    const { ms: copyMs } = device[`copy for ${name}`]!;
    return { name, tokens, bytes, ms, rate, copyMs, share: copyMs / ms, hostMs: hosts[name]!.ms };
  });
}

/** Row work for both numbers of tokens. `rate` is GB/s of bytes read plus written, `share` is of the copy's rate. */
export async function benchCudaRows(hidden: number, rounds: number) {
  const stages = [];
  for (const tokens of TOKENS) stages.push(...(await benchTokens(tokens, hidden, rounds)));
  return stages;
}
