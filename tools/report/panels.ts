// The panels of the report and of the viewer: a chart and what it means, for one plan or for two side by side.

import { largest, sum } from '../../planner/totals.ts';
import { count, formatBytes, percent, rows, segments, times, tokens } from '../figures/format.ts';
import type { Load } from '../figures/load.ts';
import type { Figures } from '../figures/planFigures.ts';
import type { Lengths } from '../figures/tokens.ts';
import { barChart } from './charts/bars.ts';
import { NARROW, WIDE } from './charts/frame.ts';
import { formatUs, ganttChart } from './charts/gantt.ts';
import { heatChart, heatMax } from './charts/heatmap.ts';
import { html, type Markup, NOTHING, table } from './markup.ts';

export interface Panel {
  readonly id: string;
  readonly title: string;
  /** What the chart shows and how to read it, for somebody who sees it for the first time. */
  readonly text: string;
  /** Takes the whole width of the page. */
  readonly isWide: boolean;
  /** One drawing per plan. */
  readonly cells: readonly Markup[];
}

/** A busiest bar is marked where it exceeds the mean by more than this factor; below, the marking would be noise. */
const NOTABLE = 1.05;

type Draw = (figures: Figures, width: number) => Markup;

/** The three measures of a load, with what each one means. */
function measures(load: Load): Markup {
  const facts: [string, string][] = [
    ['busiest / mean (max / mean)', times(load.maxOverMean)],
    ['busiest above mean ((max − mean) / mean)', percent(load.excess)],
    ['mean of busiest (mean / max)', percent(load.meanOverMax)],
    ['busiest', rows(load.max)],
    ['mean', rows(load.mean)],
  ];
  return html`<dl class="measures">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function loadChart(load: Load, title: string, xTitle: string, max: number, width: number): Markup {
  const chart = barChart({
    title,
    values: load.rows,
    names: load.labels,
    ticks: load.ticks,
    xTitle,
    yTitle: 'rows received',
    format: rows,
    tick: count,
    note: (value) => (load.mean === 0 ? '' : `, ${times(value / load.mean)} the mean`),
    mean: load.mean,
    max,
    width,
    hasPeak: load.maxOverMean > NOTABLE,
  });
  return html`${chart}${measures(load)}`;
}

function spreadChart(values: readonly number[], what: 'rank' | 'node', max: number, width: number): Markup {
  const all = sum(values);
  const mean = all === 0 ? 0 : sum(values.map((n, i) => n * i)) / all;
  const chart = barChart({
    title: `Tokens by the number of ${what}s they reach`,
    values,
    names: values.map((_, n) => `${n} ${n === 1 ? what : `${what}s`}`),
    ticks: values.map((_, n) => String(n)),
    xTitle: `${what}s reached by a token`,
    yTitle: 'tokens',
    format: tokens,
    tick: count,
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
    tick: count,
    max,
    width,
  });
  return html`<h4>${what}</h4>${chart}<p class="figure-note"><strong>${count(lengths.segments)}</strong> segments hold ${rows(lengths.rows)}: ${mean.toFixed(2)} rows each on average, ${rows(lengths.longest)} at most.</p>`;
}

function groupChart({ summary }: Figures, max: number, width: number): Markup {
  const { forwarding } = summary;
  if (forwarding === undefined) {
    return html`<p class="empty">A flat plan has no communication groups: every row goes straight to its slot.</p>`;
  }
  const labels = forwarding.groupLoads.map((_, group) => {
    const members = forwarding.groups.flatMap((g, rank) => (g === group ? [rank] : []));
    const shown = members.length > 16 ? `${members.slice(0, 16).join(', ')}, …` : members.join(', ');
    return `group ${group} (ranks ${shown})`;
  });
  const total = sum(forwarding.groupLoads);
  const mean = total / forwarding.groupLoads.length;
  const chart = barChart({
    title: 'Rows that each communication group sends between nodes',
    values: forwarding.groupLoads,
    names: labels,
    ticks: labels.map((_, i) => String(i)),
    xTitle: 'communication group',
    yTitle: 'rows sent between nodes',
    format: rows,
    tick: count,
    mean,
    max,
    width,
    hasPeak: largest(forwarding.groupLoads) > NOTABLE * mean,
  });
  return html`${chart}<p class="figure-note">Grouped by rule <strong>${forwarding.rule}</strong>. ${rows(forwarding.forwardedRows)} cross between nodes, ${rows(forwarding.stagedRows)} of them wait in a staging buffer; ${formatBytes(forwarding.metadataBytes)} of metadata travel along.</p>`;
}

function offenderTable({ offenders }: Figures, width: number): Markup {
  if (offenders.length === 0) return html`<p class="empty">Nothing moves.</p>`;
  // Two tables side by side have no room for the last column.
  const columns = width === WIDE ? 5 : 4;
  const head = ['what', 'which', 'how much', 'of the mean', 'why it matters'];
  const body = offenders.map(({ what, who, amount, ratio, why }) => [what, who, amount, times(ratio), why]);
  return html`<div class="scroll">${table(
    head.slice(0, columns),
    body.map((cells) => cells.slice(0, columns)),
  )}</div>`;
}

/** The facts of a plan as pairs of a label and a value. */
export function planFacts({ summary }: Figures): [string, string][] {
  const entries = sum(summary.keptRows) + summary.maskedEntries + summary.droppedEntries;
  const span = (values: readonly number[]) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? count(low) : `${count(low)} to ${count(high)}`;
  };
  const facts: [string, string][] = [
    ['ranks', `${count(summary.ranks)}, ${summary.ranksPerNode} a node`],
    [
      'experts',
      `${count(summary.experts)}${summary.instances === summary.experts ? '' : ` in ${count(summary.instances)} instances`}, each token chooses ${summary.topk}`,
    ],
    [
      'one row',
      `${count(summary.hidden)} × ${summary.dtype} = ${formatBytes(summary.rowBytes)} (${count(summary.rowBytes)} bytes)`,
    ],
    ['strategy', `${summary.strategy}${summary.reason === '' ? '' : ` (auto: ${summary.reason})`}`],
    ['alignment', `expert blocks start at multiples of ${rows(summary.align)}`],
    ['capacity', summary.capacity === 0 ? 'no limit' : `${rows(summary.capacity)} per expert`],
    ['tokens', `${count(sum(summary.tokens))} in all, ${span(summary.tokens)} a rank`],
    [
      'entries',
      `${count(entries)}: ${count(sum(summary.keptRows))} routed, ${count(summary.maskedEntries)} masked, ${count(summary.droppedEntries)} dropped`,
    ],
    [
      'received',
      `${span(summary.recvRows)} rows a rank; ${count(summary.paddingRows)} rows in all are padding`,
    ],
    ['descriptors', `${count(summary.segments)} direct segments in ${count(summary.slices)} slices`],
  ];
  const { forwarding } = summary;
  if (forwarding !== undefined) {
    facts.push(['balancer', forwarding.rule], ['staging', `${span(forwarding.stageRows)} rows a rank`]);
  }
  return facts;
}

function factTable(figures: Figures): Markup {
  return html`<dl class="facts">${planFacts(figures).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const UNVERIFIED = html`<p class="empty">Not shown: this plan did not pass verification, so its entries cannot be trusted.</p>`;

/** The headline numbers of a plan. */
export function headline({ summary, totalBytes, experts, ranks, tokens: deep }: Figures): Markup {
  const prediction = deep?.prediction;
  const moved = totalBytes.intra + totalBytes.inter;
  const tiles: [string, string, string][] = [
    ['rows delivered', count(sum(summary.keptRows)), `${summary.copiesPerToken.flat.toFixed(2)} per token`],
    [
      'bytes sent',
      formatBytes(moved),
      summary.ranks > summary.ranksPerNode
        ? `${formatBytes(totalBytes.inter)} between nodes`
        : 'all of it within one node',
    ],
    [
      'busiest NIC',
      summary.busiestNicBytes === 0 ? 'idle' : formatBytes(summary.busiestNicBytes),
      'most sent or received by one rank',
    ],
    ['busiest rank', times(ranks.maxOverMean), `the mean; ${rows(ranks.max)}`],
    ['busiest expert', times(experts.maxOverMean), `the mean; ${rows(experts.max)}`],
  ];
  if (prediction !== undefined) {
    tiles.push([
      'predicted time',
      formatUs(prediction.dispatch.us + prediction.combine.us),
      `dispatch ${formatUs(prediction.dispatch.us)}, combine ${formatUs(prediction.combine.us)}`,
    ]);
  }
  return html`<dl class="tiles">${tiles.map(([name, value, note]) => html`<div><dt>${name}</dt><dd class="value">${value}</dd><dd class="note">${note}</dd></div>`)}</dl>`;
}

interface Spec {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly isWide: boolean;
  readonly draw: Draw;
}

/** Draws where the plan was verified, and says why not otherwise. */
function deep(draw: (figures: Required<Pick<Figures, 'tokens'>>, width: number) => Markup): Draw {
  return (figures, width) => {
    const { tokens: known } = figures;
    return known === undefined ? UNVERIFIED : draw({ tokens: known }, width);
  };
}

function timelineText(all: readonly Figures[]): string {
  const prediction = all.find(({ tokens: known }) => known !== undefined)?.tokens?.prediction;
  const machine =
    prediction === undefined
      ? ''
      : ` Rates a rank, from the machine ${prediction.machine}: NIC ${prediction.nicGBps} GB/s, NVLink ${prediction.nvlinkGBps} GB/s a direction, memory ${prediction.hbmGBps} GB/s.`;
  return `When the cost model expects each link to be busy. A stage ends when its slowest link is done; white space is waiting.${machine}`;
}

function specs(all: readonly Figures[]): Spec[] {
  const heat = largest(all.map((figures) => heatMax(figures.heat)));
  const most = (pick: (figures: Figures) => readonly number[]) =>
    largest(all.map((figures) => largest(pick(figures))));
  const expertMax = most(({ experts }) => experts.rows);
  const rankMax = most(({ ranks }) => ranks.rows);
  const spreadRanks = most(({ tokens: known }) => known?.spread.ranks ?? []);
  const spreadNodes = most(({ tokens: known }) => known?.spread.nodes ?? []);
  const lengths = most(({ tokens: known }) => [
    ...(known?.direct.bins ?? []),
    ...(known?.forwarded?.bins ?? []),
  ]);
  const groups = most(({ summary }) => summary.forwarding?.groupLoads ?? []);
  const timed = (part: 'dispatch' | 'combine') =>
    largest(all.map(({ tokens: known }) => known?.prediction[part].us ?? 0));
  const longestUs = Math.max(timed('dispatch'), timed('combine'));
  const cell = all[0]?.heat.ranksPerCell ?? 1;
  return [
    {
      id: 'offenders',
      title: 'What stands out',
      text: 'The largest of each kind, most unequal first. An exchange is as slow as its busiest part, so these are the places where a better balance pays.',
      isWide: true,
      draw: offenderTable,
    },
    {
      id: 'traffic',
      title: 'Traffic between ranks',
      text: `Payload bytes of one dispatch. Each row is a sender, each column a receiver${cell > 1 ? `, ${cell} ranks a cell` : ''}; squares outline the nodes. A dark column is a rank that everybody sends to. Combine moves the same bytes backwards.`,
      isWide: false,
      draw: (figures, width) => heatChart(figures.heat, heat, width),
    },
    {
      id: 'ranks',
      title: 'Load of each rank',
      text: 'Rows that arrive at each rank, all of its experts together, without padding. The busiest rank decides how long the experts take.',
      isWide: false,
      draw: ({ ranks }, width) => loadChart(ranks, 'Rows received by each rank', 'rank', rankMax, width),
    },
    {
      id: 'experts',
      title: 'Load of each expert',
      text: 'Rows that arrive at each expert, in the order in which they lie on their ranks.',
      isWide: true,
      draw: ({ experts }, width) =>
        loadChart(experts, 'Rows received by each expert', 'expert', expertMax, width),
    },
    {
      id: 'ranks-per-token',
      title: 'Ranks per token',
      text: 'On how many different ranks a token’s experts live. Fewer ranks than experts means that copies can be shared.',
      isWide: false,
      draw: deep((figures, width) => spreadChart(figures.tokens.spread.ranks, 'rank', spreadRanks, width)),
    },
    {
      id: 'nodes-per-token',
      title: 'Nodes per token',
      text: 'On how many different nodes they live. A hierarchical plan sends one copy to each other node, whatever the number of experts there.',
      isWide: false,
      draw: deep((figures, width) => spreadChart(figures.tokens.spread.nodes, 'node', spreadNodes, width)),
    },
    {
      id: 'dispatch',
      title: 'Predicted dispatch, link by link',
      text: timelineText(all),
      isWide: false,
      draw: deep((figures, width) =>
        ganttChart(
          'Predicted timeline of the dispatch',
          figures.tokens.prediction.dispatch,
          longestUs,
          width,
        ),
      ),
    },
    {
      id: 'combine',
      title: 'Predicted combine, link by link',
      text: 'The way back: every slot returns to its token, and the weighted rows are added up. Same scale as the dispatch.',
      isWide: false,
      draw: deep((figures, width) =>
        ganttChart('Predicted timeline of the combine', figures.tokens.prediction.combine, longestUs, width),
      ),
    },
    {
      id: 'segments',
      title: 'Segment lengths',
      text: 'A segment is a run of rows that lie next to each other both where they are read and where they are written. Longer segments need fewer descriptors.',
      isWide: false,
      draw: deep(
        ({ tokens: { direct, forwarded } }, width) =>
          html`${lengthChart(direct, 'rows sent directly', lengths, width)}${forwarded === undefined ? NOTHING : lengthChart(forwarded, 'rows sent to a forwarder', lengths, width)}`,
      ),
    },
    {
      id: 'groups',
      title: 'Load of the communication groups',
      text: 'In a hierarchical plan one rank of every node forms a group, and its members forward for each other. Equal bars mean equally busy NICs.',
      isWide: false,
      draw: (figures, width) => groupChart(figures, groups, width),
    },
    {
      id: 'facts',
      title: 'Facts of the plan',
      text: 'What was asked for and what came out.',
      isWide: true,
      draw: factTable,
    },
  ];
}

/** All panels of one plan, or of two on common scales. */
export function panelsOf(all: readonly Figures[]): Panel[] {
  return specs(all).map(({ id, title, text, isWide, draw }) => ({
    id,
    title,
    text,
    isWide,
    cells: all.map((figures) => draw(figures, isWide && all.length === 1 ? WIDE : NARROW)),
  }));
}

/** A panel as a section of the page; `names` stand over the drawings where there are several. */
export function panelMarkup({ id, title, text, isWide, cells }: Panel, names: readonly string[]): Markup {
  const drawn = cells.map((cell, i) =>
    cells.length === 1
      ? cell
      : html`<div class="side"><h3 class="side-name">${names[i] ?? ''}</h3>${cell}</div>`,
  );
  const size = isWide || cells.length > 1 ? 'panel wide' : 'panel';
  const body = cells.length > 1 ? html`<div class="sides">${drawn}</div>` : html`${drawn}`;
  return html`<section class="${size}" id="panel-${id}"><h2>${title}</h2><p class="lede">${text}</p>${body}</section>`;
}
