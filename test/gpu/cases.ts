import { behaviourCases } from './behaviour.ts';
import { matrixCases } from './matrix.ts';
import { specialCases } from './special.ts';
import type { GpuCase } from './support.ts';

/** Everything that needs a GPU. */
export const gpuCases: readonly GpuCase[] = [...specialCases, ...behaviourCases, ...matrixCases];
