// All routings of a recording, or those of some steps and layers, one after the other.

import { readRecordedTables, readRecording } from '../../executor/training/recorder.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { type RoutingChoice, readAnyRouting } from './anyRouting.ts';
import type { Range } from './choice.ts';
import { isRecording } from './steps.ts';

/** Which routings of a recording to read; without a range, all of them. */
export interface RecordingChoice extends Omit<RoutingChoice, 'layer' | 'step'> {
  readonly steps?: Range | undefined;
  readonly layers?: Range | undefined;
}

/** One routing of a recording; `step` and `layer` are missing if the file does not number them. */
export interface RecordedRouting {
  readonly step?: number;
  readonly layer?: number;
  readonly tables: readonly RoutingTable[];
}

function isIn(range: Range | undefined, value: number | undefined): boolean {
  return range === undefined || (value !== undefined && value >= range.first && value <= range.last);
}

interface Held {
  readonly step?: number;
  readonly layer?: number;
}

function heldAt(step: number | undefined, layer: number | undefined): Held {
  return { ...(step === undefined ? {} : { step }), ...(layer === undefined ? {} : { layer }) };
}

function compareHeld(a: Held, b: Held): number {
  return (a.step ?? 0) - (b.step ?? 0) || (a.layer ?? 0) - (b.layer ?? 0);
}

interface Holding {
  readonly held: readonly Held[];
  /** Its steps are requests of one batch. */
  readonly joins: boolean;
  /** The routing, if there is only one. */
  readonly tables: RoutingTable[] | undefined;
}

/**
 * The routings of a recording, in the order of steps and layers; empty for a file of one routing without numbers.
 */
async function heldIn(path: string, choice: RecordingChoice): Promise<Holding> {
  const found = new Map<string, Held>();
  let joins = false;
  let tables: RoutingTable[] | undefined;
  const { steps: _, layers: __, ...what } = choice;
  const onFound: RoutingChoice['onFound'] = (step, layer, joinsSteps) => {
    found.set(`${step} ${layer}`, heldAt(step, layer));
    joins = joinsSteps;
  };
  try {
    tables = await readAnyRouting(path, { ...what, onFound });
  } catch (error) {
    // There are several steps or layers, and none was chosen; by then they have been reported.
    if (!(error instanceof FuscoError) || error.code !== 'E_FOREIGN' || found.size < 2) throw error;
  }
  return { held: [...found.values()].sort(compareHeld), joins, tables };
}

function refuseEmpty(path: string): never {
  throw new FuscoError('E_FOREIGN', 'it contains no routing in these steps and layers', { path });
}

/**
 * Reads the routings of a recording of another program, of `group.record`, or the one of a file of NumPy's.
 *
 * @throws FuscoError what readAnyRouting throws, and E_FOREIGN if the ranges contain nothing
 */
export async function* readRoutings(path: string, choice: RecordingChoice): AsyncGenerator<RecordedRouting> {
  const { steps, layers, ...rest } = choice;
  if (isRecording(path)) {
    const recorded = (await readRecording(path)).filter(({ step }) => isIn(steps, step));
    if (recorded.length === 0) refuseEmpty(path);
    for (const each of recorded) yield { step: each.step, tables: await readRecordedTables(path, each) };
    return;
  }
  const { held, joins, tables } = await heldIn(path, choice);
  if (held.length === 0) {
    if (steps !== undefined || layers !== undefined)
      throw new FuscoError('E_OPTION', 'this file holds one layer and one step, without numbers', { path });
    yield { tables: tables! };
    return;
  }
  const wanted = held.filter(({ step, layer }) => isIn(steps, step) && isIn(layers, layer));
  if (wanted.length === 0) refuseEmpty(path);
  const isBatch = joins && steps === undefined;
  const numbers: readonly Held[] = isBatch
    ? [...new Set(wanted.map(({ layer }) => layer))].map((layer) => heldAt(undefined, layer))
    : wanted;
  for (const number of numbers) {
    yield { ...number, tables: await readAnyRouting(path, { ...rest, ...number }) };
  }
}
