// One case of `fusco bench scale`, in a separate process, whose peak memory is that of the case. Its arguments are JSON;
// it prints its result as JSON.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gatherChunked, planChunked } from '../../planner/chunked.ts';
import { loadPlanner, nodeHashing } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import { verifyFile } from '../readers/planFile.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { uniformTable } from './ids.ts';

const MIB = 2 ** 20;

export interface ScaleCase {
  readonly ranks: number;
  readonly experts: number;
  /** Per rank. */
  readonly tokens: number;
  readonly topk: number;
  readonly strategy: 'flat' | 'hier';
}

export type ScaleFigures = Awaited<ReturnType<typeof measureCase>>;

/** Times without the time that drawing the routing takes. */
async function measureCase({ ranks, experts, tokens, topk, strategy }: ScaleCase) {
  const planner = await loadPlanner();
  const options: PlanOptions = { ranks, experts, strategy };
  let drawMs = 0;
  // Drawn again whenever it is requested, so that no rank's routing is kept.
  const table = (rank: number): RoutingTable => {
    const started = performance.now();
    const drawn = uniformTable(tokens, topk, experts, rank + 1);
    drawMs += performance.now() - started;
    return drawn;
  };
  const timed = async <T>(work: () => Promise<T>): Promise<[number, T]> => {
    const drawn = drawMs;
    const started = performance.now();
    const result = await work();
    return [performance.now() - started - (drawMs - drawn), result];
  };
  const startMiB = process.memoryUsage.rss() / MIB;
  const directory = await mkdtemp(join(tmpdir(), 'fusco-scale-'));
  try {
    const file = join(directory, 'plan.fusco');
    const [planMs, plan] = await timed(() => planChunked(planner, table, options, nodeHashing));
    const [writeMs] = await timed(() => writeFileAtomic(file, plan.chunks()));
    const peakPlanMiB = process.resourceUsage().maxRSS / 1024;
    const plannerMiB = planner.memoryBytes / MIB;
    const [verifyMs] = await timed(() => verifyFile(file));
    const peakMiB = process.resourceUsage().maxRSS / 1024;
    // The time of one rank of the group at run time, without the all-gather.
    const spec = resolveOptions(options, topk);
    const facts = await gatherChunked(planner, table, spec);
    const last = ranks - 1;
    const ids = table(last);
    const [routeRankMs, routed] = await timed(async () => planner.routeRank(last, ids, spec));
    const [planRankMs] = await timed(async () => planner.planRank(routed, facts, spec));
    return {
      /** Facts, decision, every shard's size and digest. */
      planMs,
      /** Every shard planned again, hashed and written. */
      writeMs,
      verifyMs,
      /** The last rank at run time, tables of the group laid out for it alone. */
      ...{ routeRankMs, planRankMs },
      fileMiB: plan.length / MIB,
      /** The planner's Wasm memory. */
      plannerMiB,
      /** Resident memory: before, at most until the file was written, at most until it was verified. */
      ...{ startMiB, peakPlanMiB, peakMiB },
    };
  } finally {
    await rm(directory, { recursive: true });
  }
}

process.stdout.write(JSON.stringify(await measureCase(JSON.parse(process.argv[2]!) as ScaleCase)));
