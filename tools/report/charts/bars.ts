// Bars over a common base: loads, histograms, segment lengths.

import { count } from '../../figures/format.ts';
import { html, type Markup, NOTHING, table } from '../markup.ts';
import { at, axis, figure, mark, tickStep, valueAxis } from './frame.ts';

export interface Bars {
  readonly title: string;
  readonly values: readonly number[];
  /** The full name of a bar: "expert 17". */
  readonly names: readonly string[];
  /** The label below a bar. */
  readonly ticks: readonly string[];
  readonly xTitle: string;
  readonly yTitle: string;
  readonly format: (value: number) => string;
  /** Text to append to the value: ", 12 % of all tokens". */
  readonly note?: (value: number) => string;
  /** A line at this value, called the mean. */
  readonly mean?: number;
  /** Largest value of the axis, so that two charts can be compared. */
  readonly max: number;
  readonly width: number;
  /** Marks the largest bar. */
  readonly hasPeak?: boolean;
  /** What a bar represents, so that a page can show details: `expert` or `rank`. */
  readonly subject?: string;
}

const HEIGHT = 220;
const MARGIN = { top: 26, right: 10, bottom: 42, left: 54 };
/** More bars than this share one: its height is the largest of them. */
const MAX_BARS = 512;

interface Bar {
  readonly value: number;
  readonly name: string;
  readonly index: number;
}

/** One bar per value, or one per group of values, which shows the largest of them. */
function group({ values, names }: Bars): Bar[] {
  const size = Math.ceil(values.length / MAX_BARS);
  const bars: Bar[] = [];
  for (let first = 0; first < values.length; first += size) {
    let index = first;
    for (let i = first; i < Math.min(first + size, values.length); i++)
      if (values[i]! > values[index]!) index = i;
    bars.push({ value: values[index]!, name: names[index]!, index });
  }
  return bars;
}

function tickLabels(chart: Bars, bars: readonly Bar[], center: (i: number) => number): Markup {
  const { ticks, width } = chart;
  const step = tickStep(bars.length, width / 42);
  const shown = bars.map((bar, i) => ({ bar, i })).filter(({ i }) => i % step === 0);
  return html`${shown.map(
    ({ bar, i }) =>
      html`<text class="tick middle of-bar" x="${at(center(i))}" y="${HEIGHT - MARGIN.bottom + 15}">${ticks[bar.index]!}</text>`,
  )}`;
}

function meanLine(mean: number, y: number, width: number, format: (value: number) => string): Markup {
  return html`<line class="mean" x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${at(y)}" y2="${at(y)}"/><text class="mean-label end" x="${width - MARGIN.right}" y="14">dashed line: mean ${format(mean)}</text>`;
}

/** A bar chart; every bar has its name and its value as text. */
export function barChart(chart: Bars): Markup {
  const { title, values, names, format, note, width, max, mean, xTitle, yTitle } = chart;
  const bars = group(chart);
  const y = axis(max, HEIGHT - MARGIN.bottom, MARGIN.top, 4);
  const step = (width - MARGIN.left - MARGIN.right) / Math.max(1, bars.length);
  const gap = step > 6 ? Math.min(6, step * 0.18) : step > 2.5 ? 0.6 : 0;
  const left = (i: number) => MARGIN.left + i * step;
  const base = y.scale(0);
  const tallest = bars.reduce((most, bar, i) => (bar.value > bars[most]!.value ? i : most), 0);
  const text = (value: number) => `${format(value)}${note?.(value) ?? ''}`;
  const drawn = bars.map(({ value, name, index }, i) => {
    const top = y.scale(value);
    const kind = chart.hasPeak && i === tallest && value > 0 ? 'hot' : 'load';
    // The whole column reacts to the pointer, so that short bars can be selected.
    const about = chart.subject === undefined ? NOTHING : html`data-${chart.subject}="${index}" `;
    return html`<g class="mark" ${about}data-value="${value}" ${mark(`${name}: ${text(value)}`, i === 0)}><rect class="hit" x="${at(left(i))}" width="${at(step)}" y="${MARGIN.top}" height="${base - MARGIN.top}"/><rect class="${kind}" x="${at(left(i) + gap / 2)}" width="${at(Math.min(step - gap, 64))}" y="${at(top)}" height="${at(base - top)}"/></g>`;
  });
  const center = (i: number) => left(i) + gap / 2 + Math.min(step - gap, 64) / 2;
  const body = html`${valueAxis(y, MARGIN.left, width - MARGIN.right, count)}${drawn}${
    mean === undefined ? NOTHING : meanLine(mean, y.scale(mean), width, format)
  }${tickLabels(chart, bars, center)}<text class="axis-title" x="0" y="14">${yTitle}</text><text class="axis-title middle" x="${at((MARGIN.left + width - MARGIN.right) / 2)}" y="${HEIGHT - 6}">${xTitle}</text>`;
  const rows = values.map((value, i) => [names[i]!, text(value)]);
  return figure({
    label: title,
    width,
    height: HEIGHT,
    body,
    isSortable: chart.subject !== undefined,
    table: table([xTitle, yTitle], rows),
  });
}
