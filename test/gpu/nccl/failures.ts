// Ranks that die, stall or do something else in the middle of exchanges: what the others say, how soon, and that they
// can go on. Starts its own processes:
//
//   node failures.js                  all scenarios, 3 ranks on one GPU, over NCCL and over direct memory

import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { cudaDevices } from '../../../executor/backends/cuda/context.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { connect, type Session } from '../../../executor/rendezvous/session.ts';
import { planFor } from '../support.ts';

const RANKS = 3;
const ODD = RANKS - 1;
const DEADLINE_MS = 4000;
const SLACK_MS = 5000;
/** Scenarios that run at the same time: most of their time goes into starting processes and waiting. */
const AT_A_TIME = 3;
const ROW_BYTES = 512;
/** A rank is killed at a random moment in this time, this many times. */
const RANDOM_MS = 300;
const RANDOM_KILLS = 20;
const WORKLOAD = { family: 'balanced', ranks: RANKS, experts: 12 } as const;

type Scenario =
  | 'killed before the group'
  | 'killed between calls'
  | 'killed in a call'
  | 'killed at a random moment'
  | 'stalls'
  | 'other row bytes'
  | 'other plan'
  | 'opens and closes';

/** What one rank found. */
interface Finding {
  readonly rank: number;
  readonly code?: string;
  readonly message?: string;
  readonly seconds: number;
  /** Whether a second group worked afterwards. */
  readonly again?: boolean;
  readonly freeBytes?: readonly number[];
}

const sleepSynchronously = (ms: number) =>
  void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

async function exchangeRounds(
  group: Group,
  rounds: number,
  between: (round: number) => number,
): Promise<void> {
  const rank = group.localRanks[0]!;
  const workload = { ...WORKLOAD, seed: 3, tokens: 64, topk: 4 };
  const plan = await planFor(workload, { hidden: ROW_BYTES / 2, ranksPerNode: 1 });
  using exchange = await group.prepare(plan);
  for (let round = 0; round < rounds; round++) {
    const rowBytes = between(round);
    const from = [new Uint8Array(plan.shards[rank]!.tokens * rowBytes)];
    const to = [new Uint8Array(plan.shards[rank]!.recvRows * rowBytes)];
    await exchange.dispatch({ payloads: [{ rowBytes, from, to }] });
  }
}

async function open(session: Session): Promise<Group> {
  return createGroup({ backend: 'nccl', nccl: { session } });
}

async function misbehave(scenario: Scenario, session: Session): Promise<void> {
  const isOdd = session.rank === ODD;
  const die = () => process.kill(process.pid, 'SIGKILL');
  if (scenario === 'killed before the group' && isOdd) die();
  const group = await open(session);
  try {
    if (scenario === 'other plan') {
      const workload = { ...WORKLOAD, seed: 1, tokens: isOdd ? 9 : 8, topk: 2 };
      await group.prepare(await planFor(workload, { hidden: 8, ranksPerNode: 1 }));
      return;
    }
    await exchangeRounds(group, 1000, (round) => {
      if (round !== 5 || !isOdd) return ROW_BYTES;
      if (scenario === 'killed between calls') die();
      // The exchange is under way when the timer fires.
      if (scenario === 'killed in a call') setTimeout(die, 30);
      if (scenario === 'killed at a random moment') setTimeout(die, Math.random() * RANDOM_MS);
      if (scenario === 'stalls') sleepSynchronously(DEADLINE_MS + 2000);
      return scenario === 'other row bytes' ? 2 * ROW_BYTES : ROW_BYTES;
    });
  } finally {
    await group.close();
  }
}

async function runRank(scenario: Scenario): Promise<Finding> {
  const rank = Number(process.env.RANK);
  if (scenario === 'opens and closes') {
    const freeBytes: number[] = [];
    const start = performance.now();
    for (let i = 0; i < 8; i++) {
      const session = await connect();
      const group = await open(session);
      await exchangeRounds(group, 2, () => ROW_BYTES);
      await group.close();
      await session.barrier();
      await session.close();
      freeBytes.push(cudaDevices().devices[0]!.freeBytes);
    }
    return { rank, seconds: (performance.now() - start) / 1000, freeBytes };
  }
  const session = await connect();
  const start = performance.now();
  let caught: { code?: string; message?: string } = {};
  try {
    await misbehave(scenario, session);
  } catch (error) {
    caught = error as { code?: string; message?: string };
  }
  const seconds = (performance.now() - start) / 1000;
  await session.close();
  const found = {
    rank,
    seconds,
    ...(caught.code === undefined ? {} : { code: caught.code, message: caught.message! }),
  };
  if (scenario.startsWith('killed')) return found;
  // All ranks live: they form another group.
  const second = await connect();
  const group = await open(second);
  await exchangeRounds(group, 3, () => ROW_BYTES);
  await group.close();
  await second.barrier();
  await second.close();
  return { ...found, again: true };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function collect(child: ChildProcess): Promise<Finding | undefined> {
  let text = '';
  child.stdout!.on('data', (chunk) => {
    text += chunk;
  });
  return new Promise((resolve) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
    child.on('exit', () => {
      clearTimeout(timer);
      const line = text.trim().split('\n').at(-1) ?? '';
      resolve(line.startsWith('{') ? (JSON.parse(line) as Finding) : undefined);
    });
  });
}

