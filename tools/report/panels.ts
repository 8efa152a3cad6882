// The panels of the report and of the viewer: a chart and what it means, for one plan or for two side by side.

import { largest, sum } from '../../planner/totals.ts';
import { factsOf, memoryFact } from '../figures/facts.ts';
import { count, formatBytes, percent, rows, segments, times, tokens } from '../figures/format.ts';
import type { Load } from '../figures/load.ts';
import type { Figures, TokenFigures } from '../figures/planFigures.ts';
import type { Lengths } from '../figures/tokens.ts';
import { barChart } from './charts/bars.ts';
import { NARROW, WIDE } from './charts/frame.ts';
import { formatUs, ganttChart } from './charts/gantt.ts';
import { heatChart, heatMax } from './charts/heatmap.ts';
import { html, type Markup, NOTHING, pairList, table } from './markup.ts';
import { memoryChart, strategyTable } from './strategyPanels.ts';

export interface Panel {
  readonly id: string;
  readonly title: string;
  /** What the chart shows and how to read it, for readers who see it for the first time. */
  readonly text: string;
  /** Takes the whole width of the page. */
  readonly isWide: boolean;
  /** One drawing per plan. */
  readonly cells: readonly Markup[];
}

/**
 * A busiest bar is marked if it exceeds the mean by more than this factor; below that, a marking would not be meaningful.
 */
const NOTABLE = 1.05;

type Draw = (figures: Figures, width: number) => Markup;

/** How unequal a load is. */
function measures(load: Load): Markup {
  return pairList('measures', [
    ['busiest / mean', times(load.maxOverMean)],
    ['busiest', rows(load.max)],
    ['mean', rows(load.mean)],
  ]);
}

function loadChart(load: Load, title: string, xTitle: 'rank' | 'expert', max: number, width: number): Markup {
  const chart = barChart({
    title,
    values: load.rows,
    names: load.labels,
    ticks: load.ticks,
    xTitle,
    yTitle: 'rows received',
    format: rows,
    note: (value) => (load.mean === 0 ? '' : `, ${times(value / load.mean)} the mean`),
    mean: load.mean,
    max,
    width,
    hasPeak: load.maxOverMean > NOTABLE,
    subject: xTitle,
  });
  return html`${chart}${measures(load)}`;
}

function spreadChart(values: readonly number[], what: 'rank' | 'node', max: number, width: number): Markup {
  const all = sum(values);
  const mean = all === 0 ? 0 : sum(values.map((n, i) => n * i)) / all;
  // Only a token without experts reaches no rank; usually there is none.
  const numbers = values.map((_, n) => n).filter((n) => n > 0 || values[0]! > 0);
  const chart = barChart({
    title: `Tokens by the number of ${what}s they reach`,
    values: numbers.map((n) => values[n]!),
    names: numbers.map((n) => `${n} ${n === 1 ? what : `${what}s`}`),
    ticks: numbers.map(String),
    xTitle: `${what}s reached by a token`,
    yTitle: 'tokens',
    format: tokens,
    note: (value) => (all === 0 ? '' : `, ${percent(value / all)} of all`),
    max,
    width,
  });
  return html`${chart}<p class="figure-note">A token reaches <strong>${mean.toFixed(2)}</strong> ${what}s on average.</p>`;
}

function lengthChart(lengths: Lengths, what: string, max: number, width: number): Markup {
  const bins = lengths.bins.length === 0 ? [0] : lengths.bins;
  const range = (i: number) => (i === 0 ? '1 row' : `${count(2 ** i)} to ${count(2 ** (i + 1) - 1)} rows`);
  const mean = lengths.segments === 0 ? 0 : lengths.rows / lengths.segments;
  const chart = barChart({
    title: `Segments of ${what} by length`,
    values: bins,
    names: bins.map((_, i) => range(i)),
    ticks: bins.map((_, i) => (i === 0 ? '1' : `${count(2 ** i)}+`)),
    xTitle: 'rows in a segment',
    yTitle: 'segments',
    format: segments,
    max,
    width,
  });
  return html`<h4>${what}</h4>${chart}<p class="figure-note"><strong>${count(lengths.segments)}</strong> segments hold ${rows(lengths.rows)}: ${mean.toFixed(2)} rows each on average, ${rows(lengths.longest)} at most.</p>`;
}

