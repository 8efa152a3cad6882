// A few small cases that touch every kernel, for compute-sanitizer, which slows each of them a hundredfold.

import { chosenCases } from './chosen.ts';
import { deviceExchangeCases } from './deviceExchanges.ts';
import { fp8Cases } from './fp8.ts';
import { gatingCases } from './gating.ts';
import { gradientCases } from './gradient.ts';
import { layerCases } from './layer.ts';
import { matrixCases } from './matrix.ts';
import { planningCases } from './planning.ts';
import { specialCases } from './special.ts';
import type { GpuCase } from './support.ts';

const small = matrixCases.filter(
  ({ name }) => name.startsWith('matrix') && / (7|33) /.test(name) && !/ 1 128 /.test(name),
);
const tiled = small.filter(({ name }) => name.includes(' 1024 ')).slice(0, 6);
const other = small.filter(({ name }) => !name.includes(' 1024 ')).slice(0, 6);
const ROW_WORK = [
  'fp8: bf16 rows of every size, 0',
  'fp8: f32 rows of every size, 1',
  'gate: 33 experts',
  'gate: 1025 experts',
  'gate: 2 of 4 groups',
  'gate: ids on the device',
  'combine gradient: raggedSources',
  'combine gradient: f32 rows of 48 bytes',
  'layer: fp8 with scales as a second payload, on device memory, two nodes',
];
const rowWork = chosenCases([...fp8Cases, ...gatingCases, ...gradientCases, ...layerCases], ROW_WORK);
const PLANNING = [
  'planning: ids of every type',
  'planning: bad ids in every position',
  // Many tiles for each rank.
  'planning: 4096 - rank tokens, hier, 1 ranks of a node',
  'planning: several plans',
  'planning: rows beyond',
  'planning: all entries',
  'planning: nothing is written',
  'device plans: overflow',
  'device plans: several',
];
const planning = chosenCases([...planningCases, ...deviceExchangeCases], PLANNING);

export const sanitizedCases: readonly GpuCase[] = [
  ...rowWork,
  ...planning,
  ...tiled,
  ...other,
  ...specialCases.slice(0, 6),
];
