// Parts that all charts share: a frame with axes, focusable marks with one sentence each, and the table of the numbers.
//
// Colors are classes, not values, so that one drawing serves a light and a dark page; see style.css.

import { scaleLinear } from 'd3-scale';
import { html, type Markup } from '../markup.ts';

/** Width in units of the drawing of a chart in one column, and of one that takes the whole page. */
export const NARROW = 460;
export const WIDE = 960;

export interface Chart {
  /** Names the chart to a screen reader. */
  readonly label: string;
  readonly width: number;
  readonly height: number;
  readonly body: Markup;
  /** Marks in a row, where arrow keys also move up and down. */
  readonly columns?: number;
  /** The marks can be put into the order of their values. */
  readonly isSortable?: boolean;
  readonly table: Markup;
}

const ZOOM = html`<button type="button" data-tool="zoom-in">Zoom in</button><button type="button" data-tool="zoom-out" disabled>Zoom out</button>`;
const SORT = html`<button type="button" data-tool="sort" aria-pressed="false">Sort by value</button>`;
const SAVE = html`<span class="save-as">Save as ${['csv', 'svg', 'png'].map((kind) => html`<button type="button" data-tool="${kind}" aria-label="Save as ${kind.toUpperCase()}">${kind.toUpperCase()}</button>`)}</span>`;

/** A chart with the line that repeats the mark in focus, and its table. */
export function figure({ label, width, height, body, columns, isSortable, table }: Chart): Markup {
  const grid = columns === undefined ? html`` : html` data-columns="${columns}"`;
  const size = width > NARROW ? 'wide' : 'narrow';
  return html`<figure class="chart"${grid}><div class="plot ${size}"><svg viewBox="0 0 ${width} ${height}" role="group" aria-label="${label}">${body}</svg></div>
<output class="readout" aria-live="polite"></output>
<div class="tools">${isSortable ? SORT : html``}${ZOOM}${SAVE}</div>
<details><summary>As a table</summary><div class="scroll">${table}</div></details></figure>`;
}

/** Attributes of a mark that can be focused: Tab reaches the first of a chart, arrow keys the others. */
export function mark(label: string, isFirst: boolean): Markup {
  return html`tabindex="${isFirst ? 0 : -1}" role="img" aria-label="${label}"`;
}

/** A number as a coordinate: two decimals are finer than a screen can show. */
export function at(value: number): string {
  return String(Math.round(value * 100) / 100);
}

export interface Axis {
  readonly scale: (value: number) => number;
  readonly ticks: readonly number[];
}

/** A linear axis from 0 to at least `max`, ending at a round number. */
export function axis(max: number, from: number, to: number, count: number): Axis {
  const scale = scaleLinear()
    .domain([0, max > 0 ? max : 1])
    .range([from, to])
    .nice(count);
  return { scale, ticks: scale.ticks(count) };
}

/** Horizontal grid lines with their values left of them. */
export function valueAxis(
  { scale, ticks }: Axis,
  left: number,
  right: number,
  format: (value: number) => string,
): Markup {
  return html`${ticks.map((tick) => {
    const y = at(scale(tick));
    return html`<line class="grid" x1="${left}" x2="${right}" y1="${y}" y2="${y}"/><text class="tick end" x="${left - 6}" y="${y}" dy="0.32em">${format(tick)}</text>`;
  })}`;
}

/** Every n-th of `count` labels, so that at most `most` are drawn; n is round. */
export function tickStep(count: number, most: number): number {
  const steps = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
  return steps.find((step) => count / step <= most) ?? count;
}