function groupChart({ summary }: Figures, max: number, width: number): Markup {
  const { forwarding } = summary;
  if (forwarding === undefined) {
    return html`<p class="empty">A flat plan has no rail groups: every row goes straight to its slot.</p>`;
  }
  const labels = forwarding.groupLoads.map((_, group) => {
    const members = forwarding.groups.flatMap((g, rank) => (g === group ? [rank] : []));
    const shown = members.length > 16 ? `${members.slice(0, 16).join(', ')}, …` : members.join(', ');
    return `group ${group} (ranks ${shown})`;
  });
  const total = sum(forwarding.groupLoads);
  const mean = total / forwarding.groupLoads.length;
  const chart = barChart({
    title: 'Rows that each rail group sends between nodes',
    values: forwarding.groupLoads,
    names: labels,
    ticks: labels.map((_, i) => String(i)),
    xTitle: 'rail group',
    yTitle: 'rows sent between nodes',
    format: rows,
    mean,
    max,
    width,
    hasPeak: largest(forwarding.groupLoads) > NOTABLE * mean,
  });
  return html`${chart}<p class="figure-note">Grouped by rule <strong>${forwarding.rule}</strong>. ${rows(forwarding.forwardedRows)} are sent between nodes, ${rows(forwarding.stagedRows)} of them in a landing buffer; ${formatBytes(forwarding.metadataBytes)} of metadata are sent with them.</p>`;
}

const OFFENDER_HEAD = ['what', 'which', 'how much', 'of the mean', 'why it matters'];

function offenderTable({ offenders }: Figures): Markup {
  if (offenders.length === 0) return html`<p class="empty">Nothing moves.</p>`;
  const body = offenders.map(({ what, who, amount, ratio, why }) => [what, who, amount, times(ratio), why]);
  return html`<div class="scroll">${table(OFFENDER_HEAD, body)}</div>`;
}

/** The largest of each kind in two plans, one line each, in the order of the first plan. */
function offenderPair(a: Figures, b: Figures): Markup {
  const kinds = new Map([...a.offenders, ...b.offenders].map(({ what, why }) => [what, why]));
  const of = ({ offenders }: Figures, kind: string) => {
    const found = offenders.find(({ what }) => what === kind);
    return found === undefined ? ['none', '', ''] : [found.who, found.amount, times(found.ratio)];
  };
  const plan = (name: string) => [`${name}: which`, 'how much', 'of the mean'];
  const body = [...kinds].map(([what, why]) => [what, ...of(a, what), ...of(b, what), why]);
  return html`<div class="scroll">${table(['what', ...plan('A'), ...plan('B'), 'why it matters'], body)}</div>`;
}

const UNVERIFIED = html`<p class="empty">Not shown: this plan did not pass verification, so its entries cannot be trusted.</p>`;

/** The headline numbers of a plan. */
export function headline(figures: Figures): Markup {
  const { summary, totalBytes, experts, ranks, joined, nicOut, nicIn, tokens: deep } = figures;
  const prediction = deep?.prediction;
  const isSpread = summary.ranks > joined;
  const busiestNic = largest([...nicOut, ...nicIn]);
  const inside = `${formatBytes(totalBytes.intra)} inside nodes`;
  const tiles: [string, string, string][] = [
    ['rows delivered', count(sum(summary.keptRows)), `${summary.copiesPerToken.flat.toFixed(2)} per token`],
    isSpread
      ? ['bytes between nodes', formatBytes(totalBytes.inter), `and ${inside}`]
      : ['bytes between ranks', formatBytes(totalBytes.intra), 'all of it inside one node'],
    ['busiest NIC', busiestNic === 0 ? 'idle' : formatBytes(busiestNic), 'most sent or received by one rank'],
    ['busiest rank', times(ranks.maxOverMean), `the mean; ${rows(ranks.max)}`],
    ['busiest expert', times(experts.maxOverMean), `the mean; ${rows(experts.max)}`],
  ];
  if (prediction !== undefined) {
    tiles.push([
      'predicted time',
      formatUs(prediction.dispatch.us + prediction.combine.us),
      `dispatch ${formatUs(prediction.dispatch.us)}, combine ${formatUs(prediction.combine.us)}; model of ${prediction.machine}`,
    ]);
  }
  return html`<dl class="tiles">${tiles.map(([name, value, note]) => html`<div><dt>${name}</dt><dd class="value">${value}</dd><dd class="note">${note}</dd></div>`)}</dl>`;
}

