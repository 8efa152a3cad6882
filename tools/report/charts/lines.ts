// Lines over common steps: one series per placement.

import { html, type Markup, table } from '../markup.ts';
import { at, axis, figure, mark, tickStep, valueAxis } from './frame.ts';

export interface Series {
  readonly name: string;
  /** One value per step. */
  readonly values: readonly number[];
}

export interface Lines {
  readonly title: string;
  readonly series: readonly Series[];
  /** What a position on the x axis is, in full: "step 17". */
  readonly names: readonly string[];
  readonly ticks: readonly string[];
  readonly xTitle: string;
  readonly yTitle: string;
  readonly format: (value: number) => string;
  readonly width: number;
}

const HEIGHT = 240;
const MARGIN = { top: 26, right: 14, bottom: 42, left: 72 };
/** Colors and dashes of the style sheet; further series repeat them. */
const KINDS = 6;

function legend(series: readonly Series[]): Markup {
  return html`<ul class="legend">${series.map(
    ({ name }, i) => html`<li><span class="key series-${i % KINDS}"></span>${name}</li>`,
  )}</ul>`;
}

/** A chart of lines with a mark at each value; marks of one series follow one another. */
export function lineChart({ title, series, names, ticks, xTitle, yTitle, format, width }: Lines): Markup {
  const most = Math.max(0, ...series.flatMap(({ values }) => values));
  const y = axis(most, HEIGHT - MARGIN.bottom, MARGIN.top, 4);
  const inner = width - MARGIN.left - MARGIN.right;
  const x = (i: number) => MARGIN.left + (names.length < 2 ? inner / 2 : (i * inner) / (names.length - 1));
  const drawn = series.map(({ name, values }, kind) => {
    const points = values.map((value, i) => `${at(x(i))},${at(y.scale(value))}`).join(' ');
    const marks = values.map(
      (value, i) =>
        html`<circle class="mark dot series-${kind % KINDS}" cx="${at(x(i))}" cy="${at(y.scale(value))}" r="4" ${mark(`${names[i]!}, ${name}: ${format(value)}`, kind === 0 && i === 0)}/>`,
    );
    return html`<polyline class="line series-${kind % KINDS}" points="${points}"/>${marks}`;
  });
  const step = tickStep(names.length, inner / 42);
  const labels = ticks.map((tick, i) =>
    i % step === 0
      ? html`<text class="tick middle" x="${at(x(i))}" y="${HEIGHT - MARGIN.bottom + 15}">${tick}</text>`
      : html``,
  );
  const body = html`${valueAxis(y, MARGIN.left, width - MARGIN.right, format)}${drawn}${labels}<text class="axis-title" x="0" y="14">${yTitle}</text><text class="axis-title middle" x="${at(MARGIN.left + inner / 2)}" y="${HEIGHT - 6}">${xTitle}</text>`;
  const rows = names.map((name, i) => [name, ...series.map(({ values }) => format(values[i]!))]);
  const numbers = table([xTitle, ...series.map(({ name }) => name)], rows);
  const chart = figure({ label: title, width, height: HEIGHT, body, columns: names.length, table: numbers });
  return html`${legend(series)}${chart}`;
}
