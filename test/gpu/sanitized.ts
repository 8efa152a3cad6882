// The program that runs under compute-sanitizer.

import { sanitizedCases } from './sanitizedCases.ts';

for (const { name, run } of sanitizedCases) {
  process.stdout.write(`${name}\n`);
  await run();
}