async function runScenario(scenario: Scenario, isDirect: boolean) {
  const port = await freePort();
  const children = Array.from({ length: RANKS }, (_, rank) =>
    spawn(process.execPath, [fileURLToPath(import.meta.url), scenario], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {
        ...process.env,
        RANK: String(rank),
        WORLD_SIZE: String(RANKS),
        LOCAL_RANK: '0',
        LOCAL_WORLD_SIZE: String(RANKS),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: String(port),
        NCCL_HOSTID: `rank ${rank}`,
        FUSCO_IPC: isDirect ? '1' : '0',
        FUSCO_DEADLINE_MS: String(DEADLINE_MS),
      },
    }),
  );
  const findings = await Promise.all(children.map(collect));
  const said: string[] = [];
  const wrong: string[] = [];
  findings.forEach((found, rank) => {
    const isVictim = scenario.startsWith('killed') && rank === ODD;
    if (isVictim) {
      if (found !== undefined) wrong.push(`rank ${rank} lives`);
      return;
    }
    if (found === undefined) {
      wrong.push(`rank ${rank} said nothing`);
      return;
    }
    if (scenario === 'opens and closes') {
      const [first, last] = [found.freeBytes![1]!, found.freeBytes!.at(-1)!];
      if (first - last > 64 * 2 ** 20) wrong.push(`rank ${rank}: ${(first - last) / 2 ** 20} MiB are lost`);
      return;
    }
    const wanted = scenario.startsWith('other') ? 'E_PEER_MISMATCH' : 'E_PEER_TIMEOUT';
    const text = `rank ${rank} after ${found.seconds.toFixed(1)} s: ${found.code} ${found.message}`;
    said.push(text);
    if (found.code !== wanted) wrong.push(`${text}; ${wanted} was expected`);
    const names = rank === ODD ? true : found.message?.includes(`rank ${ODD}`);
    if (!names) wrong.push(`${text}; it does not name rank ${ODD}`);
    // The rank that stalls comes late to its own error.
    const stalledMs = scenario === 'stalls' && rank === ODD ? DEADLINE_MS + 2000 : 0;
    if (found.seconds * 1000 > stalledMs + DEADLINE_MS + SLACK_MS) wrong.push(`${text}; that is late`);
    if (!scenario.startsWith('killed') && found.again !== true) wrong.push(`rank ${rank} could not go on`);
  });
  return { said, wrong };
}

/** Runs a scenario and prints what its ranks found. Returns 1 if that was wrong. */
async function tellScenario(run: { scenario: Scenario; isDirect: boolean }): Promise<number> {
  const { scenario, isDirect } = run;
  const start = performance.now();
  const { said, wrong } = await runScenario(scenario, isDirect);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const how = isDirect ? 'direct memory' : 'NCCL';
  const head = `${wrong.length === 0 ? 'ok' : 'FAILED'}  ${scenario}, ${how}: ${seconds} s`;
  process.stdout.write(`${[head, ...[...said, ...wrong].map((line) => `    ${line}`)].join('\n')}\n`);
  return wrong.length > 0 ? 1 : 0;
}

const asked = process.argv[2] as Scenario | undefined;
if (process.env.RANK !== undefined && asked !== undefined) {
  const found = await runRank(asked);
  process.stdout.write(`${JSON.stringify(found)}\n`);
} else {
  const scenarios: Scenario[] = [
    'killed before the group',
    'killed between calls',
    'killed in a call',
    'stalls',
    'other row bytes',
    'other plan',
  ];
  const atRandom = new Array<Scenario>(RANDOM_KILLS).fill('killed at a random moment');
  const runs = [false, true].flatMap((isDirect) =>
    [...scenarios, ...(isDirect ? atRandom : [])].map((scenario) => ({ scenario, isDirect })),
  );
  let failed = 0;
  const runNext = async (): Promise<void> => {
    for (let next = runs.shift(); next !== undefined; next = runs.shift()) {
      const count = await tellScenario(next);
      failed += count;
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, runNext));
  // Compares the free memory of the GPU.
  for (const isDirect of [false, true])
    failed += await tellScenario({ scenario: 'opens and closes', isDirect });
  process.exitCode = failed === 0 ? 0 : 1;
}
