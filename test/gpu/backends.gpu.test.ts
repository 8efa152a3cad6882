// The cases that need a GPU, as a lane of its own. Without a GPU, or without the addon's CUDA part, the lane fails and
// says what is missing.

import { expect, it } from 'vitest';
import { gpuCases } from './cases.ts';
import { missingGpu } from './support.ts';

const missing = missingGpu();

it('this machine has a GPU and an addon that is built with CUDA', () => {
  expect(missing, `the GPU lane cannot run here: ${missing}`).toBeUndefined();
});

if (missing === undefined) for (const { name, run } of gpuCases) it(name, run);
