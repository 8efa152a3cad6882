// What options and variables set for the exchanges of a group over processes.

import { checkInteger } from '../../../planner/errors.ts';
import { type Environment, integerVariable } from '../../environment.ts';

export interface SettingOptions {
  /**
   * Least bytes that go to one peer in one step, where there are so many; 1 to 2^40, alike on all ranks. Default:
   * FUSCO_STEP_BYTES, or 32 MiB. Smaller steps hide more of the packing, larger ones cost fewer launches.
   */
  readonly stepBytes?: number;
  /** Thread blocks that NCCL may use, 0..64; 0, the default, leaves it to NCCL. */
  readonly maxCtas?: number;
  /** Times per peer and overlap in every report, and a line each. Default: FUSCO_STATS is set, and not to 0. */
  readonly stats?: boolean;
}

const DEFAULT_STEP_BYTES = 32 * 2 ** 20;
const MAX_STEP_BYTES = 2 ** 40;
const MAX_CTAS = 64;

/** Every setting with its default filled in. Throws E_OPTION naming the option or the variable. */
export function resolveSettings(
  { stepBytes, maxCtas = 0, stats }: SettingOptions,
  environment: Environment = process.env,
): Required<SettingOptions> {
  const asked =
    stepBytes === undefined
      ? integerVariable(environment, 'FUSCO_STEP_BYTES', 1, MAX_STEP_BYTES)
      : checkInteger('stepBytes', stepBytes, 1, MAX_STEP_BYTES);
  return {
    stepBytes: asked ?? DEFAULT_STEP_BYTES,
    maxCtas: checkInteger('maxCtas', maxCtas, 0, MAX_CTAS),
    stats: stats ?? !['', '0'].includes(environment.FUSCO_STATS ?? ''),
  };
}
