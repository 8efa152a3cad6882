// The gradient of combine in one call: its kernel between GPUs takes paths that the matrix does not reach, such as long
// chunks, many entries of a token, few blocks, captures and devices that are late. On one GPU the cases run as two launches.

import assert from 'node:assert/strict';
import { cudaDevices, type DeviceBuffer } from '../../executor/backends/cuda/context.ts';
import { createGroup } from '../../executor/group.ts';
import { spin } from '../../executor/internal.ts';
import type { FloatDtype } from '../../executor/numeric.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { randomFrom, type Workload } from '../support/workloads.ts';
import {
  assertSame,
  type Buffers,
  entrySizes,
  type GpuCase,
  openGpu,
  planFor,
  randomRows,
  receivedSizes,
  rowsPayload,
  tokenSizes,
} from './support.ts';

const RANKS = 4;
const MIXED = { family: 'hotExperts', seed: 5, ranks: RANKS, tokens: 40, topk: 8, experts: 64 } as const;

interface Format {
  readonly dtype: FloatDtype;
  readonly rowBytes: number;
}
const BF16: Format = { dtype: 'bf16', rowBytes: 1040 };

const INPUTS = ['outputGradient', 'from', 'weights'] as const;
const OUTPUTS = ['to', 'weightsGradient', 'origins'] as const;
type Lists<Names extends readonly string[], List> = Record<Names[number], List>;
type Inputs = Lists<typeof INPUTS, Uint8Array[]>;
type Outputs = Lists<typeof OUTPUTS, Uint8Array[]>;

function lists<Name extends string, List>(
  names: readonly Name[],
  make: (name: Name) => List,
): Record<Name, List> {
  return Object.fromEntries(names.map((name) => [name, make(name)])) as Record<Name, List>;
}

function outputSizes(plan: VerifiedPlan, { rowBytes }: Format): Lists<typeof OUTPUTS, number[]> {
  return {
    to: receivedSizes(plan, rowBytes),
    weightsGradient: entrySizes(plan, 4),
    origins: receivedSizes(plan, 12),
  };
}

function drawInputs(plan: VerifiedPlan, { dtype, rowBytes }: Format, seed = 0): Inputs {
  const draw = (first: number, sizes: number[], kind: FloatDtype) =>
    sizes.map((size, rank) => randomRows(seed + first + rank, size, kind));
  return {
    outputGradient: draw(0, tokenSizes(plan, rowBytes), dtype),
    from: draw(100, receivedSizes(plan, rowBytes), dtype),
    weights: draw(200, entrySizes(plan, 4), 'f32'),
  };
}

/** What the host backend gives; its own tests compare it with the reference. */
async function wanted(plan: VerifiedPlan, format: Format, inputs: Inputs): Promise<Outputs> {
  using group = await createGroup({ ranks: plan.spec.ranks, backend: 'host' });
  using exchange = await group.prepare(plan);
  const sizes = outputSizes(plan, format);
  const made = lists(OUTPUTS, (name) => sizes[name].map((size) => new Uint8Array(size)));
  await exchange.combineGradient({ ...format, ...inputs, ...made });
  return made;
}

function assertOutputs(
  what: string,
  buffers: Buffers,
  actual: Lists<typeof OUTPUTS, DeviceBuffer[]>,
  expected: Outputs,
) {
  for (const name of OUTPUTS) {
    const bytes = buffers.down(actual[name]);
    const heads = bytes.map((all, rank) => all.subarray(0, expected[name][rank]!.length));
    assertSame(`${name}, ${what}`, heads, expected[name], 4);
  }
}

async function compare(
  workload: Workload,
  options: Omit<PlanOptions, 'ranks' | 'experts'>,
  format = BF16,
  sms = 0,
) {
  const plan = await planFor({ ...workload, masked: 0.1 }, options);
  const inputs = drawInputs(plan, format);
  const expected = await wanted(plan, format, inputs);
  using gpu = await openGpu(workload.ranks);
  const { cuda, buffers } = gpu;
  using devicePlan = cuda.devicePlan(plan);
  cuda.limitSms(sms);
  const given = lists(INPUTS, (name) => buffers.up(inputs[name]));
  const sizes = outputSizes(plan, format);
  const made = lists(OUTPUTS, (name) => buffers.poisoned(sizes[name]));
  const report = devicePlan.combineGradient({ ...format, ...given, ...made });
  assert.equal(report.path, Math.min(cudaDevices().devices.length, workload.ranks) > 1 ? 'once' : 'direct');
  assertOutputs(`${sms} SMs`, buffers, made, expected);
}

