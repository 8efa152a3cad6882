// The routings of a recording, or those of some of its steps and layers. `Recorder` or another program wrote it.

import { rankIndex } from '../../executor/training/rankRecording.ts';
import { readRecordedTables, readRecording } from '../../executor/training/recorder.ts';
import { FuscoError } from '../../planner/errors.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { type RoutingChoice, readAnyRouting } from './anyRouting.ts';
import type { Range } from './choice.ts';
import { openSource } from './source.ts';

/** The index of a recording that `Recorder` wrote: of one process, or of the first rank of several. */
const INDEXES = ['index.jsonl', rankIndex(0)];

/** Which routings of a recording to read; without a range, all of them. */
export interface RecordingChoice extends Omit<RoutingChoice, 'layer' | 'step'> {
  readonly steps?: Range | undefined;
  readonly layers?: Range | undefined;
}

/** Where a routing is in its recording; a number is missing if the file does not state it. */
export interface RecordedNumber {
  readonly step?: number;
  readonly layer?: number;
}

/** One routing of a recording. */
export interface ListedRouting extends RecordedNumber {
  /** How it was planned, if that is recorded. */
  readonly options?: PlanOptions;
  /** Reads the tables, one per rank. Throws what readRecordedTables or readAnyRouting throws. */
  readonly tables: () => Promise<readonly RoutingTable[]>;
}

/** One routing of a recording, read. */
export interface RecordedRouting extends RecordedNumber {
  readonly tables: readonly RoutingTable[];
}

function isIn(range: Range | undefined, value: number | undefined): boolean {
  return range === undefined || (value !== undefined && value >= range.first && value <= range.last);
}

/** The one number of a range; undefined if there are several. */
function onlyOf(range: Range | undefined): number | undefined {
  return range?.first === range?.last ? range?.first : undefined;
}

/** The numbers that are known. */
export function numberOf({
  step,
  layer,
}: {
  readonly step?: number | undefined;
  readonly layer?: number | undefined;
}): RecordedNumber {
  return { ...(step === undefined ? {} : { step }), ...(layer === undefined ? {} : { layer }) };
}

function compareNumbers(a: RecordedNumber, b: RecordedNumber): number {
  return (a.step ?? 0) - (b.step ?? 0) || (a.layer ?? 0) - (b.layer ?? 0);
}

interface Holding {
  readonly held: readonly RecordedNumber[];
  /** Its steps are requests of one batch. */
  readonly joins: boolean;
  /** The routing, if there is only one. */
  readonly tables: RoutingTable[] | undefined;
}

/**
 * The routings of a recording, in the order of steps and layers; empty for a file of one routing without numbers.
 */
async function heldIn(path: string, choice: RecordingChoice): Promise<Holding> {
  const found = new Map<string, RecordedNumber>();
  let joins = false;
  let tables: RoutingTable[] | undefined;
  const { steps, layers, ...what } = choice;
  const onFound: RoutingChoice['onFound'] = (step, layer, joinsSteps) => {
    found.set(`${step} ${layer}`, numberOf({ step, layer }));
    joins = joinsSteps;
  };
  try {
    tables = await readAnyRouting(path, { ...what, step: onlyOf(steps), layer: onlyOf(layers), onFound });
  } catch (error) {
    // There are several steps or layers, and none was chosen; by then they have been reported.
    if (!(error instanceof FuscoError) || error.code !== 'E_FOREIGN' || found.size < 2) throw error;
  }
  return { held: [...found.values()].sort(compareNumbers), joins, tables };
}

function refuseEmpty(path: string): never {
  throw new FuscoError('E_FOREIGN', 'it contains no routing in these steps and layers', { path });
}

/** Whether a path is a directory that `Recorder` wrote. Throws E_FILE_NOT_FOUND, E_FILE_READ. */
function isRecording(path: string): boolean {
  using source = openSource(path);
  return source.kind === 'directory' && INDEXES.some((name) => source.names.includes(name));
}

async function listRecorded(path: string, steps: Range | undefined): Promise<ListedRouting[]> {
  const recorded = (await readRecording(path)).filter(({ step }) => isIn(steps, step));
  if (recorded.length === 0) refuseEmpty(path);
  return recorded.map((each) => ({
    ...{ step: each.step, options: each.options },
    tables: () => readRecordedTables(path, each),
  }));
}

/**
 * The routings of a recording of another program or of `group.record`, in the order of steps and layers; for a file of
 * one routing, that one. Tables are read each time they are requested.
 *
 * @throws FuscoError what readRecording and readAnyRouting throw, and E_FOREIGN if the ranges contain nothing
 */
export async function listRoutings(path: string, choice: RecordingChoice = {}): Promise<ListedRouting[]> {
  const { steps, layers, ...rest } = choice;
  if (isRecording(path)) return listRecorded(path, steps);
  const { held, joins, tables } = await heldIn(path, choice);
  if (held.length === 0) {
    if (steps !== undefined || layers !== undefined)
      throw new FuscoError('E_OPTION', 'this file contains one layer and one step, without numbers', {
        path,
      });
    return [{ tables: async () => tables! }];
  }
  const wanted = held.filter(({ step, layer }) => isIn(steps, step) && isIn(layers, layer));
  if (wanted.length === 0) refuseEmpty(path);
  const isBatch = joins && steps === undefined;
  const numbers: readonly RecordedNumber[] = isBatch
    ? [...new Set(wanted.map(({ layer }) => layer))].map((layer) => numberOf({ layer }))
    : wanted;
  return numbers.map((number) => ({
    ...number,
    tables: () => readAnyRouting(path, { ...rest, ...number }),
  }));
}

/** The routings of listRoutings, read one after the other. Throws what listRoutings throws. */
export async function* readRoutings(path: string, choice: RecordingChoice): AsyncGenerator<RecordedRouting> {
  for (const listed of await listRoutings(path, choice))
    yield { ...numberOf(listed), tables: await listed.tables() };
}
