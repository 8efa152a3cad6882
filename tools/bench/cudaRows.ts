// What fp8 and gating cost on the GPU, beside a device copy of as many bytes in the same run, and beside the host
// backend with all of this machine's processors.

import { type Cuda, type DeviceBuffer, openCuda } from '../../executor/backends/cuda/context.ts';
import type { Fp8Call, GateBackwardCall, GateCall, Memory } from '../../executor/backends/types.ts';
import { createGroup, type Group } from '../../executor/group.ts';
import { scaleBlocks } from '../../executor/training/fp8.ts';
import type { GateOptions } from '../../executor/training/gating.ts';
import { DeviceClock, fillRandom } from './cudaTiming.ts';
import { measure, type Timed, timedAsync } from './measure.ts';

/** Medians. Bytes are those that must be read and written once. */
export interface CudaRowStage {
  readonly name: string;
  readonly tokens: number;
  readonly bytes: number;
  readonly ms: number;
  /** GB/s of bytes read plus written. */
  readonly rate: number;
  /** A device copy of as many bytes, read plus written. */
  readonly copyMs: number;
  /** Of the copy's rate. */
  readonly share: number;
  readonly hostMs: number;
}

/** The work is too slow there for as many rounds as the GPU's. */
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

interface Candidate {
  readonly name: string;
  readonly bytes: number;
  run(group: Group, place: 'device' | 'host'): Promise<void>;
}

/** A buffer on the device and one of JavaScript with the same bytes. */
class Pair {
  readonly device: Memory[];
  readonly host: Memory[];

  constructor(cuda: Cuda, owned: DeviceBuffer[], bytes: number) {
    const device = cuda.alloc(0, bytes);
    owned.push(device);
    const host = new Uint8Array(bytes);
    fillRandom(cuda, [device]);
    cuda.copy(0, host, device, bytes);
    cuda.synchronize();
    this.device = [device];
    this.host = [host];
  }
}

type Pairs = (bytes: number) => Pair;

function fp8Candidates(tokens: number, hidden: number, pairOf: Pairs): Candidate[] {
  const rows = [tokens];
  const values = pairOf(tokens * hidden * 2);
  const codes = pairOf(tokens * hidden);
  const scales = pairOf(tokens * 4 * scaleBlocks(hidden));
  const bytes = tokens * (3 * hidden + 4 * scaleBlocks(hidden));
  const call = (place: 'device' | 'host'): Fp8Call => ({
    ...{ dtype: 'bf16', hidden, rows },
    ...{ values: values[place], codes: codes[place], scales: scales[place] },
  });
  return [
    { name: 'bf16 to fp8', bytes, run: (group, place) => group.quantize(call(place)) },
    { name: 'fp8 to bf16', bytes, run: (group, place) => group.dequantize(call(place)) },
  ];
}

function gateCandidates(count: number, pairOf: Pairs): Candidate[] {
  return GATES.flatMap(([name, options]) => {
    const { experts, topk } = options;
    const tokens = [count];
    const logits = pairOf(count * experts * 4);
    const scores = pairOf(count * experts * 4);
    const ids = pairOf(count * topk * 4);
    const weights = pairOf(count * topk * 4);
    const logitsGradient = pairOf(count * experts * 4);
    const bytes = 8 * count * (experts + topk);
    const forward = (place: 'device' | 'host'): GateCall => ({
      ...{ options, tokens, logits: logits[place] },
      ...{ ids: ids[place], weights: weights[place], scores: scores[place] },
    });
    const backward = (place: 'device' | 'host'): GateBackwardCall => ({
      ...{ options, tokens, ids: ids[place], scores: scores[place] },
      ...{ weightsGradient: weights[place], logitsGradient: logitsGradient[place] },
    });
    return [
      { name, bytes, run: (group, place) => group.gate(forward(place)) },
      { name: `${name}, gradient`, bytes, run: (group, place) => group.gateBackward(backward(place)) },
    ] satisfies Candidate[];
  });
}

async function benchTokens(tokens: number, hidden: number, rounds: number): Promise<CudaRowStage[]> {
  using cuda = openCuda(1);
  using group = await createGroup({ ranks: 1, backend: 'cuda', cuda });
  using host = await createGroup({ ranks: 1, backend: 'host' });
  using clock = new DeviceClock(cuda);
  const owned: DeviceBuffer[] = [];
  const pairOf: Pairs = (bytes) => new Pair(cuda, owned, bytes);
  const candidates = [...fp8Candidates(tokens, hidden, pairOf), ...gateCandidates(tokens, pairOf)];
  const most = Math.ceil(Math.max(...candidates.map(({ bytes }) => bytes)) / 2);
  const from = cuda.alloc(0, most);
  const to = cuda.alloc(0, most);
  owned.push(from, to);
  fillRandom(cuda, [from]);

  const onDevice: Record<string, Timed> = {};
  const onHost: Record<string, Timed> = {};
  for (const candidate of candidates) {
    const { name, bytes } = candidate;
    let done = Promise.resolve();
    const timed = clock.timed(() => {
      done = candidate.run(group, 'device');
    });
    onDevice[name] = async () => {
      const nanoseconds = await timed();
      await done;
      return nanoseconds;
    };
    onDevice[`copy for ${name}`] = clock.timed(() => cuda.copy(0, to, from, Math.round(bytes / 2)));
    onHost[name] = () => timedAsync(() => candidate.run(host, 'host'));
  }
  const times = await measure(onDevice, rounds);
  const hostTimes = await measure(onHost, Math.min(rounds, HOST_ROUNDS));
  for (const buffer of owned) cuda.free(buffer);
  return candidates.map(({ name, bytes }) => {
    const ns = times[name]!;
    const copyNs = times[`copy for ${name}`]!;
    return {
      ...{ name, tokens, bytes, ms: ns / 1e6, rate: bytes / ns },
      ...{ copyMs: copyNs / 1e6, share: copyNs / ns, hostMs: hostTimes[name]! / 1e6 },
    };
  });
}

/** Times of row work for both numbers of tokens. */
export async function benchCudaRows(hidden: number, rounds: number): Promise<CudaRowStage[]> {
  const stages: CudaRowStage[] = [];
  for (const tokens of TOKENS) stages.push(...(await benchTokens(tokens, hidden, rounds)));
  return stages;
}
