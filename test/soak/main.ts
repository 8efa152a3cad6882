// Plans and executes random cases until the time is over, each backend against the reference bit for bit, and watches
// the resident memory; test/soak/run.mjs bundles and starts it.
//
//   --seconds S | --minutes M    default 20 s
//   --cases N                    this many cases instead, however long they take
//   --seed N                     of all cases; printed
//   --case I                     this case alone
//   --backend NAME              host or cuda, beside the reference; default: all that are there
//   --leak                       never closes some exchanges of every case, as a leak would; to see that it is noticed

import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import type { BackendName } from '../../executor/backends/types.ts';
import { createGroup, type Exchange } from '../../executor/group.ts';
import { loadAddon } from '../../executor/native/addon.ts';
import { decodePlan } from '../../planner/format/decode.ts';
import { encodePlan } from '../../planner/format/encode.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { assertSameOutputs, makeInputs, runExchanges } from '../gpu/exchanges.ts';
import { makeRouting, toTables } from '../support/workloads.ts';
import { soakCase } from './cases.ts';
import { MemoryWatch } from './memory.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '20' },
    minutes: { type: 'string' },
    cases: { type: 'string' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    case: { type: 'string' },
    backend: { type: 'string', multiple: true },
    leak: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const seconds = values.minutes === undefined ? Number(values.seconds) : 60 * Number(values.minutes);
const only = values.case === undefined ? undefined : Number(values.case);
/** Backends that are there and wanted; all of them are compared with the reference. */
const backends: BackendName[] = (['host', 'cuda'] as const).filter((name) => {
  if (values.backend?.includes(name) === false || loadAddon() === undefined) return false;
  return name === 'host' || cudaDevices().devices.length > 0;
});
const planner = await loadPlanner();
const leaked: Exchange[] = [];
const counts = { flat: 0, hier: 0, rows: 0 };

/** The plan as another process would get it: through a file, verified. */
async function planOf(number: number): Promise<VerifiedPlan> {
  const { workload, options, idDtype } = soakCase(seed, number);
  const made = planner.planAll(toTables(makeRouting(workload), workload.topk, idDtype), options);
  const { bytes, planId } = await encodePlan(made, nodeSha256);
  const decoded = await decodePlan(bytes, nodeSha256);
  if (decoded.planId !== planId) throw new Error(`plan id ${planId}, read as ${decoded.planId}`);
  return verifyPlan(decoded.plan);
}

async function runCase(number: number): Promise<void> {
  const { dtype, hidden, scaleBytes, weighted, threads, workload } = soakCase(seed, number);
  const plan = await planOf(number);
  const rowBytes = hidden * (dtype === 'f32' ? 4 : 2);
  const input = makeInputs(plan, dtype, rowBytes, scaleBytes, weighted, workload.seed);
  const on = async (backend: BackendName) => {
    const { ranks } = plan.spec;
    using group = await createGroup(backend === 'host' ? { ranks, backend, threads } : { ranks, backend });
    return await runExchanges(group, plan, input);
  };
  const expected = await on('reference');
  for (const backend of backends) assertSameOutputs(await on(backend), expected, input);
  if (values.leak) {
    const group = await createGroup({ ranks: plan.spec.ranks, threads: 1 });
    for (let i = 0; i < 8; i++) leaked.push(await group.prepare(plan));
  }
  counts[plan.spec.strategy]++;
  counts.rows += plan.shards.reduce((sum, shard) => sum + shard.recvRows, 0);
}

async function tryCase(number: number): Promise<boolean> {
  try {
    await runCase(number);
    return true;
  } catch (error) {
    process.stdout.write(
      `case ${number} FAILED: ${error instanceof Error ? error.stack : String(error)}\n` +
        `  ${JSON.stringify(soakCase(seed, number))}\n` +
        `  again: npm run soak -- --seed ${seed} --case ${number}\n`,
    );
    return false;
  }
}

async function soak(): Promise<number> {
  const start = performance.now();
  const memory = new MemoryWatch();
  let number = 0;
  /** How much of the run is over, 0..1. */
  const progress = () =>
    values.cases === undefined
      ? (performance.now() - start) / (1000 * seconds)
      : number / Number(values.cases);
  while (progress() < 1) {
    if (!(await tryCase(number++))) return 1;
    memory.sample(progress());
  }
  const { flat, hier, rows } = counts;
  const { growth, limit, samples, trend } = memory.verdict();
  const inMiB = trend.map((bytes) => (bytes / 2 ** 20).toFixed(0));
  process.stderr.write(`resident memory by tenths of the run, MiB: ${inMiB.join(' ')}\n`);
  process.stdout.write(
    `${number} cases (${flat} flat, ${hier} hierarchical plans, ${rows} rows); resident memory ` +
      `${(growth / 2 ** 20).toFixed(1)} MiB more in the last third than in the second, limit ${limit / 2 ** 20} MiB, ` +
      `${samples} samples\n`,
  );
  if (growth <= limit) return 0;
  process.stdout.write(
    `resident memory GROWS\n  again: npm run soak -- --seed ${seed} ${values.cases === undefined ? `--seconds ${seconds}` : `--cases ${values.cases}`}\n`,
  );
  return 1;
}

process.stderr.write(`seed ${seed}, backends ${['reference', ...backends].join(', ')}\n`);
if (only !== undefined) process.exitCode = (await tryCase(only)) ? 0 : 1;
else process.exitCode = await soak();
