// Exchanges that are ordered by streams: all ranks on one machine. Calls follow one another without the host, along
// several plans, with ranks that are late at random, with few SMs, and in graphs.

import assert from 'node:assert/strict';
import type { Cuda } from '../../../executor/backends/cuda/context.ts';
import { makePlans, type PreparedPlan } from '../preparedPlan.ts';
import { Buffers, rejection } from '../support.ts';
import type { RankCase } from './cases.ts';

const REPEATS = 200;
/** Bytes of a fill that delays a stream, and most fills of one delay. */
const DELAY_BYTES = 64 << 20;
const MOST_DELAYS = 8;
/** Bytes of a buffer that no rank has mapped. */
const UNSHARED_BYTES = 200 << 20;

/** @param ranksPerNode of one of the plans */
export function streamCases(cuda: Cuda, ranksPerNode: number): RankCase[] {
  return [
    {
      name: `${REPEATS} exchanges along four plans, with random delays and few SMs`,
      async run(group) {
        using buffers = new Buffers(cuda);
        const plans = await makePlans(group, buffers, ranksPerNode);
        const [scratch] = buffers.poisoned([DELAY_BYTES]);
        for (let i = 0; i < REPEATS; i++) {
          // The same limit on all ranks, other delays on each.
          if (i % 25 === 0) cuda.limitSms([0, 1, 3, 16][(i / 25) % 4]!);
          const plan = plans[i % plans.length]!;
          plan.poison();
          const delays = Math.random() < 0.3 ? Math.floor(Math.random() * MOST_DELAYS) : 0;
          for (let d = 0; d < delays; d++) cuda.fill(scratch!, d);
          await plan.enqueue();
          if (i % 7 === 0 || i >= REPEATS - plans.length) plan.check(`exchange ${i}`);
        }
        cuda.limitSms(0);
        for (const { exchange } of plans) exchange.close();
      },
    },
    {
      name: 'graphs of exchanges, replayed between other calls',
      async run(group) {
        using buffers = new Buffers(cuda);
        const plans = await makePlans(group, buffers, ranksPerNode);
        // Nothing is mapped or allocated in a capture.
        for (const plan of plans) await plan.enqueue();
        using graph = await cuda.captureAsync(async () => {
          await plans[0]!.enqueue();
          await plans[1]!.enqueue();
        });
        for (let i = 0; i < 20; i++) {
          for (const plan of plans) plan.poison();
          graph.launch();
          await plans[2]!.enqueue();
          if (i % 3 === 0) graph.launch();
          await plans[3]!.enqueue();
          if (i % 5 === 0) for (const [p, plan] of plans.entries()) plan.check(`replay ${i}, plan ${p}`);
        }
        for (const { exchange } of plans) exchange.close();
      },
    },
    {
      name: 'a capture refuses memory that is new, and the group goes on',
      async run(group) {
        using buffers = new Buffers(cuda);
        const [plan] = (await makePlans(group, buffers, ranksPerNode)) as [PreparedPlan];
        await plan.enqueue();
        // Larger than all memory that was shared and freed before, which would be used again.
        const to = buffers.poisoned([UNSHARED_BYTES]);
        const [rowBytes, from] = [16, buffers.poisoned([16 * plan.exchange.tokens[0]!])];
        let code: unknown;
        using _graph = await cuda.captureAsync(async () => {
          code = await rejection(plan.exchange.dispatch({ payloads: [{ rowBytes, from, to }] }));
        });
        assert.equal(code, 'E_MEMORY');
        await plan.exchange.dispatch({ payloads: [{ rowBytes, from, to }] });
        await plan.enqueue();
        plan.check('after the capture');
        plan.exchange.close();
      },
    },
    {
      name: 'buffers that are registered, freed and allocated again',
      async run(group) {
        for (let i = 0; i < 4; i++) {
          using buffers = new Buffers(cuda);
          const plans = await makePlans(group, buffers, ranksPerNode);
          if (i % 2 === 0) await group.register(plans.flatMap((plan) => plan.outputs));
          for (const plan of plans) await plan.enqueue();
          for (const [p, plan] of plans.entries()) plan.check(`round ${i}, plan ${p}`);
          if (i === 2) await group.deregister(plans.flatMap((plan) => plan.outputs));
          for (const { exchange } of plans) exchange.close();
        }
      },
    },
  ];
}
