// Amounts with their units, and tables in plain text of at most 80 columns.

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

/** Microseconds in a unit that keeps three digits. */
export function formatUs(us: number): string {
  if (us < 1000) return `${us < 100 ? us.toPrecision(3) : us.toFixed(0)} us`;
  return us < 1e5 ? `${(us / 1e3).toPrecision(3)} ms` : `${(us / 1e3).toFixed(0)} ms`;
}

/** Rows of cells with every column as wide as its widest cell, right-aligned except for the first. */
export function formatGrid(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  const pad = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!));
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

/** Width of one line on any terminal. */
const COLUMNS = 80;

/** Text in lines of at most `width` columns, broken at blanks; a longer word gets a separate line. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/**
 * One label and value per line, with the values in one column; values that exceed 80 columns continue on the next line.
 */
export function formatFacts(facts: readonly (readonly [label: string, value: string])[]): string {
  const width = Math.max(...facts.map(([label]) => label.length));
  const indent = `\n${' '.repeat(width + 2)}`;
  return facts
    .map(([label, value]) => `${label.padEnd(width)}  ${wrap(value, COLUMNS - width - 2).join(indent)}`)
    .join('\n');
}

/** Bytes in at most six columns: `7.2M`. */
export function compactBytes(bytes: number): string {
  if (bytes === 0) return '.';
  return formatBytes(bytes)
    .replace(/ ([KMGT])iB$/, '$1')
    .replace(/ B$/, 'B');
}

/** A count, or a mean with one decimal. */
export function count(value: number): string {
  return formatCount(Math.round(value * 10) / 10);
}

/** 1 is "1 row", anything else "n rows". */
export function rows(value: number): string {
  return value === 1 ? '1 row' : `${count(value)} rows`;
}

export function tokens(value: number): string {
  return value === 1 ? '1 token' : `${count(value)} tokens`;
}

export function segments(value: number): string {
  return value === 1 ? '1 segment' : `${count(value)} segments`;
}

/** A ratio: `1.82 ×`. */
export function times(ratio: number): string {
  return `${ratio.toFixed(2)} ×`;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
