// What charts do in a browser: the mark under the pointer or in focus is put into words, and arrow keys move on.

const MARK = '.mark';

function say(mark: Element): void {
  const readout = mark.closest('figure')?.querySelector('.readout');
  if (readout) readout.textContent = mark.getAttribute('aria-label');
}

/** Where a key leads from mark `index` of `count`, `columns` in a row; undefined for other keys. */
function nextIndex(
  key: string,
  index: number,
  count: number,
  columns: number | undefined,
): number | undefined {
  const row = columns ?? 1;
  switch (key) {
    case 'ArrowRight':
      return Math.min(count - 1, index + 1);
    case 'ArrowLeft':
      return Math.max(0, index - 1);
    case 'ArrowDown':
      return index + row < count ? index + row : index;
    case 'ArrowUp':
      return index - row >= 0 ? index - row : index;
    case 'Home':
      return 0;
    case 'End':
      return count - 1;
    default:
      return undefined;
  }
}

function onKey(event: KeyboardEvent): void {
  const mark = (event.target as Element).closest?.(MARK);
  const chart = mark?.closest('figure');
  if (!mark || !chart || event.ctrlKey || event.metaKey || event.altKey) return;
  const marks = [...chart.querySelectorAll<SVGElement>(MARK)];
  const columns = (chart as HTMLElement).dataset.columns;
  const next = nextIndex(
    event.key,
    marks.indexOf(mark as SVGElement),
    marks.length,
    columns === undefined ? undefined : Number(columns),
  );
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
