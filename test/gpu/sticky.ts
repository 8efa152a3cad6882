// A program that makes its GPU unusable and goes on. Prints the codes of three errors, and "alive".

import { openCuda } from '../../executor/backends/cuda/context.ts';
import { codeOf, planFor, rowsPayload } from './support.ts';

const ROW_BYTES = 2 ** 20;
const workload = { family: 'balanced', seed: 1, ranks: 1, tokens: 64, topk: 2, experts: 4 } as const;
const plan = await planFor(workload);
const cuda = openCuda(1);
const devicePlan = cuda.devicePlan(plan);
const before = cuda.alloc(0, 256);
const from = cuda.alloc(0, 64 * ROW_BYTES);
const after = cuda.alloc(0, 256);
// A buffer that claims 128 MiB and has 256 bytes; which of the two does not seem to overlap the rows depends on
// where the driver puts them.
const codes = [before, after].map(({ rank, address }) =>
  codeOf(() => {
    const to = { rank, address, bytes: 128 * ROW_BYTES };
    devicePlan.dispatch({ payloads: [rowsPayload(ROW_BYTES, [from], [to])] });
    cuda.synchronize();
  }),
);
process.stdout.write(`${codes.find((code) => code !== 'E_BUFFER')}\n`);
process.stdout.write(`${codeOf(() => cuda.alloc(0, 16))}\n`);
process.stdout.write(`${codeOf(() => cuda.check())}\n`);
process.stdout.write('alive\n');
