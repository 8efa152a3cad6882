// The panels of a recording under several placements, for the report and for the viewer.

import { formatBytes, times } from '../figures/format.ts';
import type { StepFigures, WhatIf } from '../simulate/whatIf.ts';
import { overallRows } from '../simulate/whatIfText.ts';
import { WIDE } from './charts/frame.ts';
import { formatUs } from './charts/gantt.ts';
import { lineChart } from './charts/lines.ts';
import { html, type Markup, table } from './markup.ts';
import type { Panel } from './panels.ts';

function chartOf(
  found: WhatIf,
  key: keyof StepFigures,
  yTitle: string,
  format: (value: number) => string,
): Markup {
  return lineChart({
    title: `${yTitle}, step by step`,
    series: found.placements.map(({ name, steps }) => ({ name, values: steps.map((step) => step[key]) })),
    names: found.steps.map((step) => `step ${step}`),
    ticks: found.steps.map(String),
    xTitle: 'step',
    yTitle,
    format,
    width: WIDE,
  });
}

export function whatIfPanels(found: WhatIf): Panel[] {
  const [head, ...rows] = overallRows(found);
  const panel = (id: string, title: string, text: string, cell: Markup): Panel => ({
    ...{ id, title, text, isWide: true, cells: [cell] },
  });
  return [
    panel(
      'overall',
      'All steps together',
      'Bytes of one dispatch per step, predicted time of one dispatch and one combine per step. Changing from the first placement pays off once the exchanges have saved the time that moving the weights takes.',
      html`<div class="scroll">${table(head!, rows)}</div>`,
    ),
    panel(
      'imbalance',
      'Busiest rank relative to the mean',
      'Rows of the busiest rank divided by the mean of all ranks. The experts of a step take as long as those of its busiest rank.',
      chartOf(found, 'rankMaxOverMean', 'busiest / mean', times),
    ),
    panel(
      'between-nodes',
      'Bytes between nodes',
      'Payload bytes that cross between nodes in one dispatch.',
      chartOf(found, 'interNodeBytes', 'bytes', formatBytes),
    ),
    panel(
      'time',
      'Predicted time',
      'One dispatch and one combine, by the cost model: a prediction, not a measurement.',
      chartOf(found, 'us', 'time', formatUs),
    ),
  ];
}
