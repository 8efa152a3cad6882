// What charts do in a browser: the mark under the pointer or in focus is put into words, and arrow keys move on.

const MARK = '.mark';

function say(mark: Element): void {
  const readout = mark.closest('figure')?.querySelector('.readout');
  if (readout) readout.textContent = mark.getAttribute('aria-label');
}

/** Where a key leads from mark `index` of `count`, `columns` in a row; undefined for other keys. */
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
  // One mark of a chart is in the order of Tab: the one that was visited last.
  mark.setAttribute('tabindex', '-1');
  marks[next]!.setAttribute('tabindex', '0');
  marks[next]!.focus();
}

/** Lets the charts of a document answer, those that are drawn later included. */
export function listen(root: Document): void {
  root.addEventListener('keydown', onKey);
  for (const type of ['focusin', 'pointerover']) {
    root.addEventListener(type, (event) => {
      const mark = (event.target as Element).closest?.(MARK);
      if (mark) say(mark);
    });
  }
}
