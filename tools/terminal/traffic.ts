// A plan's traffic and loads on one screen of 80 columns: how much each rank sends to each other rank, and which ranks
// are busiest.

import { largest, sum } from '../../planner/totals.ts';
import { compactBytes, formatCount } from '../figures/format.ts';
import type { Summary } from '../figures/summary.ts';
import { bar, shade, sparkline } from './glyphs.ts';
import type { Style } from './style.ts';

/**
 * Maximum number of ranks whose matrix has numbers in 80 columns; larger groups are shaded, with several ranks per cell.
 */
const NUMBERED_RANKS = 8;
/** Maximum number of rows of a shaded map. */
const MAP_ROWS = 12;
const BAR_COLUMNS = 12;
const SPARK_COLUMNS = 40;

/** Bytes of every link of any kind. */
function allBytes({ traffic }: Summary): number[][] {
  const { intraNodeBytes, interNodeBytes } = traffic;
  return intraNodeBytes.map((row, from) => row.map((bytes, to) => bytes + interNodeBytes[from]![to]!));
}

function isNear({ ranksPerNode }: Summary, from: number, to: number): boolean {
  return Math.floor(from / ranksPerNode) === Math.floor(to / ranksPerNode);
}

/** The style of a cell: rows that stay on their rank use no link and are faint. */
function paintOf(summary: Summary, from: number, to: number): 'faint' | 'near' | 'far' {
  if (from === to) return 'faint';
  return isNear(summary, from, to) ? 'near' : 'far';
}

/** The matrix with a number and a shade in every cell; shades are relative to the busiest link. */
function numberedMatrix(summary: Summary, bytes: readonly (readonly number[])[], style: Style): string[] {
  const busiest = largest(bytes.map((row, from) => largest(row.filter((_, to) => to !== from))));
  const cells = bytes.map((row, from) =>
    row.map((value, to) => ({
      text: compactBytes(value),
      glyph: shade(from === to ? 0 : value, busiest, style),
      paint: paintOf(summary, from, to),
    })),
  );
  const width = Math.max(4, ...cells.flat().map(({ text }) => text.length));
  const head = bytes.map((_, rank) => `r${rank}`.padStart(width + 1));
  const rows = cells.map(
    (row, from) =>
      `${`r${from}`.padEnd(9)} ${row.map(({ text, glyph, paint }) => style.paint(paint, `${glyph}${text.padStart(width)}`)).join(' ')}`,
  );
  return [`from \\ to ${head.join(' ')}`.trimEnd(), ...rows];
}

/** Ranks of one cell of a map: as few as the number of rows allows, and either whole nodes or equal parts of a node. */
function cellRanks({ ranks, ranksPerNode }: Summary): number {
  let size = Math.ceil(ranks / MAP_ROWS);
  while (ranksPerNode % size !== 0 && size % ranksPerNode !== 0) size++;
  return size;
}

/** The ranks [first, end) of one cell of a map. */
interface Group {
  readonly first: number;
  readonly end: number;
  readonly label: string;
}

/** The cells of a map. */
function groupsOf(summary: Summary): Group[] {
  const size = cellRanks(summary);
  return Array.from({ length: Math.ceil(summary.ranks / size) }, (_, i) => {
    const first = i * size;
    const end = Math.min(summary.ranks, first + size);
    return { first, end, label: end - first === 1 ? `r${first}` : `r${first}-${end - 1}` };
  });
}

/** The mean bytes of the links from the ranks of one cell to those of another, without the links of a rank to itself. */
function meanLink(bytes: readonly (readonly number[])[], from: Group, to: Group): number {
  let total = 0;
  let links = 0;
  for (let r = from.first; r < from.end; r++) {
    for (let c = to.first; c < to.end; c++) {
      if (r === c) continue;
      total += bytes[r]![c]!;
      links++;
    }
  }
  return links === 0 ? 0 : total / links;
}

