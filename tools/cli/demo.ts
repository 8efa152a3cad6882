import { existsSync } from 'node:fs';
import { basename, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { findBenchAddon } from '../../executor/internal.ts';
import { f16ToFloat, floatToBf16 } from '../../executor/numeric.ts';
import { planId } from '../../planner/format/digest.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { benchExchanges } from '../bench/host.ts';
import { congruential } from '../bench/ids.ts';
import { type Execution, type ExecutionInput, execute, findMismatch } from '../execution/execute.ts';
import { formatBytes, formatCount, formatMs } from '../figures/format.ts';
import { summarize } from '../figures/summary.ts';
import { readPerRank, readRouting } from '../readers/numpyRouting.ts';
import { factLines, trafficLines } from './inspect.ts';
import { ComparisonFailed, command, print, say } from './io.ts';

const EXPERTS = 256;
const HIDDEN = 1024;
const DEMO_ROUNDS = 7;

/** The demo's data is next to the sources; tsc does not copy it into dist/. */
export function demoFile(name: string): string {
  const here = import.meta.url;
  const up = here.includes('/dist/') ? '../../../tools/demo/' : '../demo/';
  return fileURLToPath(new URL(up + name, here));
}

/** How this program is started from the current directory. */
function launchCommand(): string {
  const started = process.argv[1] ?? '';
  if (basename(started) === 'fusco') {
    const isLocal = existsSync('node_modules/.bin/fusco');
    return isLocal ? 'npx fusco' : 'fusco';
  }
  return `node ${relative(process.cwd(), started)}`;
}

/** Rows whose elements are all different and known: bf16 values from a small linear congruential generator. */
function makeRows(plan: VerifiedPlan): Uint8Array[] {
  return plan.shards.map(({ rank, tokens }) => {
    const next = congruential(rank + 1);
    const rows = new Uint16Array(tokens * HIDDEN).map(() => floatToBf16((next() >>> 8) / 2 ** 23 - 1));
    return new Uint8Array(rows.buffer);
  });
}

/** The times of the exchanges; with the addon of the benchmarks, medians compared with the unfused pipeline. */
async function timeLines(plan: VerifiedPlan, { backend, dispatch, combine }: Execution): Promise<string[]> {
  const ms = (value: number) => formatMs(value).padStart(8);
  if (backend !== 'host' || findBenchAddon().addon === undefined) {
    return [`dispatch ${ms(dispatch.nanoseconds / 1e6)}`, `combine  ${ms(combine.nanoseconds / 1e6)}`];
  }
  const timed = await benchExchanges(plan, 0, DEMO_ROUNDS);
  return (['dispatch', 'combine'] as const).map((name) => {
    const { fused, unfused } = timed[name];
    const times = `${(unfused / fused).toFixed(1)} x faster than`;
    return `${name.padEnd(8)} ${ms(fused)}  ${times} ${ms(unfused)} unfused (pack, exchange, unpack)`;
  });
}

async function demo(): Promise<void> {
  const tables = await readRouting(demoFile('moe256-ep8x512-mixed-l3.idx.npy'));
  const planner = await loadPlanner();
  const started = performance.now();
  const plan = planner.planAll(tables, { experts: EXPERTS, ranks: tables.length, hidden: HIDDEN });
  const planned = performance.now() - started;
  const tokens = tables.map((table) => table.tokens);
  const weights = await readPerRank(demoFile('moe256-ep8x512-mixed-l3.w.npy'), tokens, 'weights');
  const input: ExecutionInput = {
    dtype: 'bf16',
    rowBytes: plan.spec.rowBytes,
    rows: makeRows(plan),
    weights: weights.map((array) => Float32Array.from(array.data as Uint16Array, f16ToFloat)),
  };
  const result = await execute(plan, input, 'auto');
  const mismatch = await findMismatch(plan, input, result);
  const bytes = [...result.received, ...result.combined].reduce((sum, part) => sum + part.length, 0);

  const summary = summarize(plan);
  print('FUSCO: the output of a real router on 8 ranks, planned, executed and checked\n');
  print('routed       layer 3 of a small trained MoE language model, 512 tokens on each rank');
  print(`plan id      ${await planId(plan, nodeSha256)}\n`);
  print(factLines(summary));
  print(`\n${trafficLines(summary)}\n`);
  print(`planned in ${formatMs(planned)}, executed on the ${result.backend} backend:`);
  for (const line of await timeLines(plan, result)) print(`  ${line}`);
  if (mismatch !== undefined) {
    say(`check failed: ${mismatch.what} row ${mismatch.row} of rank ${mismatch.rank} differs`);
    throw new ComparisonFailed();
  }
  print(`checked ${formatBytes(bytes)} on ${formatCount(plan.spec.ranks)} ranks: every byte is correct\n`);
  const fusco = launchCommand();
  const routing = relative(process.cwd(), demoFile('moe256-ep8x512-mixed-l3.idx.npy'));
  print('Try next:');
  print(`  ${fusco} plan ${routing} --experts ${EXPERTS} -o demo.fusco`);
  print(`  ${fusco} inspect demo.fusco`);
  print(`  ${fusco} simulate demo.fusco`);
}

export function demoCommand(): Command {
  return command('demo', 'Plan, execute and check a real routing table, on one screen.').action(demo);
}
