// Errors of the native addon as errors of this package.

import { ERROR_HINTS, type ErrorCode, type ErrorDetails, FuscoError } from '../../planner/errors.ts';

/** Converts an error of the addon that has a code of this package to a FuscoError; returns any other value unchanged. */
export function translate(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof FuscoError) return error;
  const { code, ...rest } = error as Error & { code?: string };
  if (code === undefined || !Object.hasOwn(ERROR_HINTS, code)) return error;
  const details: ErrorDetails = { ...rest, cause: error };
  return new FuscoError(code as ErrorCode, error.message, details);
}

/** Runs a call of the addon and translates what it throws. */
export function attempt<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw translate(error);
  }
}
