import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, runInTurn, runOverlapped } from '../../examples/overlap/engine.ts';
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

/** An engine that records when stages start and end; a stage ends when the test says so. */
function recordingEngine() {
  const log: string[] = [];
  const open = new Map<string, () => void>();
  const stage = (name: string) => (half: number) => {
    log.push(`${name} ${half}`);
    return new Promise<void>((resolve) => open.set(`${name} ${half}`, resolve));
  };
  const engine: Engine = {
    dispatch: stage('dispatch'),
    experts: stage('experts'),
    combine: stage('combine'),
    finish: async () => [],
    results: () => [],
    [Symbol.dispose]: () => {},
  };
  /** Ends a stage and returns the stages that start because of it. */
  const end = async (name: string) => {
    const before = log.length;
    open.get(name)!();
    await new Promise(setImmediate);
    return log.slice(before);
  };
  return { engine, log, end };
}

describe('the order of stages', () => {
  it('in turn: each stage starts when the one before has ended', async () => {
    const { engine, log, end } = recordingEngine();
    const run = runInTurn(engine);
    const order = ['dispatch 0', 'experts 0', 'combine 0', 'dispatch 1', 'experts 1', 'combine 1'];
    expect(log).toEqual(['dispatch 0']);
    for (const [i, name] of order.entries()) expect(await end(name)).toEqual(order.slice(i + 1, i + 2));
    await run;
  });

  it('overlapped: exchanges of one half start before the experts of the other half end', async () => {
    const { engine, log, end } = recordingEngine();
    const run = runOverlapped(engine);
    expect(log).toEqual(['dispatch 0', 'dispatch 1']);
    expect(await end('dispatch 0')).toEqual(['experts 0']);
    expect(await end('dispatch 1')).toEqual([]);
    expect(await end('experts 0')).toEqual(['combine 0', 'experts 1']);
    expect(await end('experts 1')).toEqual(['combine 1']);
    await end('combine 1');
    await end('combine 0');
    await run;
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
    pid: number;
  }

  it.skipIf(findAddon().addon === undefined)(
    'writes a trace of both orders, with the same results',
    async () => {
      const file = join(folder, 'trace.json');
      const { code, stdout, stderr } = await runExample('overlap', [
        '--backend',
        'host',
        '--tokens',
        '256',
        '--runs',
        '2',
        '--out',
        file,
      ]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(stdout).toContain('results are the same bits');
      const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: Event[] };
      const spans = traceEvents.filter(({ ph }) => ph === 'X');
      // Three stages of two halves, in either order.
      expect([1, 2].map((pid) => spans.filter((each) => each.pid === pid).length)).toEqual([6, 6]);
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
