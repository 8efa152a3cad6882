// Options that several commands have, and how their values are parsed.

import { type Command, InvalidArgumentError, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_RANKS } from '../../planner/format/layout.ts';
import { commonDivisor, defaultRanksPerNode, nodeSizeHint } from '../../planner/placement.ts';
import { ROUTING_FORMATS, type RoutingChoice, type RoutingFormat } from '../readers/anyRouting.ts';
import { type Axis, numbersOf, parseAxes, parseRanges, type Range } from '../readers/choice.ts';
import type { RecordingChoice } from '../readers/recording.ts';

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

/** `--ranks-per-node`; `prefix` says whose it is. */
export function ranksPerNodeOption(prefix = ''): Option {
  const text = `${prefix}ranks of a node (default: the largest divisor of the ranks up to 8)`;
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
    .option('--node-sizes <list>', 'ranks of every node, for example 8,8; all of one size', (text) =>
      text.split(',').map(size),
    );
}

/** Throws E_OPTION: a plan has nodes of one size. */
function refuseUnequal(sizes: readonly number[], ranks: number): never {
  const text = `nodes of unequal size (${sizes.join(', ')}) are not planned: all nodes of a plan have the same number of ranks`;
  const hint = nodeSizeHint(sizes.reduce(commonDivisor), ranks);
  throw new FuscoError('E_OPTION', text, { value: sizes.join(), hint });
}

/**
 * The ranks of a node: those that were asked for, or the default, which is announced where it is not all ranks, or 8.
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
    notice(
      `${nodes}: the largest divisor of ${ranks} up to ${DEFAULT_NODE} (--ranks-per-node says otherwise)`,
    );
  }
  return size;
}

/** The options by which a command says what to take of a routing file. */
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
 * Adds the options that say what to take of a routing, to a command that reads one. `formatFlags`: where `--format` is
 * that of the command's report.
 */
export function addRoutingOptions(command: Command, formatFlags = '--format <name>'): Command {
  const ranks = (text: string) => numbersOf('--ranks-from', parseRanges('--ranks-from', text), MAX_RANKS - 1);
  return command
    .optionsGroup('What to read of a recording:')
    .addOption(
      choice(formatFlags, 'whose file the routing is, if its first bytes do not say', ROUTING_FORMATS),
    )
    .option('--layer <n>', 'layer of a recording', integer(0))
    .option('--step <n>', 'step, forward pass, iteration or request of a recording', integer(0))
    .option('--array <name>', 'array of a file of several; * stands for the number of a layer')
    .option(
      '--axes <names>',
      'axes of an array in order, of ranks, steps, requests, layers, tokens, topk; with sizes as layers=48',
      parseAxes,
    )
    .option('--ranks-from <list>', 'recorded ranks that are the group, for example 4..7', ranks)
    .option('--as-batch', 'all recorded tokens as one batch, split by --ranks, whatever rank had them')
    .option('--mask-ids <list>', 'recorded ids that mean no expert, for example 255 or 256..319', (text) =>
      parseRanges('--mask-ids', text),
    )
    .option('--mask-repeated-rows', 'rows of one id in all columns mean no expert')
    .option('--multi-hot', 'rows are 0 or 1 per expert (default: if they cannot be ids)')
    .option('--no-multi-hot', 'rows are ids, whatever they look like')
    .option('--physical-ids', 'keep the physical experts of a recording; --experts is then their number');
}

/** What a command takes of its routing; `notice` takes lines about what was guessed or passed over. */
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

/** Adds `--steps` and `--layers` to a command that takes a whole recording. */
export function addRangeOptions(command: Command): Command {
  return command
    .option('--layers <range>', 'layers of a recording, for example 3-60', range)
    .option('--steps <range>', 'steps of a recording, for example 0-9', range);
}

/** What a command takes of a whole recording; without `--steps` or `--layers`, `--step` or `--layer` is a range of one. */
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
