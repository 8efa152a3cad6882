// Parts of the page in addition to the panels of the report: differences of two plans, details of a mark, and a recording
// over time.

import type { RecordedFigures } from '../../figures/recorded.ts';
import { barChart } from '../../report/charts/bars.ts';
import { WIDE } from '../../report/charts/frame.ts';
import { formatUs } from '../../report/charts/gantt.ts';
import { html, type Markup, table } from '../../report/markup.ts';
import type { Detail, Difference, ViewOptions } from '../protocol.ts';

/** Options that differ, with their values in A and in B. */
function optionRows(a: ViewOptions, b: ViewOptions): string[][] {
  const show = (value: unknown) => (typeof value === 'object' ? 'an explicit map' : String(value));
  const names = Object.keys(a) as (keyof ViewOptions)[];
  return names
    .filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]))
    .map((name) => [`option ${name}`, show(a[name]), show(b[name]), 'changed']);
}

/** Plan B compared with plan A: one sentence, options and figures that differ, and the causes. */
export function differenceMarkup(
  { headline, causes, figures }: Difference,
  a: ViewOptions,
  b: ViewOptions,
): Markup {
  const rows = [...optionRows(a, b), ...figures.map((row) => [...row])];
  const body =
    rows.length === 0
      ? html`<p class="empty">Both plans are the same.</p>`
      : html`<div class="scroll">${table(['what', 'plan A', 'plan B', 'change'], rows)}</div>`;
  const list = html`<ul>${causes.map((line) => html`<li>${line}</li>`)}</ul>`;
  return html`<section class="panel wide" id="panel-differences"><h2>What is different</h2><p class="lede">From plan A to plan B.</p><p class="advice">${headline}</p>${body}<details><summary>Causes and moved tokens</summary>${list}</details></section>`;
}

export function detailMarkup({ title, lines }: Detail): Markup {
  return html`<h4>${title}</h4><ul>${lines.map((line) => html`<li>${line}</li>`)}</ul>`;
}

function nameOf({ step, layer }: RecordedFigures, index: number): string {
  const parts = [step === undefined ? '' : `step ${step}`, layer === undefined ? '' : `layer ${layer}`];
  return parts.filter((part) => part !== '').join(', ') || `routing ${index}`;
}

/** A recording over time: imbalance and predicted time of each routing. A bar opens its routing. */
export function recordingMarkup(all: readonly RecordedFigures[]): Markup {
  const names = all.map(nameOf);
  const chart = (
    title: string,
    yTitle: string,
    values: readonly number[],
    format: (value: number) => string,
    note?: (value: number) => string,
  ) =>
    barChart({
      ...{ title, yTitle, values, names, format, width: WIDE, subject: 'routing', hasPeak: true },
      ...(note && { note }),
      ticks: all.map(({ step, layer }, i) => String(layer ?? step ?? i)),
      xTitle: 'routing, by step and layer',
      max: Math.max(...values),
    });
  const us = all.map((each) => each.us);
  const total = us.reduce((sum, value) => sum + value, 0);
  const best = all.reduce((sum, { bestUs }) => sum + bestUs, 0);
  const mean = all.reduce((sum, { rankMaxOverMean }) => sum + rankMaxOverMean, 0) / all.length;
  return html`<h2>The recording</h2><p class="lede">${all.length} routings. Choose a bar to open its routing as plan A.</p><p class="advice">The busiest rank has ${mean.toFixed(2)} × the mean on average; all exchanges are predicted to take ${formatUs(total)}, and ${formatUs(best)} along the fastest plan of each.</p>${chart(
    'Imbalance of each routing',
    'busiest rank / mean',
    all.map(({ rankMaxOverMean }) => rankMaxOverMean),
    (value) => `${value.toFixed(3)} ×`,
  )}${chart('Predicted dispatch and combine of each routing', 'µs', us, formatUs)}`;
}
