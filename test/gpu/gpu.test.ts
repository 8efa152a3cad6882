import { describe, it } from 'vitest';
import { gpuCases } from './cases.ts';
import { missingGpu } from './support.ts';

const reason = missingGpu();

describe.skipIf(reason !== undefined)(
  `the cuda backend${reason === undefined ? '' : ` (skipped: ${reason})`}`,
  () => {
    for (const { name, run } of gpuCases) it(name, run);
  },
);
