// Parts of the page in addition to the panels of the report: differences of two plans, details of a mark, and a recording
// over time.

import { formatCount } from '../../figures/format.ts';
import type { RecordedFigures } from '../../figures/recorded.ts';
import { html, type Markup, table } from '../../report/markup.ts';
import { recordingPanels, recordingSummary } from '../../report/recordingPanels.ts';
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

/** A recording over time; a bar opens its routing. */
export function recordingMarkup(all: readonly RecordedFigures[]): Markup {
  const charts = recordingPanels(all).map(({ title, cells }) => html`<h3>${title}</h3>${cells}`);
  return html`<h2>The recording</h2><p class="lede">${formatCount(all.length)} routings. Choose a bar to open its routing as plan A.</p>${recordingSummary(all)}${charts}`;
}