/** A bar and its number; the busiest bar is bold. */
function load(value: number, busiest: number, text: string, width: number, style: Style): string {
  const drawn = bar(value, busiest, BAR_COLUMNS, style);
  return `${style.paint(value === busiest && value > 0 ? 'busiest' : 'near', drawn)} ${text.padStart(width)}`;
}

function widest(texts: readonly string[]): number {
  return largest(texts.map((text) => text.length));
}

/** The matrix as shades, with several ranks per cell, and next to it the loads of the busiest rank of each row. */
function shadedMap(summary: Summary, bytes: readonly (readonly number[])[], style: Style): string[] {
  const groups = groupsOf(summary);
  const means = groups.map((from) => groups.map((to) => meanLink(bytes, from, to)));
  const sentByRank = bytes.map((row, from) => sum(row) - row[from]!);
  const rowsByRank = summary.expertCounts.map(sum);
  const sent = groups.map(({ first, end }) => largest(sentByRank.slice(first, end)));
  const rows = groups.map(({ first, end }) => largest(rowsByRank.slice(first, end)));
  const [sentTexts, rowTexts] = [sent.map(compactBytes), rows.map(formatCount)];
  const [sentWidth, rowWidth] = [widest(sentTexts), widest(rowTexts)];
  const busiest = largest(means.flat());
  const head = `${''.padEnd(11 + 2 * groups.length)}${'sent to others'.padEnd(BAR_COLUMNS + 3 + sentWidth)}rows received`;
  const lines = groups.map(({ first, label }, i) => {
    const cells = means[i]!.map((mean, j) => {
      const glyph = shade(mean, busiest, style);
      return style.paint(isNear(summary, first, groups[j]!.first) ? 'near' : 'far', glyph + glyph);
    });
    const left = load(sent[i]!, largest(sent), sentTexts[i]!, sentWidth, style);
    const right = load(rows[i]!, largest(rows), rowTexts[i]!, rowWidth, style);
    return `${label.padEnd(9)} ${cells.join('')} ${left}  ${right}`;
  });
  return [head, ...lines];
}

/** Rows that every rank receives, in two columns. */
function receivedLines({ expertCounts }: Summary, style: Style): string[] {
  const rows = expertCounts.map(sum);
  const texts = rows.map(formatCount);
  const cells = rows.map(
    (value, rank) => `r${rank} ${load(value, largest(rows), texts[rank]!, widest(texts), style)}`,
  );
  const height = Math.ceil(rows.length / 2);
  return Array.from({ length: height }, (_, i) => {
    const pair = [cells[i]!, ...(cells[i + height] === undefined ? [] : [cells[i + height]!])];
    return `${(i === 0 ? 'received' : '').padEnd(9)} ${pair.join('    ')}`;
  });
}

/** Rows of every expert instance, in the order of the ranks. */
function expertLine({ expertCounts }: Summary, style: Style): string[] {
  const rows = expertCounts.flat();
  if (sum(rows) === 0) return [];
  const each = Math.ceil(rows.length / SPARK_COLUMNS);
  const unit = each === 1 ? '' : `${each} per sign, `;
  const line = sparkline(rows, SPARK_COLUMNS, style);
  return [`experts   ${style.paint('near', line)}  ${unit}at most ${formatCount(largest(rows))} rows`];
}

/**
 * The matrix, the loads of ranks and those of experts, at most 80 columns wide, for a terminal that `style` describes.
 */
export function drawTraffic(summary: Summary, style: Style): string {
  const bytes = allBytes(summary);
  const isNumbered = summary.ranks <= NUMBERED_RANKS;
  const title = isNumbered
    ? 'bytes sent, payload only; the darkest cell is the busiest link'
    : `bytes sent per link: darker is more; senders down, ${cellRanks(summary)} ranks per cell`;
  const matrix = isNumbered ? numberedMatrix(summary, bytes, style) : shadedMap(summary, bytes, style);
  const received = isNumbered ? receivedLines(summary, style) : [];
  return [title, ...matrix, ...received, ...expertLine(summary, style)]
    .map((line) => line.trimEnd())
    .join('\n');
}
