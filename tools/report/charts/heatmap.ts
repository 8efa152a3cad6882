// The rank x rank traffic matrix: the hue shows the link, the opacity the number of bytes.

import { sum } from '../../../planner/totals.ts';
import { formatBytes } from '../../figures/format.ts';
import type { Heat } from '../../figures/planFigures.ts';
import { html, type Markup, NOTHING, table } from '../markup.ts';
import { at, figure, mark, tickStep } from './frame.ts';

const MARGIN = { top: 44, right: 8, bottom: 8, left: 60 };
const LEGEND = 58;
/** Cells at least this wide have room for their value. */
const TEXT_CELL = 36;

/** Links of different kinds have separate scales: the strongest color of each is its largest value. */
export type HeatScale = Readonly<Record<Link, number>>;
export type Link = 'own' | 'near' | 'far';

/** Largest bytes of a cell of each link, for scales that two maps share. */
export function heatMax(heats: readonly Heat[]): HeatScale {
  const most = { own: 0, near: 0, far: 0 };
  for (const heat of heats) {
    for (let from = 0; from < heat.cells; from++) {
      for (let to = 0; to < heat.cells; to++) {
        const { kind } = linkOf(heat, from, to);
        most[kind] = Math.max(most[kind], heat.intra[from]![to]! + heat.inter[from]![to]!);
      }
    }
  }
  return most;
}

/** Rank or ranks of a row or column: "3", "64 to 71". */
function cellName({ ranksPerCell }: Heat, cell: number): string {
  const first = cell * ranksPerCell;
  return ranksPerCell === 1 ? `${first}` : `${first} to ${first + ranksPerCell - 1}`;
}

/** One unit for all cells, so that their numbers can be compared at a glance: the one that suits the largest. */
function cellUnit(max: number): { unit: string; text: (bytes: number) => string } {
  const unit = formatBytes(max).split(' ')[1]!;
  const size = 1024 ** ['B', 'KiB', 'MiB', 'GiB', 'TiB'].indexOf(unit);
  const digits = unit === 'B' || max / size >= 100 ? 0 : max / size >= 10 ? 1 : 2;
  return { unit, text: (bytes) => (bytes / size).toFixed(digits) };
}

/** The hues of style.css and the background of a cell: red, green, blue on light and on dark pages. */
const HUES: Readonly<Record<Link | 'surface', readonly [light: string, dark: string]>> = {
  own: ['#5d6873', '#a7b2bd'],
  near: ['#0072b2', '#56b4e9'],
  far: ['#c44f00', '#f0a13a'],
  surface: ['#ffffff', '#181e25'],
};

