// One rank of a group of processes; tools/gpu/check.sh starts several with `fusco launch`:
//
//   node rank.js RANKS_PER_MACHINE RANKS_PER_NODE [NAME...]      the cases whose names hold one of these
//
// Blocks of RANKS_PER_MACHINE ranks reach each other's memory, all others use NCCL. Every process poses as another machine
// to NCCL, which otherwise refuses several ranks on one GPU.

import { cudaDevices, openCuda } from '../../../executor/backends/cuda/context.ts';
import { createGroup } from '../../../executor/group.ts';
import { connect } from '../../../executor/rendezvous/session.ts';
import { chosenCases } from '../chosen.ts';
import { crowdedRankCases } from '../crowded.ts';
import { firstError } from '../support.ts';
import { deviceCases, exchangeCases, planningCases, recordCases, refusalCases, sumCases } from './cases.ts';
import { deviceExchangeCases } from './deviceExchanges.ts';
import { extremeRankCases } from './extremes.ts';
import { plannerCases } from './planners.ts';
import { streamCases } from './streams.ts';

const [ranksPerMachine, ranksPerNode] = process.argv.slice(2, 4).map(Number) as [number, number];
const only = process.argv.slice(4);

const session = await connect();
const { rank } = session;
const sharesGpu = process.env.FUSCO_TEST_ONE_GPU !== '0';
if (sharesGpu) process.env.NCCL_HOSTID = `rank ${rank}`;
process.env.FUSCO_HOSTID = `machine ${Math.floor(rank / ranksPerMachine)}`;
const device = session.localRank % cudaDevices().devices.length;
using cuda = openCuda(1, [device]);
const began = performance.now();
const group = await createGroup({ backend: 'nccl', nccl: { session }, cuda });
const opened = performance.now() - began;
const ranks = group.ranks;
const isOneMachine = ranksPerMachine === ranks;
const openOther = () => openCuda(1, [device]);
const all = [
  ...refusalCases(ranks),
  ...planningCases(ranks, ranksPerNode),
  ...recordCases(ranks),
  ...deviceCases(ranks, ranksPerNode, cuda),
  ...sumCases(ranksPerNode),
  ...exchangeCases(ranks, ranksPerNode),
  ...extremeRankCases(ranks, ranksPerNode, isOneMachine ? cuda : undefined),
  // A rank that is alone has no other to wait for: its exchanges along plans of the host wait for themselves.
  ...(isOneMachine && ranks > 1
    ? [
        ...streamCases(cuda, ranksPerNode),
        ...crowdedRankCases(cuda, openOther, { session }, ranksPerNode, sharesGpu),
      ]
    : []),
  ...deviceExchangeCases(ranks, ranksPerMachine, cuda),
  ...(isOneMachine ? plannerCases(session, cuda, openOther, sharesGpu) : []),
];
const cases = only.length === 0 ? all : chosenCases(all, only);
const SLOWEST = 3;
/** Of an error. */
const MOST_LINES = 12;
let failed = 0;
const times: { name: string; seconds: number }[] = [];
for (const { name, run } of cases) {
  const start = performance.now();
  try {
    await run(group);
    times.push({ name, seconds: (performance.now() - start) / 1000 });
  } catch (thrown) {
    const error = firstError(thrown);
    failed++;
    process.stdout.write(
      `FAILED ${name}\n  ${String((error as Error).stack)
        .split('\n')
        .slice(0, MOST_LINES)
        .join('\n  ')}\n`,
    );
    // After a failure of the group nothing else can work.
    if ((error as { code?: string }).code?.startsWith('E_PEER')) break;
  }
}
if (rank === 0 || failed > 0) {
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(
    `${cases.length - failed} of ${cases.length} cases, ${ranks} ranks, ${ranksPerMachine} a machine, ${ranksPerNode} a node: ` +
      `${seconds} s, of which the communicator ${(opened / 1000).toFixed(1)}\n`,
  );
  times.sort((a, b) => b.seconds - a.seconds);
  const slowest = times.slice(0, SLOWEST).map(({ name, seconds }) => `${name} (${seconds.toFixed(1)} s)`);
  process.stdout.write(`  slowest: ${slowest.join(', ')}\n`);
}
await group.close();
await session.close();
process.exitCode = failed === 0 ? 0 : 1;
