// The GPU cases without a test framework, for machines that have a GPU and no npm. Prints a line for each failure
// and one JSON object to the file given: node run.js RESULT.json [NAME...], the cases whose names hold one of these.
// Cases run in another process, which is replaced when one of them hangs or breaks the GPU. RESULT.json.lines has a line for
// each case as soon as it has ended.

import { AssertionError } from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import { type CaseResult, runApart, tellResult } from './apart.ts';
import { gpuCases } from './cases.ts';
import { firstError, missingGpu } from './support.ts';

/** A case that takes longer hangs. */
const MOST_CASE_S = 90;
/** First argument of the process of the cases. */
const CASES = '--cases';

function chosenCases(only: readonly string[]) {
  return gpuCases.filter(({ name }) => only.length === 0 || only.some((part) => name.includes(part)));
}

/** Runs cases from number `first` on, up to one after which the GPU cannot be used. */
async function runCases(only: readonly string[], file: string, first: number): Promise<void> {
  // Cases that keep a GPU busy count on kernels that earlier cases have loaded.
  if (first > 0) Object.assign(process.env, { CUDA_MODULE_LOADING: 'EAGER' });
  for (const { name, run } of chosenCases(only).slice(first)) {
    const began = performance.now();
    const tell = (error: string) =>
      tellResult(file, { name, seconds: (performance.now() - began) / 1000, error });
    try {
      await run();
      tell('');
    } catch (last) {
      const thrown = firstError(last);
      tell(thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown));
      // The GPU may be unusable, or its kernels may still wait for one another.
      if (!(thrown instanceof AssertionError)) process.kill(process.pid, 'SIGKILL');
    }
  }
}

function summary(results: readonly CaseResult[], seconds: number) {
  const failures = results.filter(({ error }) => error !== '').map(({ name, error }) => ({ name, error }));
  const slowest = [...results].sort((a, b) => b.seconds - a.seconds).slice(0, 10);
  const counts = { cases: results.length, failed: failures.length, seconds };
  const times = slowest.map(({ name, seconds: took }) => ({ name, seconds: took }));
  return { devices: cudaDevices().devices, ...counts, failures, slowest: times };
}

async function runAll(file: string | undefined, only: readonly string[]): Promise<void> {
  const reason = missingGpu();
  if (reason !== undefined) {
    process.stderr.write(`GPU cases skipped: ${reason}\n`);
    process.exit(3);
  }
  const ended = new AbortController();
  process.on('SIGTERM', () => ended.abort());
  const start = performance.now();
  const names = chosenCases(only).map(({ name }) => name);
  const lines =
    file === undefined ? join(mkdtempSync(join(tmpdir(), 'fusco-cases-')), 'lines') : `${file}.lines`;
  const command = [process.argv[1]!, CASES, JSON.stringify(only), lines];
  const results = await runApart(names, command, lines, MOST_CASE_S, ended.signal);
  for (const { name, error } of results) {
    if (error !== '')
      process.stdout.write(`FAILED ${name}\n  ${error.split('\n').slice(0, 6).join('\n  ')}\n`);
  }
  const found = summary(results, (performance.now() - start) / 1000);
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(found, null, 2)}\n`);
  process.stdout.write(`${found.cases - found.failed} of ${found.cases} GPU cases passed\n`);
  process.exitCode = found.failed === 0 ? 0 : 1;
}

const [head, ...rest] = process.argv.slice(2);
if (head === CASES) await runCases(JSON.parse(rest[0]!) as string[], rest[1]!, Number(rest[2]));
else await runAll(head, rest);
