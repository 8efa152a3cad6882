// Behavior of charts in a browser: the mark under the pointer or in focus is described in words, and arrow keys move
// between marks.

import { pngOf, svgOf } from './chartImage.ts';

const MARK = '.mark';

function say(mark: Element): void {
  const readout = mark.closest('figure')?.querySelector('.readout');
  if (readout) readout.textContent = mark.getAttribute('aria-label');
}

/** The mark to which a key leads from mark `index` of `count`, with `columns` in a row; undefined for other keys. */
function nextIndex(key: string, index: number, count: number, columns: number): number | undefined {
  const targets = new Map([
    ['ArrowRight', Math.min(count - 1, index + 1)],
    ['ArrowLeft', Math.max(0, index - 1)],
    ['ArrowDown', index + columns < count ? index + columns : index],
    ['ArrowUp', index >= columns ? index - columns : index],
    ['Home', 0],
    ['End', count - 1],
  ]);
  return targets.get(key);
}

function onKey(event: KeyboardEvent): void {
  const mark = (event.target as Element).closest?.(MARK);
  const chart = mark?.closest('figure');
  if (!mark || !chart || event.ctrlKey || event.metaKey || event.altKey) return;
  const marks = [...chart.querySelectorAll<SVGElement>(MARK)];
  const columns = Number(chart.dataset.columns ?? 1);
  const next = nextIndex(event.key, marks.indexOf(mark as SVGElement), marks.length, columns);
  if (next === undefined) return;
  event.preventDefault();
  // Only one mark of a chart can be reached with Tab: the one that was visited last.
  mark.setAttribute('tabindex', '-1');
  marks[next]!.setAttribute('tabindex', '0');
  marks[next]!.focus();
}

/** Sorts the bars of a chart by value, or restores their original order. */
function sortBars(chart: Element, button: Element): void {
  const marks = [...chart.querySelectorAll<SVGGElement>(MARK)];
  const isSorted = button.getAttribute('aria-pressed') === 'true';
  const place = (mark: SVGGElement) => Number(mark.querySelector('.hit')!.getAttribute('x'));
  const places = marks.map(place).sort((a, b) => a - b);
  const value = (mark: SVGGElement) => Number(mark.dataset.value);
  const order = [...marks].sort((a, b) => (isSorted ? place(a) - place(b) : value(b) - value(a)));
  const parent = marks[0]?.parentElement;
  const after = marks.at(-1)?.nextSibling ?? null;
  order.forEach((mark, i) => {
    mark.setAttribute('transform', `translate(${places[i]! - place(mark)} 0)`);
    mark.setAttribute('tabindex', i === 0 ? '0' : '-1');
    parent?.insertBefore(mark, after);
  });
  chart.classList.toggle('sorted', !isSorted);
  button.setAttribute('aria-pressed', String(!isSorted));
}

const MAX_ZOOM = 8;

/** Doubles or halves the width; the rest can be reached by scrolling. */
function zoom(chart: HTMLElement, factor: number): void {
  const now = Math.min(MAX_ZOOM, Math.max(1, Number(chart.dataset.zoom ?? 1) * factor));
  chart.dataset.zoom = String(now);
  chart.querySelector<SVGElement>('svg')?.style.setProperty('--zoom', String(now));
  const tool = (name: string) => chart.querySelector<HTMLButtonElement>(`[data-tool="zoom-${name}"]`)!;
  tool('in').disabled = now === MAX_ZOOM;
  tool('out').disabled = now === 1;
}

/** Saves text under a name, as a download. */
export function saveText(name: string, type: string, text: string): void {
  saveBytes(name, new Blob([text], { type }));
}

/** Saves bytes under a name, as a download. */
export function saveBytes(name: string, blob: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The table of a chart as CSV (RFC 4180). */
function csvOf(chart: Element): string {
  const quoted = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [...chart.querySelectorAll('details tr')].map((row) =>
    [...row.children].map((cell) => quoted(cell.textContent ?? '')).join(),
  );
  return `${lines.join('\r\n')}\r\n`;
}

function onTool(event: Event): void {
  const button = (event.target as Element).closest?.<HTMLElement>('[data-tool]');
  const chart = button?.closest<HTMLElement>('figure');
  if (!button || !chart) return;
  const { tool } = button.dataset;
  if (tool === 'sort') sortBars(chart, button);
  if (tool === 'zoom-in') zoom(chart, 2);
  if (tool === 'zoom-out') zoom(chart, 0.5);
  if (tool === 'csv') saveText(`${nameOf(chart)}.csv`, 'text/csv', csvOf(chart));
  if (tool === 'svg') saveText(`${nameOf(chart)}.svg`, 'image/svg+xml', svgOf(chart));
  if (tool === 'png') void pngOf(chart).then((blob) => saveBytes(`${nameOf(chart)}.png`, blob));
}

/** A name for the files of a chart. */
function nameOf(chart: Element): string {
  const label = chart.querySelector('svg')?.getAttribute('aria-label') ?? 'chart';
  return label.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}

/** Activates the charts of a document, including those that are drawn later. */
export function listen(root: Document): void {
  root.addEventListener('keydown', onKey);
  root.addEventListener('click', onTool);
  for (const type of ['focusin', 'pointerover']) {
    root.addEventListener(type, (event) => {
      const mark = (event.target as Element).closest?.(MARK);
      if (!mark) return;
      say(mark);
      // The browser shows it at the pointer.
      if (type === 'pointerover') mark.closest('figure')!.title = mark.getAttribute('aria-label') ?? '';
    });
  }
}
