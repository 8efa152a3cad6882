// Draws the path of a token: row -> forwarders -> slots on the left half, slots -> partial sums -> source rank on the
// right.

import { formatBytes } from '../../figures/format.ts';
import { at, figure, mark, WIDE } from '../../report/charts/frame.ts';
import { html, type Markup, table } from '../../report/markup.ts';
import type { PathEntry, PathForward, TokenPath } from '../tokenPath.ts';

const BOX = { width: 142, height: 34 };
const STEP = 42;
const TOP = 34;
/** Left edges of the five columns. */
const COLUMN = { row: 4, forward: 202, slot: 411, partial: 620, home: 814 };

interface Box {
  readonly x: number;
  readonly y: number;
  readonly lines: readonly [string, string];
  readonly label: string;
  readonly kind: string;
}

interface Layout {
  readonly boxes: Box[];
  readonly lines: Markup[];
}

type Link = 'own' | 'near' | 'far';

/** Which link a row takes from one rank to another. */
function linkOf(from: { rank: number; node: number }, to: { rank: number; node: number }): Link {
  if (from.rank === to.rank) return 'own';
  return from.node === to.node ? 'near' : 'far';
}

function connect(x1: number, y1: number, x2: number, y2: number, link: Link): Markup {
  const bend = at((x1 + x2) / 2);
  return html`<path class="way ${link}-line" d="M${at(x1)} ${at(y1)}C${bend} ${at(y1)} ${bend} ${at(y2)} ${at(x2)} ${at(y2)}"/>`;
}

/** Entries in the order of drawing: those of one forwarder together, by k; then masked and dropped ones. */
function ordered({ entries, forwards }: TokenPath): PathEntry[] {
  const rest = entries.filter(({ state }) => state !== 'delivered');
  const direct = entries.filter(({ state, forward }) => state === 'delivered' && forward === undefined);
  const forwarded = forwards.flatMap((_, i) => entries.filter(({ forward }) => forward === i));
  return [...direct, ...forwarded, ...rest];
}

function slotBox(entry: PathEntry, y: number): Box {
  const { k, state, expert, rank, slot } = entry;
  const x = COLUMN.slot;
  if (state === 'masked') {
    return { x, y, lines: [`k ${k}`, 'masked'], label: `k ${k}: masked, no expert`, kind: 'absent' };
  }
  if (state === 'dropped') {
    const label = `k ${k}: expert ${expert} on rank ${rank} was full, the entry is dropped`;
    return { x, y, lines: [`k ${k} · expert ${expert}`, `dropped by rank ${rank}`], label, kind: 'absent' };
  }
  const label = `k ${k}: expert ${expert}, slot ${slot} of rank ${rank}`;
  return { x, y, lines: [`k ${k} · expert ${expert}`, `rank ${rank}, slot ${slot}`], label, kind: 'slot' };
}

function forwardBox({ node, rank, lands, row, ks }: PathForward, y: number): Box {
  const place = lands === 'slot' ? `slot ${row}` : `landing row ${row}`;
  return {
    x: COLUMN.forward,
    y,
    lines: [`rank ${rank}, node ${node}`, place],
    label: `forwarder of node ${node}: rank ${rank} receives the one copy into its ${place}, for ${listOf(ks)}`,
    kind: 'forward',
  };
}

function partialBox({ node, rank, ks }: PathForward, y: number, partial: string): Box {
  return {
    x: COLUMN.partial,
    y,
    lines: [`sum of ${ks.length} on rank ${rank}`, `as ${partial}`],
    label: `partial sum of node ${node} on rank ${rank}: ${listOf(ks)}, rounded to ${partial}, one row returns`,
    kind: 'forward',
  };
}

function listOf(ks: readonly number[]): string {
  return ks.map((k) => `k ${k}`).join(', ');
}

