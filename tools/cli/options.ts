// Options that several commands have, and how their values are parsed.

import { type Command, InvalidArgumentError, Option } from 'commander';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { ROUTING_FORMATS, type RoutingChoice, type RoutingFormat } from '../readers/anyRouting.ts';

/** An argument parser for integers in [min, max]. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be an integer from ${min} to ${max}.`);
  };
}

/** An argument parser for numbers from `min` on, such as 1.02. */
export function decimal(min: number): (text: string) => number {
  return (text) => {
    const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min) return value;
    throw new InvalidArgumentError(`It must be a number from ${min} on.`);
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
    .addOption(
      choice('--format <name>', 'whose file the routing is, if its first bytes do not say', ROUTING_FORMATS),
    )
    .option('--layer <n>', 'layer of a recording', integer(0))
    .option('--step <n>', 'step, forward pass, iteration or request of a recording', integer(0));
}

export function routingChoice({ format, layer, step }: RoutingArguments): RoutingChoice {
  return { format, layer, step };
}
