import type { Command } from 'commander';
import { type Comparison, compareTimes, readTimes } from '../../bench/compare.ts';
import { ComparisonFailed, command, print } from '../io.ts';
import { type Output, printGrid, savable, save } from './shared.ts';

function show({ figures, worse, onlyOld, onlyNew }: Comparison): void {
  printGrid(
    ['ms, medians', 'runs', 'old', 'least', 'most', 'new', 'new / old', ''],
    figures.map(({ name, old, new: now, ratio, worse }) => [
      ...[name, `${old.runs}, ${now.runs}`, old.median, old.least, old.most, now.median, ratio],
      worse ? 'WORSE' : '',
    ]),
    3,
  );
  for (const name of onlyOld) print(`only the old build has ${name}`);
  for (const name of onlyNew) print(`only the new build has ${name}`);
  print(`\n${worse} of ${figures.length} times are more than 2 % and beyond the old build's spread slower`);
}

export function compareBenchCommand(): Command {
  return savable(
    command(
      'compare',
      'Compare saved results of two builds: folders of BENCH-RUN.json files, as --out writes them.',
    )
      .argument('<old>', 'results of the old build')
      .argument('<new>', 'results of the new build'),
  ).action(async (old: string, now: string, output: Output) => {
    const result = compareTimes(await readTimes(old), await readTimes(now));
    await save(result, output, show);
    if (result.worse > 0) throw new ComparisonFailed();
  });
}