/** A panel before it is drawn. */
type Spec = Omit<Panel, 'cells'> & { readonly draw: Draw };

const specOf =
  (isWide: boolean) =>
  (id: string, title: string, text: string, draw: Draw): Spec => ({ id, title, text, isWide, draw });
const narrow = specOf(false);
const wide = specOf(true);

/** Draws the panel if the plan was verified; otherwise shows the reason. */
function deep(draw: (figures: TokenFigures, width: number) => Markup): Draw {
  return ({ tokens: known }, width) => (known === undefined ? UNVERIFIED : draw(known, width));
}

function timelineText(all: readonly Figures[]): string {
  const prediction = all.find(({ tokens: known }) => known !== undefined)?.tokens?.prediction;
  const machine =
    prediction === undefined
      ? ''
      : ` Rates per rank, of the machine ${prediction.machine}: NIC ${prediction.nicGBps} GB/s, NVLink ${prediction.nvlinkGBps} GB/s per direction, memory ${prediction.hbmGBps} GB/s.`;
  return `When the cost model expects each link to be busy. A stage ends when its slowest link is done; a link waits in the gaps.${machine}`;
}

/** The largest values of several plans: adjacent charts have the same scale. */
function scales(all: readonly Figures[]) {
  const most = (pick: (figures: Figures) => readonly number[]) =>
    largest(all.map((figures) => largest(pick(figures))));
  const ofTokens = (pick: (figures: TokenFigures) => readonly number[]) =>
    most(({ tokens: known }) => (known === undefined ? [] : pick(known)));
  return {
    heat: heatMax(all.map(({ heat }) => heat)),
    experts: most(({ experts }) => experts.rows),
    ranks: most(({ ranks }) => ranks.rows),
    memory: most(({ strategies }) => strategies?.rankBytes ?? []),
    groups: most(({ summary }) => summary.forwarding?.groupLoads ?? []),
    ranksReached: ofTokens(({ spread }) => spread.ranks),
    nodesReached: ofTokens(({ spread }) => spread.nodes),
    lengths: ofTokens(({ direct, forwarded }) => [...direct.bins, ...(forwarded?.bins ?? [])]),
    us: ofTokens(({ prediction }) => [prediction.dispatch.us, prediction.combine.us]),
  };
}

function loadSpecs(all: readonly Figures[], max: ReturnType<typeof scales>): Spec[] {
  const cell = all[0]?.heat.ranksPerCell ?? 1;
  return [
    wide(
      'strategies',
      'Ways to exchange these tokens',
      'The same routing, without fusion and along every kind of plan, predicted on one machine.',
      strategyTable,
    ),
    wide(
      'offenders',
      'What stands out',
      'The largest of each kind, most unequal first. An exchange takes as long as its busiest part, so a better balance helps here first.',
      offenderTable,
    ),
    narrow(
      'traffic',
      'Traffic between ranks',
      `Payload bytes of one dispatch. Each row is a sender, each column a receiver${cell > 1 ? `, ${cell} ranks a cell` : ''}; squares outline the nodes. Each link has a separate scale, below the map; a strong column is a rank that receives from all others. Combine moves the same bytes in the other direction.`,
      ({ heat }, width) => heatChart(heat, max.heat, width),
    ),
    narrow(
      'ranks',
      'Load of each rank',
      'Rows that each rank receives, all of its experts together, without padding. The busiest rank decides how long the experts take.',
      ({ ranks }, width) => loadChart(ranks, 'Rows received by each rank', 'rank', max.ranks, width),
    ),
    wide(
      'memory',
      'Memory of each rank',
      'What experts and exchange need on each rank: weights, tokens, receive buffers and results. The fullest rank decides whether the plan fits.',
      (figures, width) => memoryChart(figures, max.memory, width),
    ),
    wide(
      'experts',
      'Load of each expert',
      'Rows that each expert receives, in the order in which the ranks store them.',
      ({ experts }, width) =>
        loadChart(experts, 'Rows received by each expert', 'expert', max.experts, width),
    ),
  ];
}

