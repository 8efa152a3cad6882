// A recording over steps and layers: a bar for each routing, for the report and for the viewer.

import { largest, sum } from '../../planner/totals.ts';
import { times } from '../figures/format.ts';
import type { RecordedFigures } from '../figures/recorded.ts';
import { barChart } from './charts/bars.ts';
import { WIDE } from './charts/frame.ts';
import { formatUs } from './charts/gantt.ts';
import { html, type Markup } from './markup.ts';
import type { Panel } from './panels.ts';

function nameOf({ step, layer }: RecordedFigures, index: number): string {
  const parts = [step === undefined ? '' : `step ${step}`, layer === undefined ? '' : `layer ${layer}`];
  return parts.filter((part) => part !== '').join(', ') || `routing ${index}`;
}

/** All routings in one sentence: the imbalance, the worst routing, and the predicted times. */
export function recordingSummary(all: readonly RecordedFigures[]): Markup {
  const loads = all.map(({ rankMaxOverMean }) => rankMaxOverMean);
  const worst = loads.indexOf(largest(loads));
  const [us, best] = [sum(all.map((each) => each.us)), sum(all.map(({ bestUs }) => bestUs))];
  const mean = sum(loads) / loads.length;
  return html`<p class="advice">The busiest rank has ${times(mean)} the mean on average, and ${times(loads[worst]!)} at most (${nameOf(all[worst]!, worst)}); all exchanges are predicted to take ${formatUs(us)}, and ${formatUs(best)} along the fastest plan of each.</p>`;
}

/** Imbalance, predicted time and memory of each routing. */
export function recordingPanels(all: readonly RecordedFigures[]): Panel[] {
  const panel = (
    id: string,
    title: string,
    text: string,
    [yTitle, values, format]: readonly [string, readonly number[], (value: number) => string],
  ): Panel => {
    const chart = barChart({
      ...{ title, yTitle, values, format, width: WIDE, subject: 'routing', hasPeak: true },
      names: all.map(nameOf),
      ticks: all.map(tickOf),
      xTitle,
      max: largest(values),
    });
    return { id, title, text, isWide: true, cells: [chart] };
  };
  const hasSteps = new Set(all.map(({ step }) => step)).size > 1;
  const hasLayers = new Set(all.map(({ layer }) => layer)).size > 1;
  const xTitle = hasSteps && hasLayers ? 'step / layer' : hasLayers ? 'layer' : 'step';
  const tickOf = ({ step, layer }: RecordedFigures, i: number) =>
    hasSteps && hasLayers ? `${step}/${layer}` : String((hasLayers ? layer : step) ?? i);
  const ratio = (value: number) => `${value.toFixed(3)} ×`;
  return [
    panel(
      'rank-imbalance',
      'Busiest rank of each routing',
      'Rows of the busiest rank divided by the mean. Its experts take the longest, and all other ranks wait.',
      ['busiest / mean', all.map(({ rankMaxOverMean }) => rankMaxOverMean), ratio],
    ),
    panel(
      'expert-imbalance',
      'Busiest expert of each routing',
      'Rows of the busiest expert divided by the mean: what a placement or replicas can change.',
      ['busiest / mean', all.map(({ expertMaxOverMean }) => expertMaxOverMean), ratio],
    ),
    panel(
      'predicted',
      'Predicted dispatch and combine of each routing',
      'From the cost model, with the plan as it is: a prediction, not a measurement.',
      ['µs', all.map((each) => each.us), formatUs],
    ),
    panel(
      'fullest-rank',
      'Memory of the fullest rank of each routing',
      'Weights of the experts, if their sizes are known, and the buffers of one layer.',
      ['GB', all.map(({ memoryBytes }) => memoryBytes / 1e9), (value) => `${value.toFixed(2)} GB`],
    ),
  ];
}
