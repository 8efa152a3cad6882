// Numbers out of environment variables: read the same way, and refused the same way, wherever one is.

import { checkInteger } from '../planner/errors.ts';

/** Variables of a process. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * A variable's whole number; undefined where it is not set or empty.
 *
 * @throws FuscoError E_OPTION that quotes what the variable holds
 */
export function integerVariable(
  environment: Environment,
  name: string,
  min: number,
  max: number,
): number | undefined {
  const text = environment[name];
  if (text === undefined || text === '') return undefined;
  return checkInteger(name, /^\s*\d+\s*$/.test(text) ? Number(text) : text, min, max);
}
