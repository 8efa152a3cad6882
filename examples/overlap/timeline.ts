// A measured timeline: spans of the two halves of a batch on two tracks, drawn as text and written as Chrome trace JSON,
// which Perfetto (ui.perfetto.dev) and chrome://tracing open.

export const STAGES = ['dispatch', 'experts', 'combine'] as const;
export type Stage = (typeof STAGES)[number];

export interface Span {
  readonly stage: Stage;
  /** 0 or 1. */
  readonly half: number;
  /** Milliseconds since some moment that all spans of a run share. */
  readonly start: number;
  readonly end: number;
}

const COLUMNS = 60;
const HALVES = ['first half ', 'second half'];

/** Milliseconds from the start of the first span to the end of the last. */
export function lengthOf(spans: readonly Span[]): number {
  return Math.max(...spans.map(({ end }) => end)) - Math.min(...spans.map(({ start }) => start));
}

/** Milliseconds during which an exchange and the experts were both at work. Each of the two tracks does one at a time. */
export function overlapOf(spans: readonly Span[]): number {
  const experts = spans.filter(({ stage }) => stage === 'experts');
  const exchanges = spans.filter(({ stage }) => stage !== 'experts');
  let sum = 0;
  for (const a of experts) {
    for (const b of exchanges) sum += Math.max(0, Math.min(a.end, b.end) - Math.max(a.start, b.start));
  }
  return sum;
}

/** A line per span; `scale` is the milliseconds of the whole width. */
export function draw(spans: readonly Span[], scale: number): string {
  const origin = Math.min(...spans.map(({ start }) => start));
  const column = (time: number) => Math.round(((time - origin) / scale) * COLUMNS);
  const lines = STAGES.flatMap((stage) =>
    [0, 1].map((half) => {
      const span = spans.find((each) => each.stage === stage && each.half === half)!;
      const begin = column(span.start);
      const bar = ' '.repeat(begin) + '█'.repeat(Math.max(1, column(span.end) - begin));
      const times = `${(span.start - origin).toFixed(2).padStart(7)} to ${(span.end - origin).toFixed(2)}`;
      return `  ${stage.padEnd(8)} ${HALVES[half]} ${bar.padEnd(COLUMNS + 1)} ${times}`;
    }),
  );
  return lines.join('\n');
}

/** One process per run, a track for exchanges and one for the experts. */
export function traceOf(
  runs: Readonly<Record<string, readonly Span[]>>,
  otherData: Readonly<Record<string, string | number>>,
): unknown {
  const traceEvents = Object.entries(runs).flatMap(([name, spans], run) => {
    const pid = run + 1;
    const origin = Math.min(...spans.map(({ start }) => start));
    const tid = (stage: Stage) => 2 * pid + (stage === 'experts' ? 1 : 0);
    return [
      { ph: 'M', name: 'process_name', pid, tid: tid('dispatch'), args: { name } },
      { ph: 'M', name: 'thread_name', pid, tid: tid('dispatch'), args: { name: 'exchanges' } },
      { ph: 'M', name: 'thread_name', pid, tid: tid('experts'), args: { name: 'experts' } },
      ...spans.map(({ stage, half, start, end }) => ({
        ph: 'X',
        name: `${stage}, ${HALVES[half]!.trim()}`,
        pid,
        tid: tid(stage),
        ts: (start - origin) * 1000,
        dur: (end - start) * 1000,
        args: { half },
      })),
    ];
  });
  return { displayTimeUnit: 'ms', otherData, traceEvents };
}
