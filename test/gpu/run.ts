// The GPU cases without a test framework, for machines that have a GPU and no npm. Prints a line for each failure
// and one JSON object to the file given: node run.js RESULT.json [NAME...], the cases whose names hold one of these

import { writeFileSync } from 'node:fs';
import { cudaDevices } from '../../executor/backends/cuda/context.ts';
import { gpuCases } from './cases.ts';
import { missingGpu } from './support.ts';

const [file, ...only] = process.argv.slice(2);
const reason = missingGpu();
if (reason !== undefined) {
  process.stderr.write(`GPU cases skipped: ${reason}\n`);
  process.exit(3);
}
const failures: { name: string; error: string }[] = [];
const chosen = gpuCases.filter(({ name }) => only.length === 0 || only.some((part) => name.includes(part)));
const slowest: { name: string; seconds: number }[] = [];
const start = performance.now();
for (const { name, run } of chosen) {
  const began = performance.now();
  try {
    await run();
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    failures.push({ name, error: text });
    process.stdout.write(`FAILED ${name}\n  ${text.split('\n').slice(0, 6).join('\n  ')}\n`);
  }
  slowest.push({ name, seconds: (performance.now() - began) / 1000 });
}
slowest.sort((a, b) => b.seconds - a.seconds);
const seconds = (performance.now() - start) / 1000;
const summary = { devices: cudaDevices().devices, cases: chosen.length, failed: failures.length, seconds };
if (file !== undefined)
  writeFileSync(
    file,
    `${JSON.stringify({ ...summary, failures, slowest: slowest.slice(0, 10) }, null, 2)}\n`,
  );
process.stdout.write(`${chosen.length - failures.length} of ${chosen.length} GPU cases passed\n`);
process.exitCode = failures.length === 0 ? 0 : 1;
