// The time of planning: the hot path, compared with the same loop in C++ and in JavaScript, and a whole plan stage by
// stage.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findBenchAddon } from '../../executor/internal.ts';
import { Arena } from '../../planner/arena.ts';
import { encodePlanChunks } from '../../planner/format/encode.ts';
import { loadPlanner, nodeSha256, plannerModule } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import type { PlannerExports } from '../../planner/wasm.ts';
import { readRouting } from '../readers/numpyRouting.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { uniformIds, uniformTables, zipfIds } from './ids.ts';
import { atLeast, atMost, type Timed, timed, timedAsync, type Verdict } from './measure.ts';
import { measure, timesOf } from './runner.ts';

const HOT_IDS = 262144;
const EXPERTS = 256;

export type PlanBench = Awaited<ReturnType<typeof benchPlan>>;
type HotPath = Awaited<ReturnType<typeof benchHotPath>>;
type PlanStages = Awaited<ReturnType<typeof benchStages>>;

/** The same counting sort over typed arrays, as a JavaScript engine runs it. */
function javascriptSlots(ids: Uint16Array, counts: Uint32Array, next: Uint32Array, slots: Uint32Array): void {
  counts.fill(0);
  for (let e = 0; e < ids.length; e++) counts[ids[e]!]!++;
  let row = 0;
  for (let i = 0; i < counts.length; i++) {
    next[i] = row;
    row += counts[i]!;
  }
  for (let e = 0; e < ids.length; e++) slots[e] = next[ids[e]!]!++;
}

function wasmSlots(wasm: PlannerExports, ids: Uint16Array): () => void {
  const arena = new Arena(wasm.memory, wasm.heapBase());
  const instances = arena.copy(ids);
  const slots = arena.array('i32', ids.length);
  const table = arena.u32(wasm.slotTable(), EXPERTS);
  return () => {
    table.fill(0);
    wasm.countInstances(instances, ids.length);
    let row = 0;
    for (let i = 0; i < EXPERTS; i++) {
      const count = table[i]!;
      table[i] = row;
      row += count;
    }
    wasm.assignSlots(instances, ids.length, slots);
  };
}

/** Nanoseconds per entry of counting, offsets and slots; `cpp` and `cppSimple` are undefined without the addon. */
async function benchHotPath(kind: 'uniform' | 'zipf 1.2', rounds: number) {
  const ids = kind === 'uniform' ? uniformIds(HOT_IDS, EXPERTS, 1) : zipfIds(HOT_IDS, EXPERTS, 1.2, 1);
  const instance = await WebAssembly.instantiate(await plannerModule());
  const runWasm = wasmSlots(instance.exports as unknown as PlannerExports, ids);
  const counts = new Uint32Array(EXPERTS);
  const next = new Uint32Array(EXPERTS);
  const slots = new Uint32Array(ids.length);
  const { addon } = findBenchAddon();
  const cpp = (unrolled: boolean) => addon && (() => addon.benchSlots(ids, EXPERTS, unrolled, 1));
  const rows = await measure(
    {
      wasm: () => timed(runWasm),
      javascript: () => timed(() => javascriptSlots(ids, counts, next, slots)),
      cpp: cpp(true),
      cppSimple: cpp(false),
    },
    { rounds },
  );
  return { ids: kind, ...timesOf(rows, ids.length) };
}

