// The result of `fusco simulate RECORDING --placement … --json` as a file that the viewer opens.

import {
  type Check,
  hasFields,
  isCount,
  isListOf,
  isNumber,
  isOneOf,
  isOptional,
  isText,
} from '../../executor/fields.ts';
import { FuscoError } from '../../planner/errors.ts';
import { jsonOf } from '../readers/json.ts';
import type { NamedBytes } from '../readers/numpyRouting.ts';
import type { Move, PlacementFigures, StepFigures, WhatIf } from '../simulate/whatIf.ts';

/** Maximum number of steps; a chart could not show more. */
const MAX_STEPS = 100_000;
const MAX_PLACEMENTS = 64;

const isFigure: Check<number> = (value): value is number => isNumber(value) && value >= 0;

const isStep: Check<StepFigures> = hasFields({
  ...{ rankMaxOverMean: isFigure, intraNodeBytes: isFigure, interNodeBytes: isFigure, us: isFigure },
});

const isTokens: Check<number | null> = (value): value is number | null =>
  isCount(value) || isOneOf([null])(value);

const isMove: Check<Move> = hasFields({
  ...{ instances: isCount, bytes: isFigure, us: isFigure, breakEvenTokens: isTokens },
});

const isPlacement = hasFields({
  ...{ name: isText(4096), replicas: isCount, steps: isListOf(isStep, MAX_STEPS), overall: isStep },
  move: isOptional(isMove),
}) as Check<PlacementFigures>;

const isWhatIf: Check<WhatIf> = hasFields({
  steps: isListOf(isCount, MAX_STEPS),
  tokens: isListOf(isCount, MAX_STEPS),
  placements: isListOf(isPlacement, MAX_PLACEMENTS),
});

/** Whether a file starts like a JSON object, which no routing and no plan does. */
export function isJsonFile({ bytes }: NamedBytes): boolean {
  return /^\s*\{/.test(new TextDecoder('latin1').decode(bytes.subarray(0, 64)));
}

/** The value of a JSON file. Throws E_FORMAT. */
export function parseJsonBytes({ name, bytes }: NamedBytes): unknown {
  return jsonOf(new TextDecoder().decode(bytes), name);
}

/** The steps under each placement. Throws E_FORMAT for any other JSON. */
export function parseWhatIf(file: NamedBytes): WhatIf {
  const refuse = (): never => {
    const text =
      'it is neither the output of `fusco simulate RECORDING --placement A,B --json` nor that of `fusco run --json`';
    throw new FuscoError('E_FORMAT', text, { path: file.name });
  };
  const value = parseJsonBytes(file);
  if (!isWhatIf(value) || value.placements.length === 0) return refuse();
  const { steps, placements } = value;
  return placements.every((placement) => placement.steps.length === steps.length) ? value : refuse();
}
