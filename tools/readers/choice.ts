// What to read from a file with more than one routing, or whose axes and ids need an explanation.

import { FuscoError } from '../../planner/errors.ts';

/** What an axis of an array counts. `requests` belong to one batch; one of `steps` is selected. */
const AXES = ['ranks', 'steps', 'requests', 'layers', 'tokens', 'topk'] as const;
export type AxisName = (typeof AXES)[number];

/** An axis, with its size if the file does not state it. */
export interface Axis {
  readonly name: AxisName;
  readonly size?: number | undefined;
}

/** Integers from `first` to `last`. */
export interface Range {
  readonly first: number;
  readonly last: number;
}

/** Called with the bytes read so far and those of the file. */
export type ReadProgress = (done: number, total: number) => void;

export interface ReadChoice {
  /** Layer, as the file numbers it. */
  readonly layer?: number | undefined;
  /** Training step, forward pass, iteration or request, as the file numbers it. */
  readonly step?: number | undefined;
  /** Ranks of the plan, 1..4096. Ranks that recorded nothing have no tokens. */
  readonly ranks?: number | undefined;
  /** The recorded ranks that form the group, in ascending order: the first becomes rank 0. */
  readonly ranksFrom?: readonly number[] | undefined;
  /** Whether the rank of a token does not matter, for example if choices are only counted. */
  readonly anyRanks?: boolean | undefined;
  /** Whether the tokens of all recorded ranks are one batch, in the order of the ranks, which `ranks` splits. */
  readonly asBatch?: boolean | undefined;
  /** Name of the array in a file of several; `*` stands for the number of a layer. */
  readonly array?: string | undefined;
  /** What the axes of an array are, in order. */
  readonly axes?: readonly Axis[] | undefined;
  /** Recorded ids that mean no expert, in addition to -1. */
  readonly maskIds?: readonly Range[] | undefined;
  /** Whether a row of one id in all columns means that nothing was recorded. */
  readonly maskRepeatedRows?: boolean | undefined;
  /** Whether rows contain a 0 or 1 per expert instead of ids. Default: only if nothing else is possible. */
  readonly multiHot?: boolean | undefined;
  /** Whether physical experts keep their numbers instead of becoming logical ones. */
  readonly physicalIds?: boolean | undefined;
  /** Logical experts, to recognize a map of 0 and 1. */
  readonly experts?: number | undefined;
  readonly progress?: ReadProgress | undefined;
  /**
   * Called for everything that a recording contains, independent of the choice. If steps or layers have no numbers, these
   * are undefined. `joins`: without a choice, all steps are joined.
   */
  readonly onFound?:
    | ((step: number | undefined, layer: number | undefined, joins: boolean) => void)
    | undefined;
  /** Receives a line for everything that was guessed or skipped. */
  readonly notice?: ((text: string) => void) | undefined;
}

/** Options that apply only to some kinds of files. */
const OPTION_OF = { array: '--array', axes: '--axes', physicalIds: '--physical-ids' } as const;

/**
 * Throws E_OPTION for an option that does not apply to a file: it would otherwise be ignored silently.
 *
 * @param what names the kind of file
 */
export function refuseOptions(
  choice: ReadChoice,
  names: readonly (keyof typeof OPTION_OF)[],
  what: string,
  path: string,
): void {
  const given = names.find((name) => choice[name] !== undefined && choice[name] !== false);
  if (given === undefined) return;
  const option = OPTION_OF[given];
  throw new FuscoError('E_OPTION', `${option} does not apply to ${what}`, {
    path,
    hint: `Leave out ${option}.`,
  });
}

const MAX_LISTED = 1 << 16;

/**
 * Integers and ranges of a text such as `4..7` or `0,2,8..11`, ascending.
 *
 * @throws FuscoError E_OPTION for anything else, and for overlaps
 */
export function parseRanges(option: string, text: string): Range[] {
  const ranges = text.split(',').map((part): Range => {
    const found = /^(-?[0-9]{1,10})(?:\.\.(-?[0-9]{1,10}))?$/.exec(part.trim());
    const first = Number(found?.[1]);
    const last = Number(found?.[2] ?? first);
    if (found === null || last < first) {
      throw new FuscoError(
        'E_OPTION',
        `${option}: ${JSON.stringify(part)} is neither a number nor FIRST..LAST`,
        {
          hint: `Write ${option} as numbers and ranges, for example 4..7 or 0,2,4,6.`,
        },
      );
    }
    return { first, last };
  });
  ranges.sort((a, b) => a.first - b.first);
  const overlap = ranges.findIndex((range, i) => i > 0 && range.first <= ranges[i - 1]!.last);
  if (overlap < 0) return ranges;
  throw new FuscoError('E_OPTION', `${option}: ${ranges[overlap]!.first} occurs twice`, {
    hint: `Name every number of ${option} once.`,
  });
}

/** The integers of ranges. Throws E_OPTION for more than 65536 or one outside 0..`max`. */
export function numbersOf(option: string, ranges: readonly Range[], max: number): number[] {
  const count = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (count > MAX_LISTED || ranges.some(({ first, last }) => first < 0 || last > max)) {
    throw new FuscoError('E_OPTION', `${option}: numbers lie in 0..${max}`, { limit: max });
  }
  return ranges.flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, i) => first + i));
}

const ALIASES: Readonly<Record<string, AxisName>> = { batch: 'requests', experts: 'topk' };

/**
 * Axes of a text such as `tokens,layers,topk` or `tokens,layers=48,topk=8`; `batch` is requests, and `experts`, of a
 * map of 0 and 1, is topk.
 *
 * @throws FuscoError E_OPTION for unknown or repeated names, or without tokens and topk
 */
export function parseAxes(text: string): Axis[] {
  const refuse = (what: string): never => {
    throw new FuscoError('E_OPTION', `--axes: ${what}`, {
      hint: `Name the axes in order, from ${AXES.join(', ')}: --axes tokens,layers,topk, with sizes as layers=48.`,
    });
  };
  const axes = text.split(',').map((part): Axis => {
    const found = /^([a-z]+)(?:=([0-9]{1,9}))?$/.exec(part.trim());
    const name = ALIASES[found?.[1] ?? ''] ?? found?.[1];
    if (!AXES.includes(name as AxisName)) refuse(`${JSON.stringify(part)} is not one of ${AXES.join(', ')}`);
    return { name: name as AxisName, size: found?.[2] === undefined ? undefined : Number(found[2]) };
  });
  const names = axes.map(({ name }) => name);
  if (new Set(names).size !== names.length) refuse('an axis occurs twice');
  for (const name of ['tokens', 'topk'] as const)
    if (!names.includes(name)) refuse(`there is no axis ${name}`);
  if (names.includes('steps') && names.includes('requests')) refuse('steps and requests exclude each other');
  return axes;
}