/** Places all boxes and connects them. */
function lay(path: TokenPath): Layout & { height: number } {
  const shown = ordered(path);
  const yOf = new Map(shown.map((entry, i) => [entry.k, TOP + i * STEP]));
  const height = TOP + shown.length * STEP;
  const middle = TOP + ((shown.length - 1) * STEP) / 2;
  const home = { rank: path.rank, node: path.node };
  const half = BOX.height / 2;
  const boxes: Box[] = [];
  const lines: Markup[] = [];
  const words = `token ${path.token}`;
  boxes.push({
    x: COLUMN.row,
    y: middle,
    lines: [`rank ${path.rank}, node ${path.node}`, words],
    label: `${words} starts on rank ${path.rank}, node ${path.node}, as a row of ${formatBytes(path.rowBytes)}`,
    kind: 'home',
  });
  const forwardY = path.forwards.map(({ ks }) => ks.reduce((sum, k) => sum + yOf.get(k)!, 0) / ks.length);
  for (const [i, forward] of path.forwards.entries()) {
    const y = forwardY[i]!;
    const link = linkOf(home, forward);
    lines.push(connect(COLUMN.row + BOX.width, middle + half, COLUMN.forward, y + half, link));
    boxes.push(forwardBox(forward, y));
    if (!path.addsByNode) continue;
    lines.push(connect(COLUMN.partial + BOX.width, y + half, COLUMN.home, middle + half, link));
    boxes.push(partialBox(forward, y, path.partial));
  }
  for (const entry of shown) {
    const y = yOf.get(entry.k)!;
    boxes.push(slotBox(entry, y));
    if (entry.state !== 'delivered') continue;
    const host = { rank: entry.rank!, node: entry.node! };
    const via = entry.forward === undefined ? undefined : path.forwards[entry.forward]!;
    const viaY = (via === undefined ? middle : forwardY[entry.forward!]!) + half;
    const fromX = (via === undefined ? COLUMN.row : COLUMN.forward) + BOX.width;
    lines.push(connect(fromX, viaY, COLUMN.slot, y + half, linkOf(via ?? home, host)));
    const back = path.addsByNode ? via : undefined;
    const [toX, backY] = back === undefined ? [COLUMN.home, middle + half] : [COLUMN.partial, viaY];
    lines.push(connect(COLUMN.slot + BOX.width, y + half, toX, backY, linkOf(back ?? home, host)));
  }
  const order = path.addsByNode ? 'in ascending node' : 'in ascending k';
  boxes.push({
    x: COLUMN.home,
    y: middle,
    lines: [`home: rank ${path.rank}`, path.addsByNode ? 'sum in order of node' : 'sum in order of k'],
    label: `back on rank ${path.rank}: the weighted rows are added ${order}`,
    kind: 'home',
  });
  return { boxes, lines, height };
}

function drawBox({ x, y, lines: [first, second], label, kind }: Box, i: number): Markup {
  const [left, top] = [at(x), at(y)];
  const text = at(x + 9);
  return html`<g class="mark" ${mark(label, i === 0)}><rect class="box ${kind}" x="${left}" y="${top}" width="${BOX.width}" height="${BOX.height}" rx="6"/><text class="box-first" x="${text}" y="${at(y + 14)}">${first}</text><text class="box-second" x="${text}" y="${at(y + 27)}">${second}</text></g>`;
}

function wayOut(path: TokenPath, { state, forward, rank }: PathEntry): string {
  if (state === 'masked') return 'nowhere: masked';
  if (state === 'dropped') return 'nowhere: dropped';
  if (forward === undefined) return rank === path.rank ? 'stays on its rank' : 'direct';
  const { rank: via, lands, row } = path.forwards[forward]!;
  return `through rank ${via} (${lands === 'slot' ? 'slot' : 'landing row'} ${row})`;
}

function wayBack(path: TokenPath, { state, forward }: PathEntry): string {
  if (state !== 'delivered') return 'adds nothing';
  if (!path.addsByNode) return 'straight to its rank';
  if (forward === undefined) return 'into the sum of its own node';
  return `into the sum on rank ${path.forwards[forward]!.rank}`;
}

/** The path of one token, as a drawing and as a table. */
export function tokenDiagram(path: TokenPath): Markup {
  const { boxes, lines, height } = lay(path);
  const heads: [number, string][] = [
    [COLUMN.row, 'row'],
    [COLUMN.forward, 'forwarder'],
    [COLUMN.slot, 'expert’s slot'],
    [COLUMN.partial, 'partial sum'],
    [COLUMN.home, 'home'],
  ];
  const isEmpty = new Set([
    ...(path.forwards.length > 0 ? [] : [COLUMN.forward]),
    ...(path.forwards.length > 0 && path.addsByNode ? [] : [COLUMN.partial]),
  ]);
  const shown = heads.filter(([x]) => !isEmpty.has(x));
  const titles = shown.map(([x, title]) => html`<text class="axis-title" x="${x}" y="14">${title}</text>`);
  const body = html`${titles}${lines}${boxes.map(drawBox)}`;
  const rows = path.entries.map((entry) => [
    `k ${entry.k}`,
    entry.expert === undefined ? '–' : String(entry.expert),
    wayOut(path, entry),
    entry.slot === undefined ? '–' : `rank ${entry.rank}, slot ${entry.slot}`,
    wayBack(path, entry),
  ]);
  return figure({
    label: `Way of token ${path.token} of rank ${path.rank}, out to its experts and back`,
    width: WIDE,
    height,
    body,
    table: table(['entry', 'expert', 'way out', 'slot', 'way back'], rows),
  });
}
