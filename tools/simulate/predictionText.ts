// Predictions as text: times, the bottleneck, and a timeline.

import { formatGrid, formatUs } from '../figures/format.ts';
import { bindingStage, RESOURCE_NAMES, strategyName } from './advice.ts';
import type { Comparison, Prediction } from './compare.ts';
import type { TimedExchange, TimedStage } from './model.ts';
import type { Cell, PaperResult } from './paper.ts';
import { LENGTHS, PATTERNS, SYSTEMS } from './published.ts';
import type { Topology } from './topology.ts';

/** Heading of everything that the model predicts. */
export const LABEL = 'model: predicted from a cost model, not measured';

/** Characters of the timeline's bars. */
const WIDTH = 28;

/** `NIC r3`: the resource and the rank. */
function boundText(stage: TimedStage): string {
  return stage.us === 0 ? 'nothing' : `${RESOURCE_NAMES[stage.resource]} r${stage.rank}`;
}

/** One line per strategy: dispatch, combine, total, and relative to unfused. An asterisk marks that of the plan. */
export function comparisonLines({ predictions, own, best }: Comparison): string {
  const base = predictions[0]!.us;
  const rows = predictions.map((prediction, i) => {
    const stage = bindingStage(prediction);
    return [
      `${strategyName(prediction)}${i === own ? ' *' : ''}${i === best ? ' (fastest)' : ''}`,
      formatUs(prediction.dispatch.us),
      formatUs(prediction.combine.us),
      formatUs(prediction.us),
      prediction.us === 0 ? '-' : `${(base / prediction.us).toFixed(2)}x`,
      boundText(stage),
    ];
  });
  return formatGrid([['strategy', 'dispatch', 'combine', 'total', 'speed-up', 'bound by'], ...rows]);
}

function bars(exchange: TimedExchange, scaleUs: number): string[][] {
  // Stages in which nothing moves are omitted.
  const busy = exchange.stages.filter(({ us }) => us > 0);
  return busy.map((stage) => {
    const from = Math.round((stage.startUs / scaleUs) * WIDTH);
    const to = Math.max(stage.us > 0 ? from + 1 : from, Math.round((stage.endUs / scaleUs) * WIDTH));
    // A stage that lasts much longer than its work waits for slices in between.
    const mark = stage.endUs - stage.startUs > 1.2 * stage.us ? '-' : '#';
    const bar = `|${' '.repeat(from)}${mark.repeat(to - from)}`.slice(0, WIDTH + 1).padEnd(WIDTH + 1);
    return [`  ${stage.name}`, bar, formatUs(stage.us), boundText(stage)];
  });
}

/** Stages over time, on one scale; an overlapping stage starts before the one above it ends. */
export function timelineLines(predictions: readonly Prediction[]): string {
  const spans = predictions.flatMap(({ dispatch, combine }) => [dispatch.us, combine.us]);
  const scaleUs = Math.max(...spans, Number.MIN_VALUE);
  const parts = predictions.flatMap((prediction) =>
    (['dispatch', 'combine'] as const).flatMap((name) => [
      [`${strategyName(prediction)}: ${name}`, '|'.padEnd(WIDTH + 1), formatUs(prediction[name].us), ''],
      ...bars(prediction[name], scaleUs),
    ]),
  );
  return formatGrid(parts);
}

/** The constants that a prediction used. */
export function constantLines({ constants }: Pick<Topology, 'constants'>): string {
  return formatGrid(Object.entries(constants).map(([name, value]) => [name, formatConstant(value)]));
}

function formatConstant(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

function percent(predicted: number, published: number): string {
  const error = Math.round((predicted / published - 1) * 100);
  return `${error > 0 ? '+' : ''}${error}%`;
}

function cellTexts({ predictedMs, publishedMs }: Cell): string[] {
  return [publishedMs.toFixed(1), predictedMs.toFixed(1), percent(predictedMs, publishedMs)];
}

function speedupTexts({ predictedSpeedup, publishedSpeedup }: Cell): string[] {
  return [
    publishedSpeedup.toFixed(2),
    predictedSpeedup.toFixed(2),
    percent(predictedSpeedup, publishedSpeedup),
  ];
}

/** The paper's tables, published next to predicted, and the error of each cell. */
export function paperLines({ cells }: PaperResult): string {
  const columns = (tokens: number, pattern: string) =>
    cells.filter((c) => c.tokens === tokens && c.pattern === pattern);
  const table = (what: string, systems: readonly string[], texts: (cell: Cell) => string[]) => {
    const rows = PATTERNS.flatMap((pattern) => [
      [pattern],
      ...LENGTHS.map((tokens) => {
        const row = columns(tokens, pattern).filter(({ system }) => systems.includes(system));
        return [`${tokens}${row[0]!.fitted ? '*' : ' '}`.padStart(8), ...row.flatMap(texts)];
      }),
    ]);
    const head = systems.flatMap((system) => [system.split(' ')[0]!, 'model', 'error']);
    return `${what}\n${formatGrid([['tokens', ...head], ...rows])}`;
  };
  return [
    table('ms of permutations, dispatch and combine', SYSTEMS, cellTexts),
    table('speed-up over NCCL', SYSTEMS.slice(1), speedupTexts),
  ].join('\n\n');
}
