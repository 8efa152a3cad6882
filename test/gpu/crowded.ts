// Exchanges on GPUs that are not theirs alone: next to a kernel that leaves them few SMs, and two groups at the same time.

import assert from 'node:assert/strict';
import { type Cuda, cudaDevices, openCuda } from '../../executor/backends/cuda/context.ts';
import { createGroup, type Group, type NcclGroupOptions } from '../../executor/group.ts';
import { occupy, spin } from '../../executor/internal.ts';
import { makePlans } from './preparedPlan.ts';
import { Buffers, type GpuCase, openGpu } from './support.ts';

const RANKS = 4;
const REPEATS = 200;
/** The same where processes take turns on a GPU: every wait for another rank takes milliseconds there. */
const SHARED_REPEATS = 50;
const repeatsOf = (sharesGpu: boolean) => (sharesGpu ? SHARED_REPEATS : REPEATS);
/** SMs that the other kernel leaves. */
const SMS_LEFT = 4;
/** Limits that take turns; 0: none, so that most blocks of an exchange find no SM. */
const LIMITS = [0, 1, 3, 16];
/** SMs of each of two groups: together fewer than a GPU has. */
const SHARE = 48;
const MOST_DELAY_NS = 300_000;
const MOST_OCCUPIED_NS = 2_000_000;
/** A GPU is occupied for so long, every so many exchanges: these must end before it is free again. */
const LONG_NS = 1_000_000_000;
const LONG_EVERY = 80;
/** Part of the exchanges that are delayed, and next to which a GPU is occupied. */
const SOME = 0.3;

const randomRank = ({ ranks }: Cuda) => Math.floor(Math.random() * ranks);

/** Delays the stream of a random rank of this process, now and then. */
function delay(cuda: Cuda): void {
  if (Math.random() < SOME) spin(cuda, randomRank(cuda), Math.floor(Math.random() * MOST_DELAY_NS));
}

/** Occupies every device of a context. Nothing else may occupy them. */
function occupyAll(others: Cuda): void {
  const devices = Math.min(cudaDevices().devices.length, others.ranks);
  others.synchronize();
  for (let device = 0; device < devices; device++)
    occupy(others, Math.ceil((device * others.ranks) / devices), SMS_LEFT, LONG_NS);
}

/**
 * Repeats exchanges while kernels on other streams occupy the GPUs at random, with random delays.
 *
 * @param others a context with the ranks of `cuda` on the same devices
 * @param sharesGpu other processes take turns with this one on its GPU
 */
export async function exchangeNextToWork(
  group: Group,
  cuda: Cuda,
  others: Cuda,
  ranksPerNode: number,
  sharesGpu: boolean,
): Promise<void> {
  using buffers = new Buffers(cuda);
  const plans = await makePlans(group, buffers, ranksPerNode);
  const repeats = repeatsOf(sharesGpu);
  for (let i = 0; i < repeats; i++) {
    // The same limit on all ranks, other delays on each.
    if (i % 25 === 0) cuda.limitSms(LIMITS[(i / 25) % LIMITS.length]!);
    const plan = plans[i % plans.length]!;
    plan.poison();
    const isLong = i % LONG_EVERY === LONG_EVERY - 1;
    if (isLong) occupyAll(others);
    else if (Math.random() < SOME)
      occupy(others, randomRank(others), SMS_LEFT, Math.floor(Math.random() * MOST_OCCUPIED_NS));
    delay(cuda);
    const start = performance.now();
    await plan.enqueue();
    if (isLong || i % 7 === 0 || i >= repeats - plans.length) plan.check(`exchange ${i}`);
    if (isLong && !sharesGpu)
      assert.ok(performance.now() - start < 0.8e-6 * LONG_NS, 'the exchange waited for the other kernel');
  }
  cuda.limitSms(0);
  for (const { exchange } of plans) exchange.close();
}

/** Repeats exchanges of two groups on the same GPUs, whose kernels run next to each other. */
export async function exchangeInTwoGroups(
  groups: readonly { readonly group: Group; readonly cuda: Cuda }[],
  ranksPerNode: number,
  sharesGpu: boolean,
): Promise<void> {
  const repeats = repeatsOf(sharesGpu);
  const sides = [];
  for (const { group, cuda } of groups) {
    const buffers = new Buffers(cuda);
    sides.push({ cuda, buffers, plans: await makePlans(group, buffers, ranksPerNode) });
    cuda.limitSms(SHARE);
  }
  for (let i = 0; i < repeats; i++) {
    for (const [g, { cuda, plans }] of sides.entries()) {
      const plan = plans[(i + g) % plans.length]!;
      plan.poison();
      delay(cuda);
      await plan.enqueue();
    }
    if (i % 7 !== 0 && i < repeats - 4) continue;
    for (const [g, { plans }] of sides.entries())
      plans[(i + g) % plans.length]!.check(`exchange ${i} of group ${g}`);
  }
  for (const { cuda, buffers, plans } of sides) {
    cuda.limitSms(0);
    for (const { exchange } of plans) exchange.close();
    buffers[Symbol.dispose]();
  }
}

export const crowdedCases: readonly GpuCase[] = [
  {
    name: `${REPEATS} exchanges next to a kernel that leaves ${SMS_LEFT} SMs, with random delays on random ranks`,
    async run() {
      using gpu = await openGpu(RANKS);
      using others = openCuda(RANKS);
      await exchangeNextToWork(gpu.group, gpu.cuda, others, 2, false);
    },
  },
  {
    name: `${REPEATS} exchanges of two groups at the same time, with random delays on random ranks`,
    async run() {
      using first = await openGpu(RANKS);
      using second = await openGpu(RANKS);
      await exchangeInTwoGroups([first, second], 2, false);
    },
  },
];

/**
 * The same between processes.
 *
 * @param open makes a second context on this process's device
 * @param nccl options of a second group
 */
export function crowdedRankCases(
  cuda: Cuda,
  open: () => Cuda,
  nccl: NonNullable<NcclGroupOptions['nccl']>,
  ranksPerNode: number,
  sharesGpu: boolean,
) {
  return [
    {
      name: `${repeatsOf(sharesGpu)} exchanges next to a kernel that leaves ${SMS_LEFT} SMs, with random delays`,
      async run(group: Group) {
        using others = open();
        await exchangeNextToWork(group, cuda, others, ranksPerNode, sharesGpu);
      },
    },
    {
      name: `${repeatsOf(sharesGpu)} exchanges of two groups at the same time, with random delays`,
      async run(group: Group) {
        using other = open();
        const second = await createGroup({ backend: 'nccl', nccl, cuda: other });
        await exchangeInTwoGroups(
          [
            { group, cuda },
            { group: second, cuda: other },
          ],
          ranksPerNode,
          sharesGpu,
        );
        await second.close();
      },
    },
  ];
}
