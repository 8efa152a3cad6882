// What every command shares: reading plans, printing, and how errors become lines and exit codes.

import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { type DecodedPlan, decodePlan, type OnDefect } from '../../planner/format/decode.ts';
import { nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import { verifyPlan } from '../../planner/verify/verify.ts';
import { readWhole } from '../readers/file.ts';

/** Version of the JSON that `--json` prints; raised when a field changes its meaning or goes. */
export const JSON_FORMAT_VERSION = 1;

/** Thrown by a command whose comparison failed: exit code 1, nothing more to say. */
export class ComparisonFailed extends Error {}

/** Thrown by a command that has printed its errors already: exit code 2, nothing more to say. */
export class ErrorsShown extends Error {}

/** Thrown by a command that ends with a code of its own: another program's that it ran, or a signal's. */
export class ExitWith extends Error {
  readonly code: number;

  constructor(code: number) {
    super(`exit code ${code}`);
    this.code = code;
  }
}

/** Prints one JSON object to stdout. */
export function printJson(value: object): void {
  print(JSON.stringify({ formatVersion: JSON_FORMAT_VERSION, ...value }));
}

/** Prints a result to stdout. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Prints a message to stderr. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Reads and decodes a plan file; see decodePlan for what `onDefect` does. */
export async function readPlan(path: string, onDefect?: OnDefect): Promise<DecodedPlan> {
  const bytes = await readWhole(path);
  try {
    return await decodePlan(bytes, nodeSha256, onDefect);
  } catch (error) {
    if (error instanceof FuscoError) throw prefixed(path, error);
    throw error;
  }
}

/** Reads a plan file that is going to be used: anything wrong with it is thrown, with the file's name. */
export async function readVerifiedPlan(path: string): Promise<DecodedPlan & { plan: VerifiedPlan }> {
  const decoded = await readPlan(path);
  try {
    return { ...decoded, plan: verifyPlan(decoded.plan) };
  } catch (error) {
    throw error instanceof FuscoError ? prefixed(path, error) : error;
  }
}

/** The same error with the file's name in front of its text. */
export function prefixed(path: string, error: FuscoError): FuscoError {
  const { path: inner, ...details } = error.details;
  return new FuscoError(error.code, error.message, { ...details, path: `${path}`, cause: error });
}

/** An argument parser for integers in [min, max]. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
  };
}

/** A command whose own errors are thrown rather than printed. */
export function command(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .showHelpAfterError(false);
}

/** One line on stderr for anything that was thrown, and its exit code. */
export function explain(error: unknown): number {
  if (error instanceof ComparisonFailed) return 1;
  if (error instanceof ErrorsShown) return 2;
  if (error instanceof ExitWith) return error.code;
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const text = error.message.replace(/^error: /, '').replaceAll('\n', ' ');
    say(errorLine(new FuscoError('E_USAGE', text)));
    return 2;
  }
  if (error instanceof FuscoError) {
    say(errorLine(error));
    return 2;
  }
  const text =
    error instanceof RangeError && /alloc|out of memory|Invalid (typed )?array length/i.test(error.message)
      ? 'E_MEMORY'
      : 'E_INTERNAL';
  say(
    errorLine(new FuscoError(text, error instanceof Error ? error.message : String(error), { cause: error })),
  );
  if (process.env.FUSCO_DEBUG !== undefined && error instanceof Error) say(error.stack ?? '');
  return 2;
}

export function errorLine(error: FuscoError): string {
  return `error[${error.code}]: ${error.message.replaceAll('\n', ' ')} (${error.hint})`;
}
