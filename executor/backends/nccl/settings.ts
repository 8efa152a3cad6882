// Settings of the nccl backend, from options and environment variables.

import { checkInteger } from '../../../planner/errors.ts';
import { type Environment, integerVariable } from '../../environment.ts';

export interface SettingOptions {
  /**
   * Bytes per round: each round sends at least this many bytes to a peer that has them. 1 to 2^40, identical on all
   * ranks. Default: FUSCO_STEP_BYTES, or 32 MiB. Smaller rounds hide more of the packing, larger ones need fewer
   * launches.
   */
  readonly stepBytes?: number;
  /** Maximum number of thread blocks that NCCL may use, 0..64. 0, the default: NCCL chooses. */
  readonly maxCtas?: number;
  /** Adds times per peer and overlap to every report, and logs a line per exchange. Default: FUSCO_STATS is set, and not 0. */
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
