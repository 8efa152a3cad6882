// A few small cases that touch every kernel, for compute-sanitizer, which slows each of them a hundredfold.

import { matrixCases } from './matrix.ts';
import { specialCases } from './special.ts';

const small = matrixCases.filter(
  ({ name }) => name.startsWith('matrix') && / (7|33) /.test(name) && !/ 1 128 /.test(name),
);
const tiled = small.filter(({ name }) => name.includes(' 1024 ')).slice(0, 6);
const other = small.filter(({ name }) => !name.includes(' 1024 ')).slice(0, 6);
for (const { name, run } of [...tiled, ...other, ...specialCases.slice(0, 6)]) {
  process.stdout.write(`${name}\n`);
  await run();
}
