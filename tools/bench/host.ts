// The time of exchanges on the host: fused, compared with the unfused pipeline and with the best copy rate of the
// machine.

import { type CopyVariant, requireBenchAddon } from '../../executor/internal.ts';
import { FuscoError } from '../../planner/errors.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { uniformTables } from './ids.ts';
import { atLeast } from './measure.ts';
import { type ExchangeOptions, measure, type Row } from './runner.ts';

export interface HostBenchOptions extends ExchangeOptions {
  readonly ranks: number;
  readonly tokens: number;
  readonly threads: number;
}

export type HostBench = Awaited<ReturnType<typeof benchHost>>;

/** A check that each candidate leaves the same bytes in `buffers` as the first candidate did. */
function sameBytes(what: string, buffers: readonly Uint8Array[]): () => void {
  let first: Uint8Array[] | undefined;
  return () => {
    if (first?.every((bytes, rank) => Buffer.compare(bytes, buffers[rank]!) === 0) === false) {
      throw new FuscoError('E_INTERNAL', `${what}: the unfused pipeline gives other bytes`);
    }
    first = buffers.map((bytes) => bytes.slice());
  };
}

/**
 * Times a flat plan's exchanges on the host against the unfused pipeline with the same threads and copy routine, and
 * against a plain copy of the same number of bytes. Times in milliseconds, rates in GB/s of bytes read plus written.
 * Throws E_BACKEND without the addon of the benches.
 */
export async function benchExchanges(plan: VerifiedPlan, threads: number, rounds: number) {
  const addon = requireBenchAddon();
  const { rowBytes, ranksPerNode } = plan.spec;
  const context = new addon.Context({ threads });
  const shards = plan.shards.map((shard) => shard.bytes);
  const native = new addon.Plan(context, { ranksPerNode, strategy: 'flat', shards });
  const unfused = new addon.Unfused(native, rowBytes);
  // Written once, so that no run includes the first access to its pages.
  const rowsOf = (count: number) => new Uint8Array(count * rowBytes).fill(0x3c);
  const from = plan.shards.map((shard) => rowsOf(shard.tokens));
  const received = plan.shards.map((shard) => rowsOf(shard.recvRows));
  const combined = plan.shards.map((shard) => rowsOf(shard.tokens));
  const weights = plan.shards.map((shard) => new Float32Array(shard.entries).fill(1 / shard.topk));
  /** Each source row once and each slot once. */
  const bytes = plan.shards.reduce((sum, shard) => sum + shard.tokens + shard.kept, 0) * rowBytes;
  const copied = Math.floor(bytes / 2);
  const dispatchCall = { payloads: [{ rowBytes, from, to: received }] };
  const combineCall = { dtype: 'bf16', rowBytes, from: received, to: combined, weights } as const;
  const copy = (variant: CopyVariant, moved: number) => ({
    bytes: moved,
    run: () => addon.benchCopy(context, variant, copied, 1),
  });
  const exchange = (run: () => { nanoseconds: number }, check: () => void) => ({
    ...{ bytes, check },
    run: () => run().nanoseconds,
  });
  const dispatched = sameBytes('dispatch', received);
  const summed = sameBytes('combine', combined);
  const rows = await measure(
    {
      memcpy: copy('memcpy', 2 * copied),
      nonTemporal: copy('nonTemporal', 2 * copied),
      fill: copy('fill', copied),
      dispatch: exchange(() => native.dispatchSync(dispatchCall), dispatched),
      unfusedDispatch: exchange(() => unfused.dispatchSync(dispatchCall), dispatched),
      combine: exchange(() => native.combineSync(combineCall), summed),
      unfusedCombine: exchange(() => unfused.combineSync(combineCall), summed),
    },
    { rounds },
  );
  const { kernels } = context;
  unfused.close();
  native.close();
  context.close();
  const stage = (fused: Row, unfused: Row) => ({
    fused: fused.ms,
    unfused: unfused.ms,
    bytes,
    rate: fused.rate,
  });
  return {
    kernels,
    /** Rate of the best plain copy, and its name. */
    ceiling: bestCopy(rows.memcpy, rows.nonTemporal),
    /** Rate of non-temporal stores alone. It limits dispatch, which writes a row once for each of its experts. */
    writeRate: rows.fill.rate,
    dispatch: stage(rows.dispatch, rows.unfusedDispatch),
    combine: stage(rows.combine, rows.unfusedCombine),
  };
}

function bestCopy(memcpy: Row, nonTemporal: Row) {
  return nonTemporal.ns <= memcpy.ns
    ? { variant: 'non-temporal stores', rate: nonTemporal.rate }
    : { variant: 'memcpy', rate: memcpy.rate };
}

/** The bench of `fusco bench host`, on uniform routing. Throws E_BACKEND without the addon of the benches. */
export async function benchHost(options: HostBenchOptions) {
  requireBenchAddon();
  const { ranks, tokens, hidden, topk, experts, threads, rounds } = options;
  const planner = await loadPlanner();
  const plan = planner.planAll(uniformTables(ranks, tokens, topk, experts), { ranks, experts, hidden });
  const result = await benchExchanges(plan, threads, rounds);
  const { ceiling, dispatch, combine } = result;
  const verdicts = [
    atLeast('dispatch: times faster than unfused', dispatch.unfused / dispatch.fused, 3.5),
    atLeast('dispatch: share of the best copy rate', dispatch.rate / ceiling.rate, 0.65),
    atLeast('combine: times faster than unfused', combine.unfused / combine.fused, 2.5),
  ];
  return { ...result, options, verdicts };
}
