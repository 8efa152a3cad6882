// Fuzzes the readers of this project; test/fuzz/run.mjs bundles and starts it.
//
// Every target runs in a worker thread of its own with a bounded heap. The input at hand lies in memory that both
// threads see, so that one that never returns, or takes all memory, is found as well.

import { createHash, randomInt } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { randomFrom } from '../support/workloads.ts';
import { type Finding, type FuzzReport, fuzz, type Target } from './engine.ts';
import { isRefusal, planted, targetsOf } from './targets.ts';

/** No input of a few kilobytes may take longer. */
const HANG_MS = 5000;
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
      if (words[0] === 0 || Date.now() - words[0]! < HANG_MS) return;
      end({ finding: { input: inputNow(), error: `it takes longer than ${HANG_MS} ms` } });
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
      target: { type: 'string', multiple: true },
      seconds: { type: 'string', default: '12' },
      runs: { type: 'string', default: 'Infinity' },
      seed: { type: 'string', default: String(randomInt(2 ** 32)) },
      input: { type: 'string' },
      unguided: { type: 'boolean', default: false },
      corpus: { type: 'string', default: join(root, 'build/fuzz/corpus') },
      findings: { type: 'string', default: join(root, 'build/fuzz/findings') },
    },
  });
  const names = values.target ?? targetsOf(root).map(({ name }) => name);
  if (values.input !== undefined) {
    for (const name of names) await findTarget(root, name).run(new Uint8Array(readFileSync(values.input)));
    return 0;
  }
  const seconds = Number(values.seconds) / names.length;
  process.stderr.write(`seed ${values.seed}, ${seconds.toFixed(1)} s for each of ${names.length} targets\n`);
  let found = 0;
  for (const name of names) {
    const folder = join(values.corpus, name);
    const outcome = await runTarget({
      root,
      target: name,
      seed: Number(values.seed),
      seconds,
      maxRuns: Number(values.runs),
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
