// Options that several commands have, and how their values are parsed.

import { type Command, InvalidArgumentError, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { commonDivisor, defaultRanksPerNode, nodeSizeHint } from '../../planner/placement.ts';
import { ROUTING_FORMATS, type RoutingChoice, type RoutingFormat } from '../readers/anyRouting.ts';
import { type Axis, numbersOf, parseAxes, parseRanges, type Range } from '../readers/choice.ts';
import { listed } from '../readers/piece.ts';
import type { RecordedNumber, RecordingChoice } from '../readers/recording.ts';

/** The size of most nodes; defaultRanksPerNode goes up to it. */
const DEFAULT_NODE = 8;

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

/** `--ranks-per-node`; `prefix` says for what it is used. */
export function ranksPerNodeOption(prefix = ''): Option {
  const text = `${prefix}ranks per node (default: the largest divisor of the ranks up to 8)`;
  return new Option('--ranks-per-node <n>', text).argParser(integer(1, MAX_RANKS));
}

/** Which ranks of a plan share a node. */
export interface NodeArguments {
  ranksPerNode?: number;
  nodeSizes?: number[];
}

/** Adds `--ranks-per-node` and `--node-sizes`. */
export function nodeOptions(command: Command): Command {
  const size = integer(1, MAX_RANKS);
  return command
    .addOption(ranksPerNodeOption())
    .option(
      '--node-sizes <list>',
      'ranks of every node, for example 8,8; all nodes must have the same size',
      (text) => text.split(',').map(size),
    );
}

/** Throws E_OPTION: a plan has nodes of one size. */
function refuseUnequal(sizes: readonly number[], ranks: number): never {
  const text = `nodes of unequal size (${sizes.join(', ')}) are not supported: all nodes of a plan have the same number of ranks`;
  const hint = nodeSizeHint(sizes.reduce(commonDivisor), ranks);
  throw new FuscoError('E_OPTION', text, { value: sizes.join(), hint });
}

/**
 * The ranks of a node: the requested number, or the default, which is reported unless it is all ranks or 8.
 *
 * @throws FuscoError E_OPTION for nodes of unequal size
 */
export function ranksPerNodeOf(
  { ranksPerNode, nodeSizes }: NodeArguments,
  ranks: number,
  notice: (text: string) => void,
): number {
  if (nodeSizes !== undefined) {
    const total = nodeSizes.reduce((sum, size) => sum + size, 0);
    if (total !== ranks) {
      const text = `--node-sizes ${nodeSizes.join(',')} are ${total} ranks, not ${ranks}`;
      throw new FuscoError('E_OPTION', text, { hint: 'Give the ranks of every node.' });
    }
    if (ranksPerNode !== undefined && ranksPerNode !== nodeSizes[0]) {
      const text = `--ranks-per-node ${ranksPerNode} contradicts --node-sizes ${nodeSizes.join(',')}`;
      throw new FuscoError('E_OPTION', text, { hint: 'Give one of the two options.' });
    }
    return nodeSizes.every((size) => size === nodeSizes[0]) ? nodeSizes[0]! : refuseUnequal(nodeSizes, ranks);
  }
  if (ranksPerNode !== undefined) return ranksPerNode;
  const size = defaultRanksPerNode(ranks);
  if (ranks > DEFAULT_NODE && size !== DEFAULT_NODE) {
    const nodes = size === 1 ? 'every rank is a node' : `nodes of ${size} ranks`;
    notice(`${nodes}: the largest divisor of ${ranks} up to ${DEFAULT_NODE} (--ranks-per-node sets another)`);
  }
  return size;
}

/** Options that select what a command reads from a routing file. */
export interface RoutingArguments {
  format: RoutingFormat;
  layer?: number;
  step?: number;
  array?: string;
  axes?: Axis[];
  ranksFrom?: number[];
  asBatch?: boolean;
  maskIds?: Range[];
  maskRepeatedRows?: boolean;
  multiHot?: boolean;
  physicalIds?: boolean;
}

/**
 * Adds the options that select what is read from a routing file. `formatFlags` renames the option of the file's format, for
 * a command whose `--format` is that of its report.
 */
export function addRoutingOptions(command: Command, formatFlags = '--format <name>'): Command {
  const ranks = (text: string) => numbersOf('--ranks-from', parseRanges('--ranks-from', text), MAX_RANKS - 1);
  return command
    .optionsGroup('What to read from a recording:')
    .addOption(
      choice(
        formatFlags,
        'program that wrote the routing, if the first bytes do not identify it',
        ROUTING_FORMATS,
      ),
    )
    .option('--layer <n>', 'layer of a recording', integer(0))
    .option('--step <n>', 'step, forward pass, iteration or request of a recording', integer(0))
    .option('--array <name>', 'array to read from a file with several; * stands for the layer number')
    .option(
      '--axes <names>',
      'axes of an array in order, from ranks, steps, requests, layers, tokens, topk; sizes are given as layers=48',
      parseAxes,
    )
    .option('--ranks-from <list>', 'recorded ranks that form the group, for example 4..7', ranks)
    .option(
      '--as-batch',
      'ignore the recorded ranks: split the tokens of all ranks into --ranks equal blocks',
    )
    .option('--mask-ids <list>', 'recorded ids that mean no expert, for example 255 or 256..319', (text) =>
      parseRanges('--mask-ids', text),
    )
    .option('--mask-repeated-rows', 'treat rows with the same id in all columns as masked')
    .option('--multi-hot', 'rows contain a 0 or 1 per expert (default: if they cannot be ids)')
    .option('--no-multi-hot', 'rows are ids, even if they contain only 0 and 1')
    .option('--physical-ids', 'keep the physical experts of a recording; --experts is then their number');
}

/** What a command reads from its routing; `notice` receives a line for everything that was guessed or skipped. */
export function routingChoice(options: RoutingArguments, notice: (text: string) => void): RoutingChoice {
  const { format, layer, step, array, axes, ranksFrom, asBatch } = options;
  const { maskIds, maskRepeatedRows, multiHot, physicalIds } = options;
  const what = { format, layer, step, array, axes, ranksFrom, asBatch };
  return { ...what, maskIds, maskRepeatedRows, multiHot, physicalIds, notice };
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

/** Adds `--steps` and `--layers` to a command that reads whole recordings. */
export function addRangeOptions(command: Command): Command {
  return command
    .option('--layers <range>', 'layers of a recording, for example 3-60', range)
    .option('--steps <range>', 'steps of a recording, for example 0-9', range);
}

/** What a command reads from a whole recording; without `--steps` or `--layers`, `--step` or `--layer` is a range of one. */
export function recordingChoice(
  args: RoutingArguments & RangeArguments & { ranks?: number; experts?: number },
  notice: (text: string) => void,
): RecordingChoice {
  const { layer, step, ...rest } = routingChoice(args, notice);
  const only = (value: number | undefined) =>
    value === undefined ? undefined : { first: value, last: value };
  const { ranks, experts, layers = only(layer), steps = only(step) } = args;
  return { ...rest, ranks, experts, layers, steps };
}

/** Throws E_FOREIGN for routings of several layers, if each layer needs a separate answer. */
export function oneLayer(routings: readonly RecordedNumber[], path: string): void {
  const layers = [...new Set(routings.map(({ layer }) => layer))];
  if (layers.length < 2) return;
  const numbers = layers.filter((layer) => layer !== undefined);
  throw new FuscoError('E_FOREIGN', `it contains the layers ${listed(numbers)}: give --layer`, {
    path,
    hint: 'Each layer has different experts: select one with --layer.',
  });
}

/** A name for one routing of a recording: `step7-layer3`. */
export function recordedName({ step, layer }: { step?: number; layer?: number }): string {
  const parts = [step === undefined ? '' : `step${step}`, layer === undefined ? '' : `layer${layer}`];
  return parts.filter((part) => part !== '').join('-') || 'routing';
}

/**
 * A hook that refuses a command if required options are missing, and names all of them in one error. Commander would name
 * only one, and would report it before a misspelled option.
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