const shapes: GpuCase[] = [
  ...[0, 1, 3, 24, 60].map((sms) => ({
    name: `combine gradient: more than 512 tokens on ${sms === 0 ? 'all' : sms} SMs`,
    run: () => compare({ ...MIXED, tokens: 700 }, { capacity: 100, align: 16 }, BF16, sms),
  })),
  ...(['balanced', 'hotExperts', 'raggedSources', 'rankWithoutRows'] as const).map((family) => ({
    name: `combine gradient: ${family}`,
    run: () => compare({ ...MIXED, family }, { strategy: 'hier', ranksPerNode: 1 }),
  })),
  {
    name: 'combine gradient: tokens with 40 experts',
    run: () => compare({ ...MIXED, ranks: 2, topk: 40, tokens: 20 }, { align: 8 }),
  },
  ...(['f32', 'f16', 'bf16'] as const).flatMap((dtype) =>
    [16, 48, 65_536].map((rowBytes) => ({
      name: `combine gradient: ${dtype} rows of ${rowBytes} bytes`,
      run: () => compare(MIXED, {}, { dtype, rowBytes }),
    })),
  ),
];

const repeated: GpuCase[] = [
  {
    name: 'combine gradient: 100 calls of two plans between other exchanges, with random delays on random ranks',
    async run() {
      const plans = await Promise.all(
        [1, 2].map((seed) =>
          planFor({ ...MIXED, seed, tokens: 30 + 10 * seed }, { strategy: 'hier', ranksPerNode: 1 }),
        ),
      );
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      const random = randomFrom(3);
      const sides = await Promise.all(
        plans.map(async (plan, i) => {
          const inputs = drawInputs(plan, BF16, 1000 * i);
          const sizes = outputSizes(plan, BF16);
          return {
            devicePlan: cuda.devicePlan(plan),
            expected: await wanted(plan, BF16, inputs),
            given: lists(INPUTS, (name) => buffers.up(inputs[name])),
            made: lists(OUTPUTS, (name) => buffers.poisoned(sizes[name])),
            rows: buffers.poisoned(receivedSizes(plan, BF16.rowBytes)),
            sums: buffers.poisoned(tokenSizes(plan, BF16.rowBytes)),
          };
        }),
      );
      for (let call = 0; call < 100; call++) {
        const { devicePlan, expected, given, made, rows, sums } = sides[call % 2]!;
        for (const name of OUTPUTS) for (const buffer of made[name]) cuda.fill(buffer, 0xee);
        spin(cuda, Math.floor(random() * RANKS), Math.floor(random() * 300_000));
        if (random() < 0.5)
          devicePlan.dispatch({ payloads: [rowsPayload(BF16.rowBytes, given.outputGradient, rows)] });
        if (random() < 0.5)
          devicePlan.combine({ ...BF16, from: given.from, to: sums, weights: given.weights });
        devicePlan.combineGradient({ ...BF16, ...given, ...made });
        if (random() < 0.5)
          devicePlan.combine({ ...BF16, from: given.from, to: sums, weights: given.weights });
        if (call % 5 === 4 || random() < 0.2) assertOutputs(`call ${call}`, buffers, made, expected);
      }
      for (const { devicePlan } of sides) devicePlan.close();
    },
  },
  {
    name: 'combine gradient: a capture replays with new rows and with another plan on the device',
    async run() {
      const plans = await Promise.all(
        [32, 27].map((tokens) =>
          planFor({ ...MIXED, seed: tokens, tokens, family: 'balanced' }, { align: 4 }),
        ),
      );
      using gpu = await openGpu(RANKS);
      const { cuda, buffers } = gpu;
      using devicePlan = cuda.devicePlan(plans[0]!, { tokens: 64 * RANKS, topk: 8, instances: 64 });
      const largest = (sizes: number[][]) => sizes[0]!.map((size, rank) => Math.max(size, sizes[1]![rank]!));
      const drawn = plans.map((plan, i) => drawInputs(plan, BF16, 1000 * i));
      const given = lists(INPUTS, (name) =>
        buffers.poisoned(largest(drawn.map((one) => one[name].map(({ length }) => length)))),
      );
      const made = lists(OUTPUTS, (name) =>
        buffers.poisoned(largest(plans.map((plan) => outputSizes(plan, BF16)[name]))),
      );
      using graph = cuda.capture(() => {
        devicePlan.combineGradient({ ...BF16, ...given, ...made });
      });
      for (const turn of [0, 1, 0, 1]) {
        devicePlan.upload(plans[turn]!);
        for (const name of INPUTS) {
          drawn[turn]![name].forEach((bytes, rank) => {
            cuda.copy(rank, given[name][rank]!, bytes, bytes.length);
          });
        }
        for (const name of OUTPUTS) for (const buffer of made[name]) cuda.fill(buffer, 0xee);
        graph.launch();
        assertOutputs(`plan ${turn}`, buffers, made, await wanted(plans[turn]!, BF16, drawn[turn]!));
      }
    },
  },
];

export const gradientCases: GpuCase[] = [...shapes, ...repeated];
