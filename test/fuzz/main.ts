// Fuzzes the readers of this project; test/fuzz/run.mjs bundles and starts it.
//
// Every target runs in a worker thread of its own with a bounded heap. The input at hand lies in memory that both
// threads see, so that one that never returns, or takes all memory, is found as well.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { randomFrom } from '../support/workloads.ts';
import { type Finding, type FuzzReport, fuzz, type Target } from './engine.ts';
import { exchangeSeeds } from './nativeSeeds.ts';
import { planted } from './planted.ts';
import { isRefusal, planSeeds, targetsOf } from './targets.ts';

/** No input of a few kilobytes may take longer. */
const HANG_MS = '5000';
const HEAP_MB = 512;
const HEAD_BYTES = 64;
const MAX_INPUT = 1 << 16;

/** What a worker is told. */
interface Job {
  readonly root: string;
  readonly target: string;
  readonly seed: number;
  readonly seconds: number;
  readonly maxRuns: number;
  readonly hangMs: number;
  readonly isGuided: boolean;
  readonly corpus: readonly Uint8Array[];
  /** Two words, the time of the start of the run and the input's length, then the input. */
  readonly shared: SharedArrayBuffer;
}

type Outcome = FuzzReport | { readonly finding: Finding };

function findTarget(root: string, name: string): Target {
  const target = [...targetsOf(root), ...planted].find((candidate) => candidate.name === name);
  if (target === undefined) throw new Error(`no target is called ${name}`);
  return target;
}

/** Throws what the target finds in one input. */
export async function replay(target: Target, input: Uint8Array): Promise<void> {
  try {
    await target.run(input);
  } catch (error) {
    if (!isRefusal(error)) throw error;
  }
}

async function work(job: Job): Promise<void> {
  const words = new Float64Array(job.shared, 0, 2);
  const input = new Uint8Array(job.shared, HEAD_BYTES);
  const report = await fuzz(findTarget(job.root, job.target), {
    random: randomFrom(job.seed),
    until: performance.now() + 1000 * job.seconds,
    maxRuns: job.maxRuns,
    corpus: job.corpus,
    isRefusal,
    isGuided: job.isGuided,
    before: (bytes) => {
      input.set(bytes.subarray(0, MAX_INPUT));
      words[1] = bytes.length;
      words[0] = Date.now();
    },
  });
  words[0] = 0;
  const { finding } = report;
  // Errors of any class, as text.
  const told = finding && { input: finding.input, error: describe(finding.error) };
  parentPort!.postMessage({ ...report, finding: told });
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** One target in a thread of its own. */
function runTarget(job: Job): Promise<Outcome> {
  const words = new Float64Array(job.shared, 0, 2);
  words.fill(0);
  const inputNow = () => new Uint8Array(job.shared, HEAD_BYTES, words[1]).slice();
  const worker = new Worker(new URL(import.meta.url), {
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  return new Promise((resolve) => {
    const end = (outcome: Outcome) => {
      clearInterval(watch);
      void worker.terminate();
      resolve(outcome);
    };
    const watch = setInterval(() => {
      if (words[0] === 0 || Date.now() - words[0]! < job.hangMs) return;
      end({ finding: { input: inputNow(), error: `it takes longer than ${job.hangMs} ms` } });
    }, 250);
    worker.once('message', end);
    worker.once('error', (error) => end({ finding: { input: inputNow(), error: describe(error) } }));
  });
}

function filesIn(folder: string): Uint8Array[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => new Uint8Array(readFileSync(join(folder, name))));
}

/** Writes inputs by the digest of their bytes. */
function keep(folder: string, inputs: readonly Uint8Array[]): string[] {
  mkdirSync(folder, { recursive: true });
  return inputs.map((input) => {
    const path = join(folder, createHash('sha256').update(input).digest('hex').slice(0, 16));
    writeFileSync(path, input);
    return path;
  });
}

async function main(): Promise<number> {
  const root = process.env.FUSCO_FUZZ_ROOT!;
  const { values } = parseArgs({
    options: {
      list: { type: 'boolean' },
      target: { type: 'string', multiple: true, default: [] },
      seconds: { type: 'string', default: '10' },
      runs: { type: 'string', default: 'Infinity' },
      seed: { type: 'string', default: '1' },
      input: { type: 'string' },
      unguided: { type: 'boolean', default: false },
      corpus: { type: 'string', default: '' },
      findings: { type: 'string', default: '' },
      'hang-ms': { type: 'string', default: HANG_MS },
      'native-seeds': { type: 'string' },
    },
  });
  if (values.list) {
    process.stdout.write(
      `${targetsOf(root)
        .map(({ name }) => name)
        .join('\n')}\n`,
    );
    return 0;
  }
  if (values['native-seeds'] !== undefined) {
    keep(join(values['native-seeds'], 'native-exchange'), await exchangeSeeds());
    keep(join(values['native-seeds'], 'native-plan-file'), await planSeeds());
    return 0;
  }
  const names = values.target;
  if (values.input !== undefined) {
    const input = new Uint8Array(readFileSync(values.input));
    for (const name of names) await replay(findTarget(root, name), input);
    return 0;
  }
  let found = 0;
  for (const name of names) {
    const folder = join(values.corpus, name);
    const outcome = await runTarget({
      root,
      target: name,
      seed: Number(values.seed),
      seconds: Number(values.seconds) / names.length,
      maxRuns: Number(values.runs),
      hangMs: Number(values['hang-ms']),
      isGuided: !values.unguided,
      corpus: [...filesIn(join(root, 'test/fuzz/corpus', name)), ...filesIn(folder)],
      shared: new SharedArrayBuffer(HEAD_BYTES + MAX_INPUT),
    });
    if ('runs' in outcome) {
      process.stdout.write(
        `${name}: ${outcome.runs} runs, ${outcome.features} features, ${outcome.corpus.length} inputs kept\n`,
      );
      keep(folder, outcome.corpus);
    }
    const { finding } = outcome;
    if (finding === undefined) continue;
    found++;
    const [path] = keep(join(values.findings, name), [finding.input]);
    process.stdout.write(
      `${name}: FOUND ${finding.error}\n  again: npm run fuzz -- --target ${name} --input ${path}\n`,
    );
  }
  return found === 0 ? 0 : 1;
}

if (isMainThread) process.exitCode = await main();
else await work(workerData as Job);
