// Ranks that die, stall or do something else in the middle of exchanges: what the others say, how soon, and that they
// can go on. Starts its own processes:
//
//   node failures.js                  all scenarios, over NCCL and over direct memory
//   node failures.js --short          some of them
//
// 3 ranks on one GPU; with FUSCO_TEST_ONE_GPU=0 a GPU for each rank, and 2 ranks on a machine with 2 GPUs.

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cudaDevices, openCuda } from '../../../executor/backends/cuda/context.ts';
import { createGroup, type Group } from '../../../executor/group.ts';
import { connect, type Session } from '../../../executor/rendezvous/session.ts';
import { freePort } from '../../support/freePort.ts';
import { planFor } from '../support.ts';

const SHARES_GPU = process.env.FUSCO_TEST_ONE_GPU !== '0';
const MOST_RANKS = 3;
/** The processes of a scenario know it from their environment. */
const RANKS = Number(process.env.WORLD_SIZE ?? (SHARES_GPU ? MOST_RANKS : ranksWithGpu()));
const ODD = RANKS - 1;
const DEADLINE_MS = 4000;
const SLACK_MS = 5000;
/** How much longer than its deadline a rank stalls. */
const STALL_MS = 2000;
/** Scenarios that run at the same time: most of their time goes into starting processes and waiting. */
const AT_A_TIME = 3;
const ROW_BYTES = 512;
/** A rank is killed at a random moment in this time, this many times. */
const RANDOM_MS = 300;
const RANDOM_KILLS = { all: 20, short: 4 };
/** Rounds in which a scenario must end: more than fit RANDOM_MS, also where each rank has a GPU. */
const MOST_ROUNDS = 20_000;
/** Most milliseconds of a check, which does not wait for the GPU; others may hold the processor. */
const CHECK_MS = 1000;
const CHECK_EVERY_MS = 50;
const WORKLOAD = { family: 'balanced', ranks: RANKS, experts: 12 } as const;

type Scenario =
  | 'killed before the group'
  | 'killed between calls'
  | 'killed in a call'
  | 'killed at a random moment'
  | 'stalls'
  | 'stalls while others only check'
  | 'other row bytes'
  | 'other plan'
  | 'opens and closes';

/** What one rank found. */
interface Finding {
  readonly rank: number;
  readonly code?: string | undefined;
  readonly message?: string | undefined;
  readonly seconds: number;
  /** Whether a second group worked afterwards. */
  readonly again?: boolean;
  readonly freeBytes?: readonly number[];
}

