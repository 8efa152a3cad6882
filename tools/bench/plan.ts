// What planning costs: the hot path against the same loop in C++ and in JavaScript, and a whole plan stage by stage.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findAddon } from '../../executor/native/addon.ts';
import { Arena } from '../../planner/arena.ts';
import { encodePlanChunks } from '../../planner/format/encode.ts';
import { loadPlanner, nodeSha256, plannerModule } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type PlanOptions, resolveOptions } from '../../planner/spec.ts';
import type { PlannerExports } from '../../planner/wasm.ts';
import { writeFileAtomic } from '../output.ts';
import { readRouting } from '../readers/routing.ts';
import { uniformIds, uniformTable, zipfIds } from './ids.ts';
import { atLeast, atMost, measure, type Timed, timed, timedAsync, type Verdict } from './measure.ts';

const HOT_IDS = 262144;
const EXPERTS = 256;

/** Nanoseconds an entry of counting, offsets and slots. */
export interface HotPath {
  readonly ids: 'uniform' | 'zipf 1.2';
  readonly wasm: number;
  readonly javascript: number;
  /** Undefined without the addon. */
  readonly cpp?: number;
  readonly cppSimple?: number;
}

/** Nanoseconds an entry of one plan's stages. */
export interface PlanStages {
  readonly strategy: string;
  readonly ranks: number;
  readonly entries: number;
  readonly read: number;
  readonly plan: number;
  readonly encode: number;
  readonly hash: number;
  readonly write: number;
  readonly fileBytesPerEntry: number;
  /** One rank's own planning at run time: validation and counts, then its shard. */
  readonly routeRank: number;
  readonly planRank: number;
  /** C++ that only counts and assigns slots to the same entries. */
  readonly cppFloor?: number;
  readonly plannerMemoryBytes: number;
}

export interface PlanBench {
  readonly hotPath: HotPath[];
  readonly stages: PlanStages[];
  readonly verdicts: Verdict[];
}

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

async function benchHotPath(kind: HotPath['ids'], rounds: number): Promise<HotPath> {
  const ids = kind === 'uniform' ? uniformIds(HOT_IDS, EXPERTS, 1) : zipfIds(HOT_IDS, EXPERTS, 1.2, 1);
  const instance = await WebAssembly.instantiate(await plannerModule());
  const runWasm = wasmSlots(instance.exports as unknown as PlannerExports, ids);
  const counts = new Uint32Array(EXPERTS);
  const next = new Uint32Array(EXPERTS);
  const slots = new Uint32Array(ids.length);
  const { addon } = findAddon();
  const candidates: Record<string, Timed> = {
    wasm: () => timed(runWasm),
    javascript: () => timed(() => javascriptSlots(ids, counts, next, slots)),
  };
  if (addon !== undefined) {
    candidates.cpp = () => addon.benchSlots(ids, EXPERTS, true, 1);
    candidates.cppSimple = () => addon.benchSlots(ids, EXPERTS, false, 1);
  }
  const times = await measure(candidates, rounds);
  const per = Object.fromEntries(Object.entries(times).map(([name, ns]) => [name, ns / ids.length]));
  return { ids: kind, wasm: per.wasm!, javascript: per.javascript!, ...per };
}

async function benchStages(
  tables: readonly RoutingTable[],
  read: Timed,
  options: PlanOptions,
  rounds: number,
): Promise<PlanStages> {
  const planner = await loadPlanner();
  const entries = tables.reduce((sum, table) => sum + table.ids.length, 0);
  const plan = planner.planAll(tables, options);
  const encoded = await encodePlanChunks(plan, nodeSha256);
  const directory = await mkdtemp(join(tmpdir(), 'fusco-bench-'));
  const noHash = () => new Uint8Array(32);
  const { addon } = findAddon();
  const floors = plan.shards.map((shard) => shard.entryInstance.slice());
  const candidates: Record<string, Timed> = {
    read,
    plan: () => timed(() => planner.planAll(tables, options)),
    encode: () => timedAsync(() => encodePlanChunks(plan, noHash)),
    encodeAndHash: () => timedAsync(() => encodePlanChunks(plan, nodeSha256)),
    write: () => timedAsync(() => writeFileAtomic(join(directory, 'plan.fusco'), encoded.chunks)),
  };
  if (addon !== undefined) {
    const buckets = plan.spec.placement.instances + 1;
    candidates.cppFloor = () => floors.reduce((sum, ids) => sum + addon.benchSlots(ids, buckets, true, 1), 0);
  }
  try {
    const times = await measure(candidates, rounds);
    const per = (name: string) => (times[name] ?? Number.NaN) / entries;
    return {
      strategy: plan.spec.strategy,
      ranks: tables.length,
      entries,
      read: per('read'),
      plan: per('plan'),
      encode: per('encode'),
      hash: Math.max(0, per('encodeAndHash') - per('encode')),
      write: per('write'),
      fileBytesPerEntry: encoded.length / entries,
      ...(await benchRank(tables, options, 10 * rounds)),
      ...(addon === undefined ? {} : { cppFloor: per('cppFloor') }),
      plannerMemoryBytes: planner.memoryBytes,
    };
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** What rank 0 does at run time, given the facts. */
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
  const times = await measure(
    {
      routeRank: () => timed(() => planner.routeRank(0, tables[0]!, spec)),
      planRank: () => timed(() => planner.planRank(routed[0]!, { counts, nodeRows }, spec)),
    },
    rounds,
  );
  const entries = tables[0]!.ids.length;
  return { routeRank: times.routeRank / entries, planRank: times.planRank / entries };
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
export async function benchPlan(
  routing: string | undefined,
  experts: number,
  rounds: number,
): Promise<PlanBench> {
  const hotPath = [await benchHotPath('uniform', 10 * rounds), await benchHotPath('zipf 1.2', 10 * rounds)];
  const tables =
    routing === undefined
      ? Array.from({ length: 64 }, (_, rank) => uniformTable(4096, 8, experts, rank + 1))
      : await readRouting(routing);
  const read: Timed = routing === undefined ? () => 0 : () => timedAsync(() => readRouting(routing));
  const stages: PlanStages[] = [];
  for (const strategy of ['flat', 'hier'] as const) {
    stages.push(await benchStages(tables, read, { experts, ranks: tables.length, strategy }, rounds));
  }
  return { hotPath, stages, verdicts: judge(hotPath, stages) };
}
