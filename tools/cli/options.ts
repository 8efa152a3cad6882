// Options that several commands have, and how their values are parsed.

import { type Command, InvalidArgumentError, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { ROUTING_FORMATS, type RoutingChoice, type RoutingFormat } from '../readers/anyRouting.ts';
import type { Range, RecordingChoice } from '../readers/recording.ts';

/** An argument parser for integers in [min, max]. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
  };
}

/** An option with a fixed set of values, the first of which is the default unless another is given. */
export function choice(
  flags: string,
  description: string,
  values: readonly string[],
  value = values[0],
): Option {
  return new Option(flags, description).choices(values).default(value);
}

/** `--ranks-per-node`; `prefix` says whose it is. */
export function ranksPerNodeOption(prefix = ''): Option {
  const text = `${prefix}ranks of a node (default: the largest divisor of the ranks up to 8)`;
  return new Option('--ranks-per-node <n>', text).argParser(integer(1, MAX_RANKS));
}

/** The options by which a command says what to take of a routing file. */
export interface RoutingArguments {
  format: RoutingFormat;
  layer?: number;
  step?: number;
}

/** Adds `--format`, `--layer` and `--step` to a command that reads a routing. */
export function addRoutingOptions(command: Command): Command {
  return command
    .optionsGroup('What to read of a recording:')
    .addOption(
      choice('--format <name>', 'whose file the routing is, if its first bytes do not say', ROUTING_FORMATS),
    )
    .option('--layer <n>', 'layer of a recording', integer(0))
    .option('--step <n>', 'step, forward pass, iteration or request of a recording', integer(0));
}

export function routingChoice({ format, layer, step }: RoutingArguments): RoutingChoice {
  return { format, layer, step };
}

/** Ranges of a recording. */
export interface RangeArguments {
  layers?: Range;
  steps?: Range;
}

/** An argument parser for `3` and `3-60`, both ends included. */
function range(text: string): Range {
  const [, first, last = first] = /^(\d{1,15})(?:-(\d{1,15}))?$/.exec(text) ?? [];
  if (first !== undefined && Number(first) <= Number(last))
    return { first: Number(first), last: Number(last) };
  throw new InvalidArgumentError('It must be a number or a range like 3-60.');
}

/** Adds `--steps` and `--layers` to a command that takes a whole recording. */
export function addRangeOptions(command: Command): Command {
  return command
    .option('--layers <range>', 'layers of a recording, for example 3-60', range)
    .option('--steps <range>', 'steps of a recording, for example 0-9', range);
}

export function recordingChoice(
  args: Pick<RoutingArguments, 'format'> & RangeArguments & { ranks?: number },
): RecordingChoice {
  const { format, ranks, layers, steps } = args;
  return { format, ranks, layers, steps };
}

/** A name for one routing of a recording: `step7-layer3`. */
export function recordedName({ step, layer }: { step?: number; layer?: number }): string {
  const parts = [step === undefined ? '' : `step${step}`, layer === undefined ? '' : `layer${layer}`];
  return parts.filter((part) => part !== '').join('-') || 'routing';
}

/**
 * A hook that refuses a command without some of its options, all of them in one error. Commander names one at a time,
 * and before it notices a misspelt one.
 */
export function needs(...names: readonly string[]): (command: Command) => void {
  return (command) => {
    const missing = command.options.filter(
      (option) =>
        names.includes(option.attributeName()) &&
        command.getOptionValue(option.attributeName()) === undefined,
    );
    if (missing.length === 0) return;
    throw new FuscoError(
      'E_USAGE',
      `${command.name()} needs ${missing.map(({ flags }) => flags).join(' and ')}`,
    );
  };
}