/** Relative luminance of a hue over the page, as WCAG defines it. */
function luminance(hue: string, page: string, opacity: number): number {
  const channel = (at: number) => {
    const mixed = [hue, page].map((color) => Number.parseInt(color.slice(at, at + 2), 16) / 255);
    const value = opacity * mixed[0]! + (1 - opacity) * mixed[1]!;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
}

/** Black or white text, on light and on dark pages: whichever has the higher contrast, which is at least 4.58. */
function inkOf(kind: Link, opacity: number): string {
  const ink = (scheme: 0 | 1) => {
    const behind = luminance(HUES[kind][scheme], HUES.surface[scheme], opacity);
    return (behind + 0.05) / 0.05 >= 1.05 / (behind + 0.05) ? 'k' : 'w';
  };
  return `ink-${ink(0)}${ink(1)}`;
}

/** Hue by the link that the bytes use: the rank's memory, its node's links, the network. */
function linkOf(heat: Heat, from: number, to: number): { kind: Link; words: string } {
  if (heat.inter[from]![to]! > 0) return { kind: 'far', words: 'between nodes' };
  if (from === to && heat.ranksPerCell === 1) return { kind: 'own', words: 'stays on its rank' };
  return { kind: 'near', words: 'within a node' };
}

function axisLabels(heat: Heat, size: number): Markup {
  const { cells } = heat;
  const step = tickStep(cells, 16);
  const shown = Array.from({ length: cells }, (_, i) => i).filter((i) => i % step === 0);
  return html`${shown.map((i) => {
    const center = (i + 0.5) * size;
    const name = String(i * heat.ranksPerCell);
    return html`<text class="tick middle" x="${at(MARGIN.left + center)}" y="${MARGIN.top - 6}">${name}</text><text class="tick end" x="${MARGIN.left - 7}" y="${at(MARGIN.top + center)}" dy="0.32em">${name}</text>`;
  })}`;
}

/** Lines around the squares of one node. */
function nodeLines({ cells, cellsPerNode }: Heat, size: number): Markup {
  if (cellsPerNode === 0 || cellsPerNode === cells) return NOTHING;
  const nodes = cells / cellsPerNode;
  return html`${Array.from({ length: nodes }, (_, node) => {
    const first = node * cellsPerNode * size;
    const side = at(cellsPerNode * size);
    return html`<rect class="node" x="${at(MARGIN.left + first)}" y="${at(MARGIN.top + first)}" width="${side}" height="${side}"/>`;
  })}`;
}

function legend(max: HeatScale, width: number, top: number, hasNodes: boolean): Markup {
  const links = [
    ['own', 'stays on its rank'],
    ['near', 'same node (NVLink)'],
    ['far', 'other node (NIC)'],
  ] as const;
  const kinds = hasNodes ? links : links.slice(0, 2);
  const column = (width - MARGIN.left) / 3;
  return html`${kinds.map(([kind, words], i) => {
    const x = MARGIN.left + i * column;
    const steps = Array.from({ length: 6 }, (_, step) => {
      return html`<rect class="${kind}" x="${at(x + step * 16)}" y="${top}" width="16" height="8" fill-opacity="${at(strength(step + 1, 6))}"/>`;
    });
    return html`${steps}<text class="tick" x="${at(x)}" y="${top + 22}">${words}</text><text class="tick" x="${at(x)}" y="${top + 36}">0 to ${formatBytes(max[kind])}</text>`;
  })}`;
}

/** Opacity of a cell. Values above 0 stay visible. */
function strength(bytes: number, max: number): number {
  return bytes === 0 ? 0 : 0.08 + 0.92 * (bytes / max);
}

/** A heat map of payload bytes. `max` are the values of the strongest colors. */
export function heatChart(heat: Heat, max: HeatScale, width: number): Markup {
  const { cells, intra, inter } = heat;
  const size = (width - MARGIN.left - MARGIN.right) / cells;
  const end = MARGIN.top + size * cells;
  const bytesOf = (from: number, to: number) => intra[from]![to]! + inter[from]![to]!;
  const unit = cellUnit(Math.max(max.own, max.near, max.far));
  const hasText = size >= TEXT_CELL;
  const drawn: Markup[] = [];
  for (let from = 0; from < cells; from++) {
    for (let to = 0; to < cells; to++) {
      const bytes = bytesOf(from, to);
      const { kind, words } = linkOf(heat, from, to);
      const label = `rank ${cellName(heat, from)} to rank ${cellName(heat, to)}: ${formatBytes(bytes)}, ${bytes === 0 ? 'nothing is sent' : words}`;
      const shade = strength(bytes, max[kind]);
      const [x, y] = [MARGIN.left + to * size, MARGIN.top + from * size];
      const value =
        !hasText || bytes === 0
          ? NOTHING
          : html`<text class="cell middle ${inkOf(kind, shade)}" x="${at(x + size / 2)}" y="${at(y + size / 2)}" dy="0.35em">${unit.text(bytes)}</text>`;
      drawn.push(
        html`<g class="mark" data-from="${from * heat.ranksPerCell}" data-to="${to * heat.ranksPerCell}" ${mark(label, drawn.length === 0)}><rect class="${kind} cellbox" x="${at(x)}" y="${at(y)}" width="${at(size)}" height="${at(size)}" fill-opacity="${at(shade)}"/>${value}</g>`,
      );
    }
  }
  const body = html`${drawn}${nodeLines(heat, size)}${axisLabels(heat, size)}<text class="axis-title" x="${MARGIN.left}" y="14">to rank →${hasText ? ` (payload in ${unit.unit})` : ''}</text><text class="axis-title" x="0" y="${MARGIN.top - 6}">from ↓</text>${legend(
    max,
    width,
    end + 14,
    inter.some((row) => row.some((n) => n > 0)),
  )}`;
  const names = Array.from({ length: cells }, (_, cell) => `rank ${cellName(heat, cell)}`);
  const cellsOf = (of: (other: number) => number) => names.map((_, other) => of(other));
  const rows = names.map((name, from) => {
    const sent = cellsOf((to) => bytesOf(from, to));
    return [name, ...[...sent, sum(sent)].map(formatBytes)];
  });
  const received = names.map((_, to) => sum(cellsOf((from) => bytesOf(from, to))));
  const total = ['all', ...[...received, sum(received)].map(formatBytes)];
  return figure({
    label: 'Payload bytes from every rank to every rank',
    width,
    height: end + MARGIN.bottom + LEGEND,
    body,
    columns: cells,
    table: table(['from \\ to', ...names, 'all'], [...rows, total]),
  });
}