/** Nanoseconds per entry of the stages of one plan. */
async function benchStages(
  tables: readonly RoutingTable[],
  read: Timed,
  options: PlanOptions,
  rounds: number,
) {
  const planner = await loadPlanner();
  const entries = tables.reduce((sum, table) => sum + table.ids.length, 0);
  const plan = planner.planAll(tables, options);
  const encoded = await encodePlanChunks(plan, nodeSha256);
  const directory = await mkdtemp(join(tmpdir(), 'fusco-bench-'));
  const noHash = () => new Uint8Array(32);
  const { addon } = findBenchAddon();
  const instances = plan.shards.map((shard) => shard.entryInstance.slice());
  const buckets = plan.spec.placement.instances + 1;
  try {
    const rows = await measure(
      {
        read,
        plan: () => timed(() => planner.planAll(tables, options)),
        encode: () => timedAsync(() => encodePlanChunks(plan, noHash)),
        encodeAndHash: () => timedAsync(() => encodePlanChunks(plan, nodeSha256)),
        write: () => timedAsync(() => writeFileAtomic(join(directory, 'plan.fusco'), encoded.chunks)),
        /** C++ that only counts and assigns slots to the same entries; undefined without the addon. */
        cppFloor:
          addon && (() => instances.reduce((sum, ids) => sum + addon.benchSlots(ids, buckets, true, 1), 0)),
      },
      { rounds },
    );
    const { encodeAndHash, ...stages } = timesOf(rows, entries);
    return {
      strategy: plan.spec.strategy,
      ranks: tables.length,
      entries,
      ...stages,
      hash: Math.max(0, encodeAndHash - stages.encode),
      fileBytesPerEntry: encoded.length / entries,
      ...(await benchRank(tables, options, 10 * rounds)),
      plannerMemoryBytes: planner.memoryBytes,
    };
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** What rank 0 does at run time, given the facts: validation and counts, then its shard. */
async function benchRank(tables: readonly RoutingTable[], options: PlanOptions, rounds: number) {
  const planner = await loadPlanner();
  const spec = resolveOptions(options, tables[0]!.topk);
  const { instances } = spec.placement;
  const routed = tables.map((table, rank) => planner.routeRank(rank, table, spec));
  const counts = new Uint32Array(spec.ranks * instances);
  for (const part of routed) counts.set(part.counts, part.rank * instances);
  const nodeRows = new Uint32Array(spec.ranks * spec.nodes);
  if (spec.strategy !== 'flat') {
    for (const part of routed) nodeRows.set(planner.nodeRows(part, counts, spec), part.rank * spec.nodes);
  }
  const rows = await measure(
    {
      routeRank: () => timed(() => planner.routeRank(0, tables[0]!, spec)),
      planRank: () => timed(() => planner.planRank(routed[0]!, { counts, nodeRows }, spec)),
    },
    { rounds },
  );
  return timesOf(rows, tables[0]!.ids.length);
}

function judge(hotPath: readonly HotPath[], stages: readonly PlanStages[]): Verdict[] {
  const verdicts: Verdict[] = [];
  for (const { ids, wasm, javascript, cpp } of hotPath) {
    if (cpp !== undefined) {
      verdicts.push(
        atMost(`hot path, ${ids}: times C++ unrolled`, wasm / cpp, ids === 'uniform' ? 1.35 : 1.15),
      );
    }
    verdicts.push(atLeast(`hot path, ${ids}: times faster than JavaScript`, javascript / wasm, 3.5));
  }
  for (const { strategy, plan, encode, cppFloor, planRank } of stages) {
    if (strategy === 'flat' && cppFloor !== undefined) {
      verdicts.push(atMost('flat: plan + encode, times C++ counting', (plan + encode) / cppFloor, 8));
    }
    if (strategy === 'hier') verdicts.push(atMost('hier: planRank, ns an entry', planRank, 20));
  }
  return verdicts;
}

/** @param routing a file or directory; undefined for 64 uniform ranks of 4096 tokens, top-8 of 256 */
export async function benchPlan(routing: string | undefined, experts: number, rounds: number) {
  const hotPath = [await benchHotPath('uniform', 10 * rounds), await benchHotPath('zipf 1.2', 10 * rounds)];
  const tables = routing === undefined ? uniformTables(64, 4096, 8, experts) : await readRouting(routing);
  const read: Timed = routing === undefined ? () => 0 : () => timedAsync(() => readRouting(routing));
  const stages = [];
  for (const strategy of ['flat', 'hier'] as const) {
    stages.push(await benchStages(tables, read, { experts, ranks: tables.length, strategy }, rounds));
  }
  return { hotPath, stages, verdicts: judge(hotPath, stages) };
}
