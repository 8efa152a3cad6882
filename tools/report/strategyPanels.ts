// Predictions of the cost model for a routing: the strategies, the experts, and the memory of each rank.

import { formatBytes, percent, times } from '../figures/format.ts';
import type { Figures } from '../figures/planFigures.ts';
import type { Measured, Strategies, StrategyRow } from '../figures/strategyRows.ts';
import { barChart } from './charts/bars.ts';
import { formatUs } from './charts/gantt.ts';
import { html, type Markup, NOTHING, pairList, table } from './markup.ts';

function bytesText(bytes: number): string {
  return bytes === 0 ? '0' : formatBytes(bytes);
}

/** A run of the plan, shown below its prediction: times, and their ratio to the model. */
function measuredRow({ backend, dispatchUs, combineUs }: Measured, predicted: StrategyRow): string[] {
  const us = dispatchUs + combineUs;
  const ratio = predicted.us === 0 ? '' : `${times(us / predicted.us)} the model`;
  return [
    `measured, ${backend} backend`,
    ...[formatUs(dispatchUs), formatUs(combineUs), formatUs(us), '', ratio, ''],
  ];
}

/** Whether the memory of the fullest rank fits the machine. */
function roomText({ memory, memoryGB }: Strategies): string {
  return `${memory.total <= memoryGB * 1e9 ? 'fits' : 'does not fit'} ${memoryGB} GB`;
}

/** Bytes of each rank; the fullest rank decides whether the plan fits. */
export function memoryChart({ strategies }: Figures, maxBytes: number, width: number): Markup {
  if (strategies === undefined) return NOTHING;
  const { rankBytes, memoryGB, memory } = strategies;
  // Powers of ten, as in the data sheets of GPUs.
  const [unit, size] = maxBytes < 1e9 ? ['MB', 1e6] : ['GB', 1e9];
  const chart = barChart({
    title: 'Memory of each rank',
    values: rankBytes.map((bytes) => bytes / size),
    names: rankBytes.map((_, rank) => `rank ${rank}`),
    ticks: rankBytes.map((_, rank) => String(rank)),
    xTitle: 'rank',
    yTitle: unit,
    format: (value) => `${value.toFixed(2)} ${unit}`,
    note: (value) => `, ${percent((value * size) / (memoryGB * 1e9))} of ${memoryGB} GB`,
    max: maxBytes / size,
    width,
    hasPeak: memory.total > memoryGB * 1e9,
  });
  const what =
    memory.weights === 0
      ? 'Buffers of one layer; the sizes of the experts are not known.'
      : 'Weights of the experts of all layers, and buffers of one layer.';
  return html`${chart}<p class="figure-note">Rank <strong>${memory.rank}</strong> needs the most, which ${roomText(strategies)}. ${what}</p>`;
}

/** The strategies for this routing, the experts, the memory, and what would help. */
export function strategyTable({ strategies }: Figures): Markup {
  if (strategies === undefined) return html`<p class="empty">Not predicted.</p>`;
  const { rows: found, advice, memory, machine, experts, measured } = strategies;
  const body = found.flatMap((row) => {
    const predicted = [
      `${row.name}${row.isOwn ? ' (this plan)' : ''}${row.isBest ? ' – fastest' : ''}`,
      formatUs(row.dispatchUs),
      formatUs(row.combineUs),
      formatUs(row.us),
      times(row.speedUp),
      row.bound,
      row.options,
    ];
    return row.isOwn && measured !== undefined ? [predicted, measuredRow(measured, row)] : [predicted];
  });
  const head = ['strategy', 'dispatch', 'combine', 'both', 'of unfused', 'bound by', 'options of fusco plan'];
  const own = found.find(({ isOwn }) => isOwn)!;
  const facts: [string, string][] = [
    ['machine', machine],
    ...(experts === undefined
      ? []
      : ([
          [`experts of ${experts.model}`, `${formatUs(experts.us)} (rank ${experts.rank})`],
          ['experts, if all ranks had equal rows', formatUs(experts.evenUs)],
          ['layer forward, nothing overlapped', formatUs(own.us + experts.us)],
        ] satisfies [string, string][])),
    [`memory of rank ${memory.rank}`, `${formatBytes(memory.total)}: ${roomText(strategies)}`],
    ['weights of all its experts and layers', bytesText(memory.weights)],
    ['buffers and activations', bytesText(memory.total - memory.weights)],
  ];
  return html`<p class="advice">${advice}</p><div class="scroll">${table(head, body)}</div>${pairList('facts', facts)}<p class="figure-note">A model, not a measurement. Memory is without attention, caches and optimizer${memory.weights === 0 ? ', and without the experts, whose sizes are not known' : ''}.</p>`;
}
