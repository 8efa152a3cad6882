// Files of arrays: which array contains the ids, and what its axes are.
//
//   one array               .npy, a tensor in .pt, or the only array of integers with two axes or more
//   routed_experts          and prompt_routed_experts before it: [tokens, layers, topk], as vLLM's clients store them
//   names with a number     layer_0, layer_1, …, and the items of a list: one array per layer
//   any other               named by --array; `*` in a name stands for the number

import { FuscoError } from '../../planner/errors.ts';
import { type AxesContext, addArray, axesOf, checkIds } from './axes.ts';
import { type AxisName, type ReadChoice, refuseOptions } from './choice.ts';
import { isInteger, type NdArray, shapeText } from './npy.ts';
import type { Recorded } from './piece.ts';
import { TraceCollector } from './trace.ts';

/** An array of a file that has not been read yet. */
export interface NamedArray extends Pick<NdArray, 'dtype' | 'shape' | 'declared'> {
  /** Empty for the only value of a file. */
  readonly name: string;
  readonly read: () => NdArray;
}

/** An array with the number in its name. */
interface Member {
  readonly array: NamedArray;
  readonly number: number | undefined;
}

/** What is known about the file. */
export type ArraysContext = Omit<AxesContext, 'isStated'>;

export const ROUTED_NAMES: readonly string[] = ['prompt_routed_experts', 'routed_experts'];
const MAX_AXES = 5;
const MAX_SHOWN = 6;

/** Arrays that are in memory. */
export function namedArrays(arrays: ReadonlyMap<string, NdArray>): NamedArray[] {
  return [...arrays].map(([name, array]) => ({ ...array, name, read: () => array }));
}

/** The name with `*` in place of its first number, and the number. */
function patternOf(name: string): { pattern: string; number: number | undefined } {
  const digits = /[0-9]{1,9}/.exec(name);
  if (digits === null) return { pattern: name, number: undefined };
  const pattern = `${name.slice(0, digits.index)}*${name.slice(digits.index + digits[0].length)}`;
  return { pattern, number: Number(digits[0]) };
}

function shownArray({ name, dtype, declared, shape }: NamedArray): string {
  const label = name === '' ? 'an array' : JSON.stringify(name.slice(0, 40));
  return `${label} ${declared ?? dtype} ${shapeText(shape)}`;
}

/** Refuses with the names of all arrays. */
function refuseOpen(arrays: readonly NamedArray[], path: string, why: string, option = ''): never {
  const shown = arrays.slice(0, MAX_SHOWN).map(shownArray);
  if (arrays.length > MAX_SHOWN) shown.push(`… ${arrays.length} in all`);
  const text = arrays.length === 0 ? 'it holds no arrays' : `${why}: ${shown.join(', ')}`;
  throw new FuscoError('E_FOREIGN', text, {
    path,
    hint: `Choose the ids ${option}with --array NAME; an asterisk in NAME stands for the number of a layer.`,
  });
}

function canBeIds(array: NamedArray): boolean {
  return isInteger(array) && array.shape.length >= 2 && array.shape.length <= MAX_AXES;
}

/** The arrays of ids: one, a pair of routed experts, or one per number. */
function chooseArrays(
  arrays: readonly NamedArray[],
  path: string,
  { array: wanted, multiHot }: ReadChoice,
): Member[] {
  const members = arrays.map((array) => ({ array, ...patternOf(array.name) }));
  if (wanted !== undefined) {
    const exact = members.filter(({ array }) => array.name === wanted);
    const named = exact.length > 0 ? exact : members.filter(({ pattern }) => pattern === wanted);
    return named.length > 0 ? named : refuseOpen(arrays, path, `no array is named ${JSON.stringify(wanted)}`);
  }
  if (arrays.length === 1) return members;
  const isMap = ({ array }: Member) => array.declared === 'bool' && array.shape.length >= 2;
  const ids = members.filter((member) => canBeIds(member.array) || (multiHot === true && isMap(member)));
  const routed = ids.filter(({ array }) => ROUTED_NAMES.includes(array.name));
  if (routed.length > 0) return routed.sort((a, b) => (a.array.name < b.array.name ? -1 : 1));
  const [first] = ids;
  if (first === undefined) return refuseOpen(arrays, path, 'none of its arrays can be ids [tokens, topk]');
  if (ids.some(({ pattern }) => pattern !== first.pattern)) {
    return refuseOpen(arrays, path, 'several of its arrays may be the ids');
  }
  return ids;
}

