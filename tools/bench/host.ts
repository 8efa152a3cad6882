// What an exchange costs on the host: fused against the unfused pipeline, under the machine's best copy rate.

import { type Addon, findAddon } from '../../executor/native/addon.ts';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { uniformTable } from './ids.ts';
import { atLeast, measure, type Timed, type Verdict } from './measure.ts';

export interface HostBenchOptions {
  readonly ranks: number;
  readonly tokens: number;
  readonly hidden: number;
  readonly topk: number;
  readonly experts: number;
  readonly threads: number;
  readonly rounds: number;
}

/** Times in milliseconds, rates in GB/s of bytes read plus bytes written. */
export interface ExchangeBench {
  readonly kernels: string;
  /** Rate of the best plain copy, and what it is. */
  readonly ceiling: { readonly variant: string; readonly rate: number };
  /** Rate of streaming stores alone: what bounds dispatch, which writes a row once for each of its experts. */
  readonly writeRate: number;
  readonly dispatch: Stage;
  readonly combine: Stage;
}

export interface HostBench extends ExchangeBench {
  readonly options: HostBenchOptions;
  readonly verdicts: Verdict[];
}

interface Stage {
  readonly fused: number;
  readonly unfused: number;
  /** Each source row once and each slot once. */
  readonly bytes: number;
  readonly rate: number;
}

function stage(fusedNs: number, unfusedNs: number, bytes: number): Stage {
  return { fused: fusedNs / 1e6, unfused: unfusedNs / 1e6, bytes, rate: bytes / fusedNs };
}

function requireAddon(): Addon {
  const found = findAddon();
  if (found.addon !== undefined) return found.addon;
  throw new FuscoError('E_BACKEND', `the host backend is not there: ${found.reason}`);
}

/**
 * Times a flat plan's exchanges on the host against the unfused pipeline with the same threads and copy routine, and
 * against a plain copy of as many bytes. Throws E_BACKEND without the addon.
 */
export async function benchExchanges(
  plan: VerifiedPlan,
  threads: number,
  rounds: number,
): Promise<ExchangeBench> {
  const addon = requireAddon();
  const { rowBytes, ranksPerNode } = plan.spec;
  const context = new addon.Context({ threads });
  const shards = plan.shards.map((shard) => shard.bytes);
  const native = new addon.Plan(context, { ranksPerNode, strategy: 'flat', shards });
  const unfused = new addon.Unfused(native, { rowBytes });
  // Written once, so that no run pays for the first touch of its pages.
  const rows = (count: number) => new Uint8Array(count * rowBytes).fill(0x3c);
  const from = plan.shards.map((shard) => rows(shard.tokens));
  const received = plan.shards.map((shard) => rows(shard.recvRows));
  const combined = plan.shards.map((shard) => rows(shard.tokens));
  const weights = plan.shards.map((shard) => new Float32Array(shard.entries).fill(1 / shard.topk));
  const moved = plan.shards.reduce((sum, shard) => sum + shard.tokens + shard.kept, 0) * rowBytes;
  const copied = Math.floor(moved / 2);
  const combineCall = { dtype: 'bf16', rowBytes, from: received, to: combined, weights } as const;
  const candidates: Record<string, Timed> = {
    memcpy: () => addon.benchCopy(context, 'memcpy', copied, 1),
    stream: () => addon.benchCopy(context, 'stream', copied, 1),
    fill: () => addon.benchCopy(context, 'fill', copied, 1),
    dispatch: () => native.dispatchSync({ payloads: [{ rowBytes, from, to: received }] }).nanoseconds,
    unfusedDispatch: () => unfused.dispatchSync(from, received).nanoseconds,
    combine: () => native.combineSync(combineCall).nanoseconds,
    unfusedCombine: () => unfused.combineSync(combineCall).nanoseconds,
  };
  const times = await measure(candidates, rounds);
  const { kernels } = context;
  unfused.close();
  native.close();
  context.close();
  const variant = times.stream! <= times.memcpy! ? 'streaming stores' : 'memcpy';
  return {
    kernels,
    ceiling: { variant, rate: (2 * copied) / Math.min(times.stream!, times.memcpy!) },
    writeRate: copied / times.fill!,
    dispatch: stage(times.dispatch!, times.unfusedDispatch!, moved),
    combine: stage(times.combine!, times.unfusedCombine!, moved),
  };
}

/** The bench of `fusco bench host`, on uniform routing. Throws E_BACKEND without the addon. */
export async function benchHost(options: HostBenchOptions): Promise<HostBench> {
  requireAddon();
  const { ranks, tokens, hidden, topk, experts, threads, rounds } = options;
  const tables = Array.from({ length: ranks }, (_, rank) => uniformTable(tokens, topk, experts, rank + 1));
  const planner = await loadPlanner();
  const result = await benchExchanges(planner.planAll(tables, { ranks, experts, hidden }), threads, rounds);
  const { ceiling, dispatch, combine } = result;
  const verdicts = [
    atLeast('dispatch: times faster than unfused', dispatch.unfused / dispatch.fused, 3.5),
    atLeast('dispatch: share of the best copy rate', dispatch.rate / ceiling.rate, 0.65),
    atLeast('combine: times faster than unfused', combine.unfused / combine.fused, 2.5),
  ];
  return { ...result, options, verdicts };
}
