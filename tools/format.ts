// Numbers and tables for people, in plain text of at most 80 columns.

/** Bytes with a binary unit and three significant digits: `41.2 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 ? 0 : value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** 262144 -> `262,144`. */
export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

export function formatMs(milliseconds: number): string {
  return `${milliseconds >= 100 ? milliseconds.toFixed(0) : milliseconds.toPrecision(3)} ms`;
}

/** Rows of cells with every column as wide as its widest cell, right-aligned but for the first. */
export function formatGrid(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  const pad = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!));
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

/** A label and a value a line, with the values in one column. */
export function formatFacts(facts: readonly (readonly [label: string, value: string])[]): string {
  const width = Math.max(...facts.map(([label]) => label.length));
  return facts.map(([label, value]) => `${label.padEnd(width)}  ${value}`).join('\n');
}

/** The most ranks whose matrix fits a screen; larger groups are shown as their busiest ranks. */
export const MATRIX_RANKS = 8;

/** A rank x rank matrix of bytes with senders as rows. */
export function formatMatrix(bytes: readonly (readonly number[])[]): string {
  const head = ['from \\ to', ...bytes.map((_, rank) => `r${rank}`)];
  return formatGrid([head, ...bytes.map((row, rank) => [`r${rank}`, ...row.map((n) => compactBytes(n))])]);
}

/** Bytes in at most six columns: `7.2M`. */
function compactBytes(bytes: number): string {
  if (bytes === 0) return '.';
  return formatBytes(bytes)
    .replace(/ ([KMGT])iB$/, '$1')
    .replace(/ B$/, 'B');
}
