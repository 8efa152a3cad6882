import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { draw, lengthOf, overlapOf, type Span } from '../../examples/overlap/timeline.ts';
import { findAddon } from '../../executor/native/addon.ts';
import { buildExamples, runExample } from './support.ts';

const span = (stage: Span['stage'], half: number, start: number, end: number): Span => ({
  stage,
  half,
  start,
  end,
});
/** Experts work from 2 to 6 and from 6 to 9; exchanges from 1 to 2, 2 to 4, 6 to 7 and 9 to 11. */
const SPANS = [
  span('dispatch', 0, 1, 2),
  span('dispatch', 1, 2, 4),
  span('experts', 0, 2, 6),
  span('experts', 1, 6, 9),
  span('combine', 0, 6, 7),
  span('combine', 1, 9, 11),
];

describe('a timeline', () => {
  it('is as long as from its first start to its last end, and knows when two things ran at once', () => {
    expect(lengthOf(SPANS)).toBe(10);
    expect(overlapOf(SPANS)).toBe(3);
  });

  it('is drawn to scale, a line per span', () => {
    const lines = draw(SPANS, 10).split('\n');
    const bars = lines.map((line) => [line.indexOf('█'), line.lastIndexOf('█') - line.indexOf('█') + 1]);
    const first = lines[0]!.indexOf('█');
    // 60 columns are 10 ms.
    expect(bars.map(([at, length]) => [at! - first, length])).toEqual([
      [0, 6],
      [6, 12],
      [6, 24],
      [30, 18],
      [30, 6],
      [48, 12],
    ]);
    expect(lines[3]).toMatch(/experts {2}second half .* 5\.00 to 8\.00$/);
  });
});

describe('the overlap example', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'fusco-overlap-'));
    buildExamples();
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  interface Event {
    ph: string;
    name: string;
    pid: number;
    tid: number;
    ts: number;
    dur: number;
  }

  /** Microseconds during which spans of the two tracks of a run both lasted. */
  function together(events: readonly Event[], pid: number): number {
    const spans = events.filter((event) => event.ph === 'X' && event.pid === pid);
    const [exchanges, experts] = [0, 1].map((odd) => spans.filter(({ tid }) => tid % 2 === odd));
    let sum = 0;
    for (const a of exchanges!) {
      for (const b of experts!) {
        sum += Math.max(0, Math.min(a.ts + a.dur, b.ts + b.dur) - Math.max(a.ts, b.ts));
      }
    }
    return sum;
  }

  it.skipIf(findAddon().addon === undefined)(
    'exchanges one half while the experts work on the other, with the same results',
    { retry: 2 },
    async () => {
      const file = join(folder, 'trace.json');
      const { code, stdout, stderr } = await runExample('overlap', [
        '--backend',
        'host',
        // Experts of tens of milliseconds: longer than a busy machine lets a thread wait for a processor.
        '--tokens',
        '4096',
        '--runs',
        '5',
        '--out',
        file,
      ]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(stdout).toContain('results are the same bits');
      const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: Event[] };
      expect(traceEvents.filter(({ ph }) => ph === 'X').length).toBe(12);
      // Clocks of two threads agree to far less than this.
      expect(together(traceEvents, 1)).toBeLessThan(100);
      expect(together(traceEvents, 2)).toBeGreaterThan(200);
    },
  );

  it('gives the same results on the reference, where everything runs on one thread', async () => {
    const { code, stdout } = await runExample('overlap', [
      '--backend',
      'reference',
      '--tokens',
      '32',
      '--runs',
      '1',
    ]);
    expect(code).toBe(0);
    expect(stdout).toContain('reference: 4 ranks, 2 halves of 16 tokens');
  });

  it('refuses what it cannot do', async () => {
    const { code, stderr } = await runExample('overlap', ['--tokens', 'many']);
    expect([code, stderr]).toEqual([2, 'error: --tokens many is not a whole number from 1 to 65536\n']);
  });
});
