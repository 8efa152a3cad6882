import { behaviorCases } from './behavior.ts';
import { crowdedCases } from './crowded.ts';
import { deviceExchangeCases } from './deviceExchanges.ts';
import { extremeCases } from './extremes.ts';
import { fp8Cases } from './fp8.ts';
import { gatingCases } from './gating.ts';
import { gradientCases } from './gradient.ts';
import { layerCases } from './layer.ts';
import { matrixCases } from './matrix.ts';
import { planningCases } from './planning.ts';
import { specialCases } from './special.ts';
import { steadyCases } from './steady.ts';
import { sumCases } from './sums.ts';
import type { GpuCase } from './support.ts';

/** Everything that needs a GPU. */
export const gpuCases: readonly GpuCase[] = [
  ...specialCases,
  ...fp8Cases,
  ...gatingCases,
  ...layerCases,
  ...planningCases,
  ...deviceExchangeCases,
  ...behaviorCases,
  ...gradientCases,
  ...crowdedCases,
  ...steadyCases,
  ...sumCases,
  ...extremeCases,
  ...matrixCases,
];
