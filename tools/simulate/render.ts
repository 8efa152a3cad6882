// Predictions as text: times, what binds, and a timeline.

import { formatGrid } from '../format.ts';
import type { Prediction } from './compare.ts';
import type { TimedExchange, TimedStage } from './model.ts';
import type { Cell, PaperResult } from './paper.ts';
import { LENGTHS, PATTERNS, SYSTEMS } from './published.ts';
import type { Topology } from './topology.ts';

/** Characters of the timeline's bars. */
const WIDTH = 40;

const RESOURCE_NAMES = {
  nic: 'NIC',
  nvlink: 'NVLink',
  hbm: 'memory',
  permute: 'permutation',
  none: 'nothing',
} as const;

export function resourceName(stage: Pick<TimedStage, 'resource'>): string {
  return RESOURCE_NAMES[stage.resource];
}

/** Microseconds in a unit that keeps three digits. */
export function formatUs(us: number): string {
  if (us < 1000) return `${us < 100 ? us.toPrecision(3) : us.toFixed(0)} us`;
  return us < 1e5 ? `${(us / 1e3).toPrecision(3)} ms` : `${(us / 1e3).toFixed(0)} ms`;
}

/** The longest stage of a prediction: what everybody waits for. */
export function bindingStage({ dispatch, combine }: Prediction): TimedStage {
  return [...dispatch.stages, ...combine.stages].reduce((worst, stage) =>
    stage.us > worst.us ? stage : worst,
  );
}

/** One line a strategy: dispatch, combine, total, and against unfused. */
export function comparisonLines(all: readonly Prediction[]): string {
  const base = all[0]!.us;
  const rows = all.map((prediction) => {
    const stage = bindingStage(prediction);
    return [
      prediction.name,
      formatUs(prediction.dispatch.us),
      formatUs(prediction.combine.us),
      formatUs(prediction.us),
      prediction.us === 0 ? '-' : `${(base / prediction.us).toFixed(2)}x`,
      stage.us === 0 ? 'nothing' : `${resourceName(stage)} of rank ${stage.rank}`,
    ];
  });
  return formatGrid([['strategy', 'dispatch', 'combine', 'total', 'speed-up', 'bound by'], ...rows]);
}

function bars(exchange: TimedExchange, scaleUs: number): string[][] {
  return exchange.stages.map((stage) => {
    const from = Math.round((stage.startUs / scaleUs) * WIDTH);
    const to = Math.max(stage.us > 0 ? from + 1 : from, Math.round((stage.endUs / scaleUs) * WIDTH));
    const bar = `|${' '.repeat(from)}${'#'.repeat(to - from)}`.padEnd(WIDTH + 1);
    return [
      `  ${stage.name}`,
      bar,
      formatUs(stage.us),
      stage.us === 0 ? 'nothing' : `${resourceName(stage)} r${stage.rank}`,
    ];
  });
}

/** Stages over time, both exchanges to one scale; an overlapping stage starts before the one above it ends. */
export function timelineLines(prediction: Prediction): string {
  const scaleUs = Math.max(prediction.dispatch.us, prediction.combine.us, Number.MIN_VALUE);
  const parts = (['dispatch', 'combine'] as const).flatMap((name) => [
    [name, '|'.padEnd(WIDTH + 1), formatUs(prediction[name].us), ''],
    ...bars(prediction[name], scaleUs),
  ]);
  return formatGrid(parts);
}

/** The constants that a prediction used. */
export function constantLines({ constants }: Pick<Topology, 'constants'>): string {
  return formatGrid(Object.entries(constants).map(([name, value]) => [name, formatConstant(value)]));
}

export function formatConstant(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

function percent(predicted: number, published: number): string {
  const error = Math.round((predicted / published - 1) * 100);
  return `${error > 0 ? '+' : ''}${error} %`;
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

/** The paper's tables, published beside predicted, and the error of each cell. */
export function paperLines({ cells }: PaperResult): string {
  const columns = (tokens: number, pattern: string) =>
    cells.filter((c) => c.tokens === tokens && c.pattern === pattern);
  const table = (what: string, systems: readonly string[], texts: (cell: Cell) => string[]) => {
    const rows = PATTERNS.flatMap((pattern) =>
      LENGTHS.map((tokens) => {
        const row = columns(tokens, pattern).filter(({ system }) => systems.includes(system));
        return [pattern, String(tokens), row[0]!.fitted ? 'fitted' : 'predicted', ...row.flatMap(texts)];
      }),
    );
    const head = systems.flatMap((system) => [system, 'model', 'error']);
    return `${what}\n${formatGrid([['traffic', 'tokens', 'column', ...head], ...rows])}`;
  };
  return [
    table('ms of permutations, dispatch and combine', SYSTEMS, cellTexts),
    table('speed-up over NCCL', SYSTEMS.slice(1), speedupTexts),
  ].join('\n\n');
}
