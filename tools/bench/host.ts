// What an exchange costs on the host: fused against the unfused pipeline, under the machine's best copy rate.

import { type Addon, findAddon } from '../../executor/addon.ts';
import { createGroup } from '../../executor/group.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';
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
export interface HostBench {
  readonly options: HostBenchOptions;
  readonly kernels: string;
  /** Rate of the best plain copy, and what it is. */
  readonly ceiling: { readonly variant: string; readonly rate: number };
  readonly dispatch: Stage;
  readonly combine: Stage;
  readonly verdicts: Verdict[];
}

interface Stage {
  readonly fused: number;
  readonly unfused: number;
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

/** Everything that the candidates share, in buffers that were written once and are never moved. */
async function prepare(addon: Addon, options: HostBenchOptions, tables: readonly RoutingTable[]) {
  const { ranks, hidden, experts, threads } = options;
  const rowBytes = 2 * hidden;
  using group = await createGroup({ ranks, backend: 'reference' });
  const plan = group.plan(tables, { experts, hidden });
  const context = new addon.Context({ threads });
  const shards = plan.shards.map((shard) => shard.bytes);
  const native = new addon.Plan(context, { ranksPerNode: plan.spec.ranksPerNode, strategy: 'flat', shards });
  const unfused = new addon.Unfused(native, { rowBytes });
  const rows = (count: number) => new Uint8Array(count * rowBytes).fill(0x3c);
  return {
    context,
    native,
    unfused,
    rowBytes,
    from: plan.shards.map((shard) => rows(shard.tokens)),
    received: plan.shards.map((shard) => rows(shard.recvRows)),
    combined: plan.shards.map((shard) => rows(shard.tokens)),
    weights: plan.shards.map((shard) => new Float32Array(shard.entries).fill(1 / shard.topk)),
    sourceRows: plan.shards.reduce((sum, shard) => sum + shard.tokens, 0),
    slots: plan.shards.reduce((sum, shard) => sum + shard.kept, 0),
  };
}

/** Throws E_BACKEND without the addon. */
export async function benchHost(options: HostBenchOptions): Promise<HostBench> {
  const addon = requireAddon();
  const { ranks, tokens, topk, experts, rounds } = options;
  const tables = Array.from({ length: ranks }, (_, rank) => uniformTable(tokens, topk, experts, rank + 1));
  const work = await prepare(addon, options, tables);
  const { kernels } = work.context;
  const { native, unfused, context, rowBytes, from, received, combined, weights } = work;
  const bytes = (work.sourceRows + work.slots) * rowBytes;
  const copyBytes = Math.floor(bytes / 2);
  const combineCall = { dtype: 'bf16', rowBytes, from: received, to: combined, weights } as const;
  const candidates: Record<string, Timed> = {
    memcpy: () => addon.benchCopy(context, 'memcpy', copyBytes, 1),
    stream: () => addon.benchCopy(context, 'stream', copyBytes, 1),
    dispatch: () => native.dispatchSync({ payloads: [{ rowBytes, from, to: received }] }).nanoseconds,
    unfusedDispatch: () => unfused.dispatchSync(from, received).nanoseconds,
    combine: () => native.combineSync(combineCall).nanoseconds,
    unfusedCombine: () => unfused.combineSync(combineCall).nanoseconds,
  };
  const times = await measure(candidates, rounds);
  const variant = times.stream! <= times.memcpy! ? 'streaming stores' : 'memcpy';
  const ceiling = { variant, rate: (2 * copyBytes) / Math.min(times.stream!, times.memcpy!) };
  const dispatch = stage(times.dispatch!, times.unfusedDispatch!, bytes);
  const combine = stage(times.combine!, times.unfusedCombine!, bytes);
  unfused.close();
  native.close();
  context.close();
  const verdicts = [
    atLeast('dispatch: times faster than unfused', dispatch.unfused / dispatch.fused, 3.5),
    atLeast('dispatch: share of the best copy rate', dispatch.rate / ceiling.rate, 0.65),
    atLeast('combine: times faster than unfused', combine.unfused / combine.fused, 2.5),
  ];
  return { options, kernels, ceiling, dispatch, combine, verdicts };
}
