// A recording under several placements, as text.

import { formatBytes, formatCount, formatGrid, formatUs } from '../figures/format.ts';
import type { StepFigures, WhatIf } from './whatIf.ts';

/** Maximum number of steps in text; JSON and the report contain all. */
const MAX_STEPS = 40;

const stepCells = ({ rankMaxOverMean, intraNodeBytes, interNodeBytes, us }: StepFigures) => [
  ...[rankMaxOverMean.toFixed(3), formatBytes(intraNodeBytes), formatBytes(interNodeBytes), formatUs(us)],
];

const STEP_HEAD = ['busiest / mean', 'within nodes', 'between nodes', 'time'];

/** One line per step and placement. */
export function stepLines({ steps, placements }: WhatIf): string {
  const rows = steps
    .slice(0, MAX_STEPS)
    .flatMap((step, at) =>
      placements.map(({ name, steps: figures }) => [name, String(step), ...stepCells(figures[at]!)]),
    );
  const left = steps.length - MAX_STEPS;
  const more = left > 0 ? `\n… and ${formatCount(left)} more steps` : '';
  return `${formatGrid([['placement', 'step', ...STEP_HEAD], ...rows])}${more}`;
}

/** A header and one row per placement, over all steps. */
export function overallRows({ placements }: WhatIf): string[][] {
  const hasMove = placements.some(({ move }) => move !== undefined);
  const rows = placements.map(({ name, replicas, overall, move }) => {
    const cells = [name, String(replicas), ...stepCells(overall)];
    if (!hasMove) return cells;
    if (move === undefined) return [...cells, '-', '-', '-'];
    const { instances, bytes, us, breakEvenTokens } = move;
    const tokens = breakEvenTokens === null ? 'never' : formatCount(breakEvenTokens);
    return [...cells, `${instances} (${formatBytes(bytes)})`, formatUs(us), tokens];
  });
  const head = ['placement', 'replicas', 'worst busiest / mean', ...STEP_HEAD.slice(1)];
  if (hasMove) head.push('experts moved', 'moving takes', 'pays after tokens');
  return [head, ...rows];
}

export function overallLines(found: WhatIf): string {
  return formatGrid(overallRows(found));
}
