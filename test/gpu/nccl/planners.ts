// Several groups that plan on their devices: next to each other on two streams, and with bounds on which the ranks do not
// agree.

import assert from 'node:assert/strict';
import type { Cuda } from '../../../executor/backends/cuda/context.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { connect, type Session } from '../../../executor/rendezvous/session.ts';
import { loadPlanner } from '../../../planner/node.ts';
import type { RoutingTable } from '../../../planner/routing.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import { freePort } from '../../support/freePort.ts';
import { makeRouting, toTables } from '../../support/workloads.ts';
import { idsUp, routingOf } from '../deviceExchanges.ts';
import { type Inputs, makeInputs } from '../exchanges.ts';
import { assertSame, Buffers, POISON, rejection } from '../support.ts';
import type { RankCase } from './cases.ts';
import { expectedOf, optionsOf, planOnDevice, tablesOf } from './deviceExchanges.ts';

/** SMs of each of two groups, whose kernels wait at the same time: together fewer than a GPU has. */
const SHARE = 48;
const TOKENS = 48;
const TOPK = 4;
const ROUNDS = 20;
/** Processes that take turns on one GPU need much longer for each. */
const SHARED_ROUNDS = 6;
const STEPS_PER_ROUND = 3;
const ROW_BYTES = 512;

function tablesOfStep(ranks: number, experts: number, seed: number): RoutingTable[] {
  const workload = { family: 'hotExperts', seed, ranks, tokens: TOKENS, topk: TOPK, experts } as const;
  return toTables(makeRouting({ ...workload, masked: 0.1 }), TOPK);
}

/** One group's training step, plan, dispatch and combine, into buffers that stay. */
class Side implements Disposable {
  readonly #group: Group;
  readonly #buffers: Buffers;
  readonly #options: PlanOptions;
  readonly #bound: number;
  readonly #rank: number;
  readonly #device;
  #tables: RoutingTable[];
  #input: Inputs | undefined;

  /** @param options of this side: the planners of the sides differ */
  constructor(group: Group, cuda: Cuda, options: PlanOptions) {
    this.#group = group;
    this.#options = options;
    this.#rank = group.localRanks[0]!;
    this.#buffers = new Buffers(cuda);
    const { experts, ranks } = options;
    this.#bound = TOKENS * ranks * TOPK + 8 * experts;
    this.#tables = tablesOfStep(ranks, experts, 0);
    this.#device = {
      ids: idsUp(this.#buffers, [this.#tables[this.#rank]!]),
      rows: this.#buffers.poisoned([TOKENS * ROW_BYTES]),
      weights: this.#buffers.poisoned([TOKENS * TOPK * 4]),
      received: this.#buffers.poisoned([this.#bound * ROW_BYTES]),
      combined: this.#buffers.poisoned([TOKENS * ROW_BYTES]),
    };
  }