function ranksWithGpu(): number {
  const { devices, reason } = cudaDevices();
  if (devices.length < 2) throw new Error(`a GPU for each rank needs two: ${reason ?? devices.length}`);
  return Math.min(MOST_RANKS, devices.length);
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

/**
 * One rank stalls while the others have enqueued an exchange and make no other call than check, which names the rank.
 * Memory is not freed: the context does it, after the group.
 */
async function onlyCheck(session: Session, opened: () => void): Promise<void> {
  const { devices } = cudaDevices();
  using cuda = openCuda(1, [session.localRank % devices.length]);
  await using group = await createGroup({ backend: 'nccl', nccl: { session }, cuda });
  const plan = await planFor({ ...WORKLOAD, seed: 3, tokens: 64, topk: 4 }, { hidden: ROW_BYTES / 2 });
  const exchange = await group.prepare(plan);
  const from = [cuda.alloc(0, exchange.tokens[0]! * ROW_BYTES)];
  const to = [cuda.alloc(0, exchange.recvRows[0]! * ROW_BYTES)];
  const dispatch = () => exchange.dispatch({ payloads: [{ rowBytes: ROW_BYTES, from, to }] });
  // Maps the memory, which waits for other ranks.
  await dispatch();
  cuda.synchronize();
  await group.check();
  opened();
  if (session.rank === ODD) sleepSynchronously(DEADLINE_MS + STALL_MS);
  const { enqueued } = await dispatch();
  if (enqueued !== true) throw new Error('the dispatch was not enqueued');
  for (;;) {
    const start = performance.now();
    await group.check();
    const ms = performance.now() - start;
    if (ms > CHECK_MS) throw new Error(`check waited ${ms.toFixed(0)} ms`);
    await new Promise((resolve) => setTimeout(resolve, CHECK_EVERY_MS));
  }
}

/** `opened` is called when the rank has a group, which takes long where several processes start at the same time. */
async function misbehave(scenario: Scenario, session: Session, opened: () => void): Promise<void> {
  const isOdd = session.rank === ODD;
  const die = () => process.kill(process.pid, 'SIGKILL');
  if (scenario === 'killed before the group' && isOdd) die();
  if (scenario === 'stalls while others only check') return onlyCheck(session, opened);
  const group = await open(session);
  opened();
  try {
    if (scenario === 'other plan') {
      const workload = { ...WORKLOAD, seed: 1, tokens: isOdd ? 9 : 8, topk: 2 };
      await group.prepare(await planFor(workload, { hidden: 8, ranksPerNode: 1 }));
      return;
    }
    await exchangeRounds(group, MOST_ROUNDS, (round) => {
      if (round !== 5 || !isOdd) return ROW_BYTES;
      if (scenario === 'killed between calls') die();
      // The exchange is under way when the timer fires.
      if (scenario === 'killed in a call') setTimeout(die, 30);
      if (scenario === 'killed at a random moment') setTimeout(die, Math.random() * RANDOM_MS);
      if (scenario === 'stalls') sleepSynchronously(DEADLINE_MS + STALL_MS);
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
      const { devices } = cudaDevices();
      freeBytes.push(devices[session.localRank % devices.length]!.freeBytes);
    }
    return { rank, seconds: (performance.now() - start) / 1000, freeBytes };
  }
  const session = await connect();
  let start = performance.now();
  let caught: { code?: string; message?: string } = {};
  try {
    await misbehave(scenario, session, () => {
      start = performance.now();
    });
  } catch (error) {
    caught = error as { code?: string; message?: string };
  }
  const seconds = (performance.now() - start) / 1000;
  await session.close();
  const found = { rank, seconds, code: caught.code, message: caught.message };
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

/** Ranks that a message says were late, other than the odd one. The odd rank may also hear who has given up. */
function innocentNamed(message: string, by: number): number[] {
  const named = message.matchAll(/\branks? (\d+(?:(?:, | and )\d+)*)( did not take part)?/g);
  return [...named]
    .filter(([, , isLate]) => by !== ODD || isLate !== undefined)
    .flatMap(([, ranks]) => ranks!.match(/\d+/g)!.map(Number))
    .filter((rank) => rank !== ODD);
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
        LOCAL_RANK: SHARES_GPU ? '0' : String(rank),
        LOCAL_WORLD_SIZE: String(RANKS),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: String(port),
        ...(SHARES_GPU ? { NCCL_HOSTID: `rank ${rank}` } : {}),
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
    const innocent = scenario === 'stalls' && isDirect ? innocentNamed(found.message ?? '', rank) : [];
    if (innocent.length > 0) wrong.push(`${text}; rank ${innocent.join(', ')} took part`);
    // The rank that stalls comes late to its own error.
    const stalledMs = scenario.startsWith('stalls') && rank === ODD ? DEADLINE_MS + STALL_MS : 0;
    if (found.seconds * 1000 > stalledMs + DEADLINE_MS + SLACK_MS) wrong.push(`${text}; that is late`);
    if (!scenario.startsWith('killed') && found.again !== true) wrong.push(`rank ${rank} could not go on`);
  });
  return { said, wrong };
}

/** Runs a scenario and prints what its ranks found. Returns 1 if that was wrong. */
async function tellScenario(run: Run): Promise<number> {
  const { scenario, isDirect } = run;
  const start = performance.now();
  const { said, wrong } = await runScenario(scenario, isDirect);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const how = isDirect ? 'direct memory' : 'NCCL';
  const head = `${wrong.length === 0 ? 'ok' : 'FAILED'}  ${scenario}, ${how}: ${seconds} s`;
  process.stdout.write(`${[head, ...[...said, ...wrong].map((line) => `    ${line}`)].join('\n')}\n`);
  return wrong.length > 0 ? 1 : 0;
}

interface Run {
  readonly scenario: Scenario;
  readonly isDirect: boolean;
}

const randomKills = (count: number) =>
  new Array<Run>(count).fill({ scenario: 'killed at a random moment', isDirect: true });

function allRuns(): Run[] {
  const scenarios: Scenario[] = [
    'killed before the group',
    'killed between calls',
    'killed in a call',
    'stalls',
    'other row bytes',
    'other plan',
  ];
  return [
    ...[false, true].flatMap((isDirect) => scenarios.map((scenario) => ({ scenario, isDirect }))),
    { scenario: 'stalls while others only check', isDirect: true },
    ...randomKills(RANDOM_KILLS.all),
  ];
}

/** The longest first. */
function shortRuns(): Run[] {
  return [
    { scenario: 'stalls while others only check', isDirect: true },
    { scenario: 'stalls', isDirect: true },
    { scenario: 'killed in a call', isDirect: false },
    { scenario: 'killed in a call', isDirect: true },
    { scenario: 'other row bytes', isDirect: true },
    ...randomKills(RANDOM_KILLS.short),
  ];
}

const asked = process.argv[2];
if (process.env.RANK !== undefined && asked !== undefined) {
  const found = await runRank(asked as Scenario);
  process.stdout.write(`${JSON.stringify(found)}\n`);
} else {
  const isShort = asked === '--short';
  const runs = isShort ? shortRuns() : allRuns();
  let failed = 0;
  const runNext = async (): Promise<void> => {
    for (let next = runs.shift(); next !== undefined; next = runs.shift()) {
      const count = await tellScenario(next);
      failed += count;
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, runNext));
  // Compares the free memory of the GPU.
  for (const isDirect of isShort ? [] : [false, true])
    failed += await tellScenario({ scenario: 'opens and closes', isDirect });
  process.exitCode = failed === 0 ? 0 : 1;
}
