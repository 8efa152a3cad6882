// The options of a plan as native code takes them.

import type { Plan } from '../../planner/plan.ts';
import type { NativePlanOptions } from './addon.ts';

export function nativeOptions({ ranksPerNode, strategy, partial, sum }: Plan['spec']): NativePlanOptions {
  return {
    ranksPerNode,
    strategy,
    ...(partial === 'none' ? {} : { partial }),
    ...(sum === 'none' ? {} : { sum }),
  };
}
