// Code that all commands share: printing, and the conversion of errors to lines and exit codes.

import { Command, CommanderError } from 'commander';
import { FuscoError } from '../../planner/errors.ts';

/** Version of the JSON that `--json` prints; incremented when a field changes its meaning or is removed. */
export const JSON_FORMAT_VERSION = 1;

/** Thrown by a command whose comparison failed: exit code 1, without a message. */
export class ComparisonFailed extends Error {}

/** Thrown by a command that has already printed its errors: exit code 2, without a message. */
export class ErrorsShown extends Error {}

/** Thrown by a command that ends with a special exit code: that of a program that it ran, or of a signal. */
export class ExitWith extends Error {
  readonly code: number;

  constructor(code: number) {
    super(`exit code ${code}`);
    this.code = code;
  }
}

/** A result as JSON, on one line unless an indentation is given; every result has the version of its fields. */
export function jsonText(value: object, indent?: number): string {
  return JSON.stringify({ formatVersion: JSON_FORMAT_VERSION, ...value }, null, indent);
}

/** Prints one JSON object to stdout. */
export function printJson(value: object): void {
  print(jsonText(value));
}

/** Prints a result to stdout. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Prints a message to stderr. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/**
 * Lines about what was guessed or skipped. They go to stderr with the result, so that a failed command has its one line;
 * a repeated line is printed once. With `--json` they are the field `notices` of the object, which is absent without any.
 */
export class Notices {
  readonly #lines = new Set<string>();

  readonly add = (text: string): void => {
    this.#lines.add(text.replaceAll('\n', ' '));
  };

  /** Prints the lines. */
  say(): void {
    for (const line of this.#lines) say(`note: ${line}`);
  }

  /** The fields for the JSON object. */
  get fields(): { readonly notices?: readonly string[] } {
    return this.#lines.size === 0 ? {} : { notices: [...this.#lines] };
  }
}

/** Throws E_USAGE if a file that goes to standard output would mix with the JSON object of --json. */
export function checkStdout(
  path: string | undefined,
  option: string,
  { json }: { readonly json?: boolean | undefined },
): void {
  if (path === '-' && json)
    throw new FuscoError('E_USAGE', `${option} - and --json both write to standard output`);
}

/** A command whose usage errors are thrown rather than printed. */
export function command(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .showHelpAfterError(false);
}

/** Prints one line on stderr for any thrown value; returns the exit code. */
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
