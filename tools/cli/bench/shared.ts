// Code that the bench commands share: declarations of their options, and printing and saving of results.

import { type Command, Option } from 'commander';
import { MAX_INSTANCES, MAX_ROW_BYTES, MAX_TOPK } from '../../../planner/format/layout.ts';
import type { StageFigures } from '../../bench/exchangeFigures.ts';
import { WORKLOADS } from '../../bench/ids.ts';
import type { Verdict } from '../../bench/measure.ts';
import { formatCount, formatGrid } from '../../figures/format.ts';
import { writeFileAtomic } from '../../writers/outputFile.ts';
import { command, jsonText, print, printJson } from '../io.ts';
import { choice, integer } from '../options.ts';

/** An option that takes an integer in [min, max]. */
export function count(flags: string, description: string, min: number, max: number, value?: number): Option {
  return new Option(flags, description).argParser(integer(min, max)).default(value);
}

/** An option that takes such integers, separated by commas. */
export function list(flags: string, description: string, max: number, values: number[]): Option {
  const parse = (text: string) => text.split(',').map(integer(1, max));
  return new Option(flags, description).argParser(parse).default(values);
}

export const topk = () => count('--topk <n>', 'experts per token', 1, MAX_TOPK, 8);
export const experts = () => count('--experts <n>', 'logical experts', 1, MAX_INSTANCES, 256);
export const rounds = (value: number) => count('--rounds <n>', 'repetitions', 1, 1000, value);
/** Rows that GPUs take in 16-byte accesses. */
export const hidden = () =>
  count('--hidden <n>', 'bf16 elements of a row, a multiple of 8', 8, MAX_ROW_BYTES / 2, 7168);
export const recordings = () =>
  new Option('--routing <dir>', 'directory of recorded routings to measure as well, one .npy file each');

export const workload = () =>
  choice('--workload <name>', 'routing: uniform, or that of the CollectiveX benchmark', WORKLOADS);
export const smLimit = () =>
  count('--sms <n>', 'maximum number of SMs of a GPU that exchanges may use; 0: the defaults', 0, 1 << 20, 0);

export interface Output {
  readonly json?: boolean | undefined;
  readonly out?: string | undefined;
}

/** The command with the options of Output. */
export function savable(made: Command): Command {
  return made
    .option('--out <file>', 'also write the figures to a JSON file')
    .option('--json', 'print one JSON object');
}

/** Prints a result with `show` or as JSON, and writes it to a file if requested. */
export async function save<R extends object>(
  result: R,
  { json, out }: Output,
  show: (result: R) => void,
): Promise<void> {
  if (out !== undefined) await writeFileAtomic(out, [Buffer.from(`${jsonText(result, 2)}\n`)]);
  if (json === true) printJson(result);
  else show(result);
}

/**
 * A bench command with these options.
 *
 * @param run undefined: this process has nothing to print
 * @param show prints the result without its verdicts, which --goals prints
 */
export function benchOf<Options extends object, R extends object>(
  name: string,
  description: string,
  options: readonly Option[],
  run: (options: Options) => Promise<R | undefined>,
  show: (result: R) => void,
): Command {
  const made = command(name, description);
  for (const option of options) made.addOption(option);
  made.option('--goals', 'also print which goals of this project the figures reach');
  return savable(made).action(
    async ({ json, out, goals, ...rest }: Options & Output & { goals?: boolean }) => {
      const result = await run(rest as unknown as Options);
      if (result === undefined) return;
      await save(result, { json, out }, (shown) => {
        show(shown);
        if (goals && 'verdicts' in shown) printVerdicts(shown.verdicts as readonly Verdict[]);
      });
    },
  );
}

function printVerdicts(verdicts: readonly Verdict[]): void {
  const rows = verdicts.map(({ name, value, goal, reached }) => [
    ...[name, value.toFixed(2), goal, reached ? 'yes' : 'NO'],
  ]);
  print(`\n${formatGrid([['goal', 'measured', 'asked', 'reached'], ...rows])}`);
}

/** Prints rows of cells under their titles; a number has `digits` decimal places, and nothing is a dash. */
export function printGrid(
  titles: readonly string[],
  rows: readonly (readonly (string | number | undefined)[])[],
  digits: number,
): void {
  const cell = (value: string | number | undefined) =>
    typeof value === 'number' ? value.toFixed(digits) : (value ?? '-');
  print(formatGrid([titles, ...rows.map((row) => row.map(cell))]));
}

/** A kind of exchange and its figures. */
export interface CaseShown {
  readonly name: string;
  readonly dispatch: StageFigures;
  readonly combine: StageFigures;
  readonly pairMs: number;
}

/** A row for each exchange of each case, and the pair periods. */
export function printCases(cases: readonly CaseShown[]): void {
  const percent = (share: number | undefined) =>
    share === undefined ? undefined : `${(100 * share).toFixed(0)} %`;
  const row = (name: string, one: StageFigures) => [
    ...[name, one.ms, one.chainedMs, one.linkMiB.toFixed(1)],
    ...[percent(one.linkShare), percent(one.memoryShare)],
    ...[one.toRanksGBs.toFixed(0), one.toSlotsGBs.toFixed(0), one.sms?.toFixed(0)],
  ];
  const ways = (['dispatch', 'combine'] as const).flatMap((stage) =>
    cases.map((one) => row(`${stage}, ${one.name}`, one[stage])),
  );
  const titles = ['ms', 'chained', 'link MiB', 'of link', 'of memory', 'GB/s to ranks', 'to slots', 'SMs'];
  printGrid(['', ...titles], ways, 3);
  print('');
  printGrid(
    ['dispatch and combine, chained', 'pair period ms'],
    cases.map(({ name, pairMs }) => [name, pairMs]),
    3,
  );
}

/** Milliseconds of planning and of rows in place, for benches with GPUs on one machine. */
export interface PlanningShown {
  readonly name: string;
  readonly tokens: number;
  readonly replayMs: number;
  readonly byPassMs: number;
  readonly hostMs: number;
  readonly rows: { readonly givenMs: number; readonly deviceMs: number; readonly hostMs: number };
}

export function printPlanning(stages: readonly PlanningShown[]): void {
  print('\nplanning of all ranks from ids on the device, and from those ids to rows in place; ms');
  printGrid(
    [
      ...['', 'tokens per rank', 'plan', 'kernel per pass', 'on the host'],
      ...['rows, plan given', 'made on device', 'on host'],
    ],
    stages.map(({ name, tokens, replayMs, byPassMs, hostMs, rows }) => [
      ...[name, formatCount(tokens), replayMs, byPassMs, hostMs],
      ...[rows.givenMs, rows.deviceMs, rows.hostMs],
    ]),
    3,
  );
}
