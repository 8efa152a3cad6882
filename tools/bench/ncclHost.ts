// What a step costs that is planned on the host, between processes: planning from gathered facts, preparing the plan, the
// first dispatch along it and the next one, and recording its routing.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Cuda } from '../../executor/backends/cuda/context.ts';
import type { DispatchCall } from '../../executor/backends/types.ts';
import { createGroup, type Exchange, type Group, type GroupPlanOptions } from '../../executor/group.ts';
import type { Session } from '../../executor/rendezvous/session.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { DeviceMemory, exchangeCalls } from './device.ts';
import { timedAsync } from './measure.ts';
import { type ExchangeOptions, measure, type Rounds } from './runner.ts';

/** Rounds before the measured ones: a training loop plans thousands of times, with code that V8 has compiled. */
const WARM_UPS = 40;
/** A round plans 16 times. */
const MOST_ROUNDS_OF_STEPS = 5;
/** Steps that follow one another with one recorder, and without: files are written meanwhile. */
const STEPS = 8;

/** A group, and the step that it repeats. */
export interface HostSteps {
  readonly group: Group;
  /** Tables of the local ranks. */
  readonly tables: readonly RoutingTable[];
  readonly options: GroupPlanOptions;
  readonly dispatch: DispatchCall;
  /** Directory of the recording. */
  readonly recording: string;
  /** Resolves when all ranks are there. */
  meet(): Promise<void>;
  /** Waits for the GPU. */
  finish(): void;
}

/** Milliseconds, each from the moment at which all ranks are there. Dispatches end when the rows are in place. */
export async function measureHostSteps(steps: HostSteps, given: Rounds) {
  const { group, tables, options } = steps;
  const rounds = { ...given, warmUps: given.warmUps ?? WARM_UPS };
  const timedTogether = (run: () => Promise<unknown>) => async () => {
    await steps.meet();
    return timedAsync(run);
  };
  const dispatchOn = async (exchange: Exchange) => {
    await exchange.dispatch(steps.dispatch);
    steps.finish();
  };
  let plan: VerifiedPlan;
  let exchange: Exchange;
  const stages = await measure(
    {
      planLocal: timedTogether(async () => {
        plan = await group.planLocal(tables, options);
      }),
      prepare: timedTogether(async () => {
        exchange = await group.prepare(plan);
      }),
      firstDispatch: timedTogether(() => dispatchOn(exchange)),
      nextDispatch: async () => {
        const nanoseconds = await timedTogether(() => dispatchOn(exchange))();
        exchange.close();
        return nanoseconds;
      },
    },
    rounds,
  );
  const repeated = timedTogether(async () => {
    for (let i = 0; i < STEPS; i++) {
      using made = await group.prepare(await group.planLocal(tables, options));
      await dispatchOn(made);
    }
  });
  const recorded = async () => {
    const recorder = await group.record(steps.recording);
    try {
      return await repeated();
    } finally {
      await recorder.close();
    }
  };
  const few = { ...given, rounds: Math.min(given.rounds, MOST_ROUNDS_OF_STEPS) };
  const whole = await measure({ plain: repeated, recorded }, few);
  return {
    planLocalMs: stages.planLocal.ms,
    prepareMs: stages.prepare.ms,
    firstDispatchMs: stages.firstDispatch.ms,
    nextDispatchMs: stages.nextDispatch.ms,
    stepMs: whole.plain.ms / STEPS,
    recordedStepMs: whole.recorded.ms / STEPS,
  };
}

export type HostTimes = Awaited<ReturnType<typeof measureHostSteps>>;

/** From the broadcast of a moment to that moment, in nanoseconds: all ranks know it by then. */
const AHEAD = 2_000_000n;

/**
 * Resolves on all ranks of a machine at the same moment, by the monotonic clock, which its processes share. After a
 * barrier, some ranks are told later than others that all are there, and the others would be timed while they wait. The
 * clocks of other machines differ: their ranks wait for at most AHEAD.
 */
async function meetAtOneTime(session: Session): Promise<void> {
  await session.barrier();
  const moment = new BigInt64Array([process.hrtime.bigint() + AHEAD]);
  const bytes = await session.broadcast(new Uint8Array(moment.buffer));
  const [agreed] = new BigInt64Array(Uint8Array.from(bytes).buffer);
  const latest = process.hrtime.bigint() + AHEAD;
  const until = agreed! < latest ? agreed! : latest;
  while (process.hrtime.bigint() < until) {
    // Sleeping would end later on some ranks than on others.
  }
}

/** One rank of the bench. */
interface HostRank {
  readonly session: Session;
  readonly cuda: Cuda;
  readonly table: RoutingTable;
  readonly options: ExchangeOptions;
}

/** The same for a group of this session, all ranks of which call it, with rows once per rank. */
export async function measureNcclHost(rank: HostRank, rounds: Rounds): Promise<HostTimes> {
  const { session, cuda, table, options } = rank;
  const { experts, hidden, topk } = options;
  using memory = new DeviceMemory(cuda);
  const nccl = { session, log: () => {}, directMemory: true };
  const group = await createGroup({ backend: 'nccl', nccl, cuda });
  const planOptions = { experts, hidden, strategy: 'hier', ranksPerNode: 1 } as const;
  const { shards, spec } = await group.planLocal([table], planOptions);
  const { recvRows } = shards[session.rank]!;
  const sizes = [{ tokens: table.tokens, recvRows, entries: table.tokens * topk }];
  const { dispatch } = exchangeCalls(cuda, memory, sizes, spec.rowBytes);
  const own = session.rank === 0 ? mkdtempSync(join(tmpdir(), 'fusco-bench-')) : '';
  const recording = Buffer.from(await session.broadcast(Buffer.from(own))).toString();
  const steps = {
    ...{ group, tables: [table], options: planOptions, dispatch, recording },
    meet: () => meetAtOneTime(session),
    finish: () => cuda.synchronize(),
  };
  const times = await measureHostSteps(steps, rounds);
  await group.close();
  await session.barrier();
  if (session.localRank === 0) rmSync(recording, { recursive: true, force: true });
  return times;
}