  /** Other ids, rows and weights for the next steps. */
  async route(seed: number): Promise<void> {
    const { cuda } = this.#buffers;
    const { ranks, experts } = this.#options;
    this.#tables = tablesOfStep(ranks, experts, seed);
    const plan = (await loadPlanner()).planAll(this.#tables, this.#options);
    this.#input = makeInputs(plan, 'bf16', ROW_BYTES, 16, true, seed);
    const { ids, rows, weights } = this.#device;
    const given = [
      [ids, this.#tables[this.#rank]!.ids],
      [rows, this.#input.rows[this.#rank]!],
      [weights, this.#input.weights[this.#rank]!],
    ] as const;
    for (const [[to], from] of given) cuda.copy(0, to!, from, from.byteLength);
  }

  /** A step into poisoned buffers. */
  async enqueue(): Promise<void> {
    const { ids, rows, weights, received, combined } = this.#device;
    for (const buffer of [...received, ...combined]) this.#buffers.cuda.fill(buffer, POISON);
    const { ranks: _, ...options } = this.#options;
    const call = routingOf([this.#tables[this.#rank]!], ids, this.#bound);
    using exchange = await this.#group.planOnDevice({ ...options, ...call, maxTokens: TOKENS });
    await exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from: rows, to: received }] });
    await exchange.combine({ dtype: 'bf16', rowBytes: ROW_BYTES, from: received, to: combined, weights });
  }

  /** Compares the rows of the last step. */
  async check(note: string): Promise<void> {
    const { received, combined } = this.#device;
    const plan = (await loadPlanner()).planAll(this.#tables, this.#options);
    const expected = await expectedOf(plan, this.#input!);
    const wanted = expected.received[this.#rank]!;
    const [found] = this.#buffers.down(received) as [Uint8Array];
    assertSame(`${note}: received`, [found.subarray(0, wanted.length)], [wanted], ROW_BYTES);
    const rows = [expected.combined[this.#rank]!];
    assertSame(`${note}: combined`, this.#buffers.down(combined), rows, ROW_BYTES);
  }

  [Symbol.dispose](): void {
    this.#buffers[Symbol.dispose]();
  }
}

async function twoGroups(groups: readonly (readonly [Group, Cuda])[], rounds: number): Promise<void> {
  const [flat, once] = optionsOf(groups[0]![0].ranks) as [PlanOptions, PlanOptions];
  using first = new Side(...groups[0]!, flat);
  using second = new Side(...groups[1]!, once);
  const sides = [first, second];
  for (const [, cuda] of groups) cuda.limitSms(SHARE);
  for (let round = 1; round <= rounds; round++) {
    for (const [i, side] of sides.entries()) await side.route(2 * round + i);
    for (let step = 0; step < STEPS_PER_ROUND; step++) for (const side of sides) await side.enqueue();
    for (const [i, side] of sides.entries()) await side.check(`round ${round}, group ${i}`);
    for (const [group] of groups) await group.check();
  }
  for (const [, cuda] of groups) cuda.limitSms(0);
}

/** A session of all ranks next to another one, which a failure of this one does not end. */
async function connectAgain(session: Session): Promise<Session> {
  const own = session.rank === 0 ? String(await freePort()) : '';
  const port = Buffer.from(await session.broadcast(Buffer.from(own))).toString();
  return connect({ address: `127.0.0.1:${port}` });
}

/** The bound of the last rank is larger by one row. */
async function otherBound(session: Session, cuda: Cuda): Promise<void> {
  const { rank, worldSize: ranks } = session;
  const group = await createGroup({ backend: 'nccl', nccl: { session }, cuda });
  try {
    const [options] = optionsOf(ranks) as [PlanOptions];
    const tables = tablesOf(ranks, 12, 2);
    using buffers = new Buffers(cuda);
    const bound = 12 * ranks * TOPK + 8 * options.experts;
    using same = await planOnDevice(group, buffers, tables, options, bound);
    // All ranks have planned: no kernel waits when the session ends.
    await same.planId();
    // Neither is the bound of the planner that is there.
    const other = rank === ranks - 1 ? bound + 2 : bound + 1;
    assert.equal(await rejection(planOnDevice(group, buffers, tables, options, other)), 'E_PEER_MISMATCH');
    assert.equal(await rejection(group.check()), 'E_PEER_MISMATCH', 'check reports it as well');
  } finally {
    await group.close();
  }
}

/**
 * All ranks are on one machine.
 *
 * @param open makes a second context on this process's device
 * @param sharesGpu other processes take turns with this one on its GPU
 */
export function plannerCases(session: Session, cuda: Cuda, open: () => Cuda, sharesGpu: boolean): RankCase[] {
  return [
    {
      name: 'device plans: two groups on two streams, interleaved',
      async run(group) {
        using other = open();
        await using second = await createGroup({ backend: 'nccl', nccl: { session }, cuda: other });
        const rounds = sharesGpu ? SHARED_ROUNDS : ROUNDS;
        await twoGroups(
          [
            [group, cuda],
            [second, other],
          ],
          rounds,
        );
        await second.close();
        assert.equal(await rejection(second.check()), 'E_CLOSED');
      },
    },
    ...(session.worldSize === 1
      ? []
      : [
          {
            name: 'device plans: bounds that differ between ranks are E_PEER_MISMATCH on all ranks',
            async run() {
              const again = await connectAgain(session);
              try {
                using other = open();
                await otherBound(again, other);
              } finally {
                await again.close();
              }
              // The first session goes on.
              await session.barrier();
            },
          },
        ]),
  ];
}