function tokenSpecs(all: readonly Figures[], max: ReturnType<typeof scales>): Spec[] {
  return [
    narrow(
      'ranks-per-token',
      'Ranks per token',
      'The number of different ranks that own a token’s experts. If it is smaller than the number of experts, several experts can share one copy.',
      deep(({ spread }, width) => spreadChart(spread.ranks, 'rank', max.ranksReached, width)),
    ),
    narrow(
      'nodes-per-token',
      'Nodes per token',
      'The number of different nodes that own them. A hierarchical plan sends one copy to each other node, however many experts are there.',
      deep(({ spread }, width) => spreadChart(spread.nodes, 'node', max.nodesReached, width)),
    ),
    narrow(
      'dispatch',
      'Predicted dispatch, link by link',
      timelineText(all),
      deep(({ prediction }, width) =>
        ganttChart('Predicted timeline of the dispatch', prediction.dispatch, max.us, width),
      ),
    ),
    narrow(
      'combine',
      'Predicted combine, link by link',
      'The other direction: every slot’s row returns to its token, and the weighted rows are added. Same scale as the dispatch.',
      deep(({ prediction }, width) =>
        ganttChart('Predicted timeline of the combine', prediction.combine, max.us, width),
      ),
    ),
    narrow(
      'segments',
      'Segment lengths',
      'A segment is a sequence of rows that is contiguous at the source and at the destination. Longer segments need fewer descriptors.',
      deep(
        ({ direct, forwarded }, width) =>
          html`${lengthChart(direct, 'rows sent directly', max.lengths, width)}${forwarded === undefined ? NOTHING : lengthChart(forwarded, 'rows sent to a forwarder', max.lengths, width)}`,
      ),
    ),
    narrow(
      'groups',
      'Load of the rail groups',
      'In a hierarchical plan one rank of every node belongs to a rail group, and its members forward for each other. Equal bars mean equally busy NICs.',
      (figures, width) => groupChart(figures, max.groups, width),
    ),
    wide('facts', 'Facts of the plan', 'The options and the results.', ({ summary }) =>
      pairList('facts', [...factsOf(summary), memoryFact(summary)]),
    ),
  ];
}

/** Whether a panel has anything to show for some plan; some panels are empty with one node or without forwarders. */
function appliesTo(all: readonly Figures[]): (panel: Spec) => boolean {
  const some = (has: (figures: Figures) => boolean) => all.some(has);
  const needs: Readonly<Record<string, boolean>> = {
    strategies: some(({ strategies }) => strategies !== undefined),
    memory: some(({ strategies }) => strategies !== undefined),
    'nodes-per-token': some(({ summary, joined }) => summary.ranks > joined && summary.ranksPerNode > 1),
    groups: some(({ summary }) => summary.forwarding !== undefined),
  };
  return ({ id }) => needs[id] ?? true;
}

/** All panels of one plan, or of two on common scales. */
export function panelsOf(all: readonly Figures[]): Panel[] {
  const max = scales(all);
  const [a, b] = all;
  return [...loadSpecs(all, max), ...tokenSpecs(all, max)]
    .filter(appliesTo(all))
    .map(({ draw, ...panel }) => ({
      ...panel,
      // What stands out is compared line by line.
      cells:
        panel.id === 'offenders' && a !== undefined && b !== undefined
          ? [offenderPair(a, b)]
          : all.map((figures) => draw(figures, panel.isWide && all.length === 1 ? WIDE : NARROW)),
    }));
}

/** Several drawings under their names; a single one as it is. */
export function sideBySide(cells: readonly Markup[], names: readonly string[]): Markup[] {
  if (cells.length < 2) return [...cells];
  return cells.map((cell, i) => html`<div class="side"><h3 class="side-name">${names[i]!}</h3>${cell}</div>`);
}

/** A panel as a section of the page; `names` are the titles of the drawings if there are several. */
export function panelMarkup({ id, title, text, isWide, cells }: Panel, names: readonly string[]): Markup {
  const drawn = sideBySide(cells, names);
  const size = isWide || cells.length > 1 ? 'panel wide' : 'panel';
  const body = cells.length > 1 ? html`<div class="sides">${drawn}</div>` : html`${drawn}`;
  return html`<section class="${size}" id="panel-${id}"><h2>${title}</h2><p class="lede">${text}</p>${body}</section>`;
}
