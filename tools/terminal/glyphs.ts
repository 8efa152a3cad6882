// Amounts as characters: a shade for a cell, a bar for a row, a column of a sparkline.

import type { Style } from './style.ts';

/** From zero to the maximum. Zero has a separate glyph, so that small values can be distinguished from zero. */
const SHADES = { unicode: ' ░▒▓█', ascii: ' .:+#' } as const;
const COLUMNS = { unicode: ' ▁▂▃▄▅▆▇█', ascii: ' .:-=+*#@' } as const;
const EIGHTHS = ' ▏▎▍▌▋▊▉█';

function pick(glyphs: string, value: number, most: number): string {
  if (value <= 0 || most <= 0) return glyphs[0]!;
  const steps = glyphs.length - 1;
  return glyphs[Math.min(steps, Math.max(1, Math.ceil((steps * value) / most)))]!;
}

/** One character for 0..most. */
export function shade(value: number, most: number, { unicode }: Style): string {
  return pick(unicode ? SHADES.unicode : SHADES.ascii, value, most);
}

/** A bar of `width` columns, filled with blanks; every value above zero is visible. */
export function bar(value: number, most: number, width: number, { unicode }: Style): string {
  const eighths = most <= 0 || value <= 0 ? 0 : Math.max(1, Math.round((8 * width * value) / most));
  const full = Math.min(width, Math.floor(eighths / 8));
  if (!unicode) return '#'.repeat(eighths > 0 ? Math.max(1, full) : 0).padEnd(width);
  const rest = full < width && eighths % 8 > 0 ? EIGHTHS[eighths % 8]! : '';
  return `${'█'.repeat(full)}${rest}`.padEnd(width);
}

/** Values as columns of a line of at most `width`. If there are more values, a column shows the largest of several. */
export function sparkline(values: readonly number[], width: number, { unicode }: Style): string {
  const most = values.reduce((max, value) => Math.max(max, value), 0);
  const per = Math.max(1, Math.ceil(values.length / width));
  let line = '';
  for (let i = 0; i < values.length; i += per) {
    const largest = values.slice(i, i + per).reduce((max, value) => Math.max(max, value), 0);
    line += pick(unicode ? COLUMNS.unicode : COLUMNS.ascii, largest, most);
  }
  return line;
}