/** Throws E_OPTION for --layer or --step with an array that has neither. */
function refuseChoice(axes: readonly AxisName[], isSeries: boolean, path: string, choice: ReadChoice): void {
  const has = (name: AxisName) => axes.includes(name) || isSeries;
  const read = `the array was read as ${axes.join(', ')}`;
  const hint = (option: string, name: string) =>
    `Leave out ${option}, or say which axis counts ${name} with --axes.`;
  if (choice.layer !== undefined && !has('layers')) {
    const text = `--layer ${choice.layer}: ${read}, of one layer`;
    throw new FuscoError('E_OPTION', text, { path, hint: hint('--layer', 'layers') });
  }
  if (choice.step !== undefined && !has('steps') && !has('requests')) {
    const text = `--step ${choice.step}: ${read}, of one step`;
    throw new FuscoError('E_OPTION', text, { path, hint: hint('--step', 'steps') });
  }
}

/** Calls `onFound` of the choice with the numbers from the axes or the names of the arrays, if there are any. */
function onNumbered(
  axes: readonly AxisName[],
  isSeries: boolean,
  { onFound }: ReadChoice,
): ReadChoice['onFound'] {
  const holdsLayers = axes.includes('layers');
  const hasSteps = axes.includes('steps') || axes.includes('requests') || (isSeries && holdsLayers);
  const hasLayers = holdsLayers || isSeries;
  if (onFound === undefined || !(hasSteps || hasLayers)) return undefined;
  return (step, layer, joins) => onFound(hasSteps ? step : undefined, hasLayers ? layer : undefined, joins);
}

/**
 * The routing of a file of arrays.
 *
 * @throws FuscoError E_FOREIGN if the array of the ids is not clear or the choice cannot be met; E_ROUTING_SHAPE,
 *   E_ROUTING_DTYPE, E_OPTION
 */
export function readArrays(
  arrays: readonly NamedArray[],
  path: string,
  choice: ReadChoice,
  context: Omit<ArraysContext, 'path'>,
): Recorded {
  refuseOptions(choice, ['physicalIds'], 'arrays of ids', path);
  const members = chooseArrays(arrays, path, choice);
  const label = (name: string) => (name === '' ? path : `${path}/${name}`);
  const isRouted = members.every(({ array }) => ROUTED_NAMES.includes(array.name));
  const first = members[0]!;
  checkIds(first.array, label(first.array.name));
  const axes = axesOf(first.array.shape, choice, {
    path: label(first.array.name),
    hasLayers: context.hasLayers || isRouted,
    hasRanks: context.hasRanks,
    isStated: isRouted,
  });
  // One array of a series counts as one too: that of the layer in its name.
  const isSeries =
    !isRouted && first.number !== undefined && (members.length > 1 || choice.layer !== undefined);
  refuseChoice(axes, isSeries, label(first.array.name), choice);
  const stepName = axes.includes('steps') ? 'step' : 'request';
  const collector = new TraceCollector(
    path,
    { ...choice, onFound: onNumbered(axes, isSeries, choice) },
    {
      stepName,
      joinsSteps: stepName === 'request',
      statesRanks: axes.includes('ranks'),
    },
  );
  for (const { array, number = 0 } of members) {
    const { shape } = array;
    if (shape.length !== axes.length) {
      refuseOpen(arrays, path, `${JSON.stringify(array.name)} has ${shape.length} axes, not ${axes.length}`);
    }
    // For arrays with an axis of layers, the number is that of the request.
    const holdsLayers = axes.includes('layers');
    const place = {
      step: isSeries && holdsLayers ? number : 0,
      layer: isSeries && !holdsLayers ? number : 0,
    };
    addArray(collector, array.read(), axes, { ...place, where: '', path: label(array.name) });
  }
  if (isSeries && choice.layer === undefined && !axes.includes('layers')) {
    refuseOpen(arrays, path, 'several of its arrays are layers of ids', 'by their number with --layer, or ');
  }
  return collector.finish();
}
