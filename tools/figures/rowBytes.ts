// Bytes of one row that is sent: nominal, according to the options of the plan.

import { scaleBlocks } from '../../executor/training/fp8.ts';
import { type PlanSpec, rowBytes } from '../../planner/spec.ts';

type RowSpec = Pick<PlanSpec, 'hidden' | 'dtype' | 'rowBytes' | 'combineDtype' | 'partial'>;

/** Bytes of the float32 scales that travel with a row of fp8: one for every 128 elements. 0 for other dtypes. */
export function scaleBytes({ dtype, hidden }: Pick<PlanSpec, 'dtype' | 'hidden'>): number {
  return dtype === 'fp8' ? 4 * scaleBlocks(hidden) : 0;
}

/** Bytes of a row that dispatch moves, with its scales. */
export function dispatchRowBytes(spec: RowSpec): number {
  return spec.rowBytes + scaleBytes(spec);
}

/** Bytes of a row that combine returns. */
export function combineRowBytes(spec: RowSpec): number {
  return rowBytes({ spec }).combine;
}

/** Bytes of a partial sum: a row of combine, or the same elements in float32. */
export function partialRowBytes(spec: RowSpec): number {
  return spec.partial === 'f32' ? 4 * spec.hidden : combineRowBytes(spec);
}
