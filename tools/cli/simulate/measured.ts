// `fusco simulate --measured`: the model next to what was measured.

import { loadPlanner } from '../../../planner/node.ts';
import { formatCount, formatGrid, percent } from '../../figures/format.ts';
import { compareMeasured, type MeasuredCell, type MeasuredResult } from '../../simulate/measured.ts';
import { print, printJson } from '../io.ts';

/** The cells as a table in Markdown, as docs/simulate.md has it. */
export function measuredTable({ cells }: MeasuredResult): string {
  const row = (values: readonly string[]) => `| ${values.join(' | ')} |`;
  const cell = ({ gpus, way, exchange, tokens, measuredMs, predictedMs, error }: MeasuredCell) =>
    row([
      `${gpus}`,
      way,
      exchange,
      formatCount(tokens),
      measuredMs.toFixed(2),
      predictedMs.toFixed(2),
      `${error < 0 ? '-' : '+'}${percent(Math.abs(error))}`,
    ]);
  const head = ['GPUs', 'exchange', '', 'tokens per GPU', 'measured, ms', 'model, ms', 'error'];
  const rule = ['---', '---', '---', '---:', '---:', '---:', '---:'];
  return [row(head), row(rule), ...cells.map(cell)].join('\n');
}

/** Prints the table, its errors, and the constants of least error. */
export async function simulateMeasured(args: { json?: boolean }): Promise<void> {
  const result = compareMeasured(await loadPlanner());
  if (args.json) {
    printJson({ model: true, ...result });
    return;
  }
  print(measuredTable(result));
  print(`\nerror: ${percent(result.median)} in the median, ${percent(result.largest)} at most`);
  for (const [name, constants] of Object.entries(result.fitted)) {
    print(`\nconstants of least error, ${name}`);
    print(formatGrid(Object.entries(constants).map(([key, value]) => [key, value!.toPrecision(3)])));
  }
}
