// Reads numbers from environment variables.

import { checkInteger } from '../planner/errors.ts';

/** Variables of a process. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The integer in a variable; undefined if it is not set or empty.
 *
 * @throws FuscoError E_OPTION that quotes the value of the variable
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
